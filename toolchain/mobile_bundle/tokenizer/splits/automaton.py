"""An expression's tree to a deterministic automaton that finds the match a backtracking search finds first.

Thompson's construction with ordered alternatives, and the subset construction over lists instead of sets: a state is
the ordered list of places where a backtracking search could be, the preferred one first, and whatever stands behind a
place that matches is dropped (R. Cox, "Regular Expression Matching: the Virtual Machine Approach", 2009, and RE2's
leftmost-first automata). A step sees the class of the next character before it decides, so that look-aheads of one
character cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import UnsupportedError
from mobile_bundle.tokenizer.splits.expression import Ahead, Characters, Choice, Node, Repeat, Sequence

NONE, START, MATCH_ENDS, NOT_WAITING = 0, 1, 0x8000, 0xFF
MAX_STATES, MAX_WAITING = 4096, 16
_MOST_PLACES = 20_000


@dataclass(frozen=True)
class Automaton:
    """next: uint16[states, classes + 1], the last column for the end of the text; waiting: uint8[states]. As in
    tokenizer_format.h."""

    next: NDArray[np.uint16]
    waiting: NDArray[np.uint8]


@dataclass
class _Program:
    """Places of the search. consumes[p]: per class whether the place takes a character of it; goes_on[p]: per class
    whether it passes without one; both None: a choice. after[p]: where it leads, the preferred first; none: a match."""

    consumes: list[NDArray[np.bool_] | None] = field(default_factory=list)
    goes_on: list[NDArray[np.bool_] | None] = field(default_factory=list)
    after: list[list[int]] = field(default_factory=list)

    def add(
        self,
        after: list[int],
        consumes: NDArray[np.bool_] | None = None,
        goes_on: NDArray[np.bool_] | None = None,
    ) -> int:
        """The number of a new place."""
        if len(self.after) >= _MOST_PLACES:
            raise _too_large()
        self.consumes.append(consumes)
        self.goes_on.append(goes_on)
        self.after.append(after)
        return len(self.after) - 1


def _too_large() -> UnsupportedError:
    return UnsupportedError("tokenizer.json: an expression that splits words becomes too large a table")


def build(node: Node, classes: int, of_set: dict[str, NDArray[np.bool_]]) -> Automaton:
    """The automaton of a tree. classes: how many classes of characters there are; of_set: by a set's source, bool per
    class. Raises UnsupportedError where it would be too large, match nothing, or take quadratic time."""
    program = _Program()
    start = _place(node, program.add([]), program, classes, of_set)
    rows, numbers = _states(program, start, classes)
    if any(entry & MATCH_ENDS for entry in rows[START]):
        raise UnsupportedError("tokenizer.json: an expression that splits words matches the empty text")
    table = np.array(rows, np.uint16)
    return Automaton(table, _waiting(table, len(numbers) + 1))


def _place(node: Node, after: int, program: _Program, classes: int, of_set: dict[str, NDArray[np.bool_]]) -> int:
    """Where a search for the node begins that goes on at `after`."""

    def place(inner: Node, target: int) -> int:
        return _place(inner, target, program, classes, of_set)

    match node:
        case Characters(source):
            return program.add([after], consumes=np.append(of_set[source], False))
        case Ahead(source, negated, at_end):
            return program.add([after], goes_on=np.append(of_set[source] != negated, at_end))
        case Sequence(nodes):
            for inner in reversed(nodes):
                after = place(inner, after)
            return after
        case Choice(nodes):
            return program.add([place(inner, after) for inner in nodes])
        case Repeat(inner, least, most, lazy):
            if most is None:
                loop = program.add([])
                begin = place(inner, loop)
                program.after[loop] = [after, begin] if lazy else [begin, after]
                first = loop
            else:
                first = after
                for _ in range(most - least):
                    begin = place(inner, first)
                    first = program.add([after, begin] if lazy else [begin, after])
            for _ in range(least):
                first = place(inner, first)
            return first


def _follow(program: _Program, places: tuple[int, ...], column: int) -> tuple[tuple[int, ...], bool]:
    """(the places behind a character of the column's class, whether a match ends before it)."""
    seen: set[int] = set()
    reached: dict[int, None] = {}
    stack = list(reversed(places))
    while stack:
        at = stack.pop()
        if at in seen:
            continue
        seen.add(at)
        consumes, goes_on, after = program.consumes[at], program.goes_on[at], program.after[at]
        if not after:
            return tuple(reached), True
        if consumes is not None:
            if consumes[column]:
                reached[after[0]] = None
        elif goes_on is None or goes_on[column]:
            stack += reversed(after)
    return tuple(reached), False


def _states(program: _Program, start: int, classes: int) -> tuple[list[list[int]], dict[tuple[int, ...], int]]:
    numbers: dict[tuple[int, ...], int] = {(start,): START}
    waiting: list[tuple[int, ...]] = [(start,)]
    rows: list[list[int]] = [[NONE] * (classes + 1)]
    for places in waiting:
        row = []
        for column in range(classes + 1):
            following, matched = _follow(program, places, column)
            number = NONE
            if following and column < classes:
                if following not in numbers:
                    if len(numbers) + 1 >= MAX_STATES:
                        raise _too_large()
                    numbers[following] = len(numbers) + 1
                    waiting.append(following)
                number = numbers[following]
            row.append(number | MATCH_ENDS * matched)
        rows.append(row)
    return rows, numbers


def _waiting(table: NDArray[np.uint16], states: int) -> NDArray[np.uint8]:
    """Numbers the states that lead to themselves without the end of a match.

    Longer circles without one would be walked again from every place: a text could take quadratic time."""
    edges: list[set[int]] = [
        {int(entry) for entry in table[state] if not entry & MATCH_ENDS and entry != NONE} for state in range(states)
    ]
    waiting = np.full(states, NOT_WAITING, np.uint8)
    loops = [state for state in range(1, states) if state in edges[state]]
    if len(loops) > MAX_WAITING or _has_circle([targets - {state} for state, targets in enumerate(edges)]):
        raise UnsupportedError(
            "tokenizer.json: an expression that splits words looks ahead over repeated groups, which could take a "
            "time that grows with the square of a text"
        )
    waiting[loops] = range(len(loops))
    return waiting


def _has_circle(edges: list[set[int]]) -> bool:
    """Whether a directed graph has a circle (Kahn's algorithm)."""
    coming = [0] * len(edges)
    for targets in edges:
        for target in targets:
            coming[target] += 1
    free = [state for state, count in enumerate(coming) if count == 0]
    done = 0
    while free:
        done += 1
        for target in edges[free.pop()]:
            coming[target] -= 1
            if coming[target] == 0:
                free.append(target)
    return done < len(edges)
