"use strict";
// Sorts a table by the column whose heading is pressed; cells carry their plain value in data-value.
for (const button of document.querySelectorAll("button.sort")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const table = heading.closest("table");
    const column = heading.cellIndex;
    const descending = heading.getAttribute("aria-sort") === "ascending";
    for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const value = (row) => row.cells[column].dataset.value;
    const order = (a, b) => {
      const [x, y] = [value(a), value(b)];
      const bigger = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return descending ? -bigger : bigger;
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(order));
  });
}
