"""Screenshots of a report for docs/screenshots, by headless Chromium: report_screenshots.py REPORT.html [FOLDER]."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.browser import Browser  # noqa: E402


def main() -> int:
    if not 2 <= len(sys.argv) <= 3 or not Path(sys.argv[1]).is_file():
        print(__doc__, file=sys.stderr)
        return 2
    page = Path(sys.argv[1])
    folder = Path(sys.argv[2]) if len(sys.argv) == 3 else ROOT / "docs/screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, Browser(Path(profile)) as browser:
        for name, width, height, scheme in (
            ("report-light", 1040, 1330, "light"),
            ("report-dark", 1040, 1330, "dark"),
            ("report-phone", 360, 760, "light"),
        ):
            browser.open(page, width, height, scheme)
            (folder / f"{name}.png").write_bytes(browser.screenshot())
            print(folder / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
