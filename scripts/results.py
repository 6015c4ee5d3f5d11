"""Builds, measures and writes docs/RESULTS.md: `python scripts/results.py`, from the root of the project.

What is measured is benchmarks/results.json. Bundles are in build/results/MODEL/NAME.mbundle; those that are there
already are taken as they are, the others are built. Figures that an earlier run measured of the same bytes are kept, so
it can be killed and started again. A bundle that cannot be built is named in the page, and the status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from mobile_bundle.errors import UserError
from mobile_bundle.report.results import ModelResults, results_markdown
from mobile_bundle.report.schema import Report, read_report

LIST = Path("benchmarks/results.json")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", type=Path, default=LIST, help=f"what is measured (default {LIST})")
    parser.add_argument("--folder", type=Path, default=Path("build/results"), help="where bundles and reports are")
    parser.add_argument("--output", type=Path, default=Path("docs/RESULTS.md"))
    parser.add_argument("--no-build", action="store_true", help="take only the bundles that are there")
    options = parser.parse_args()
    subjects = []
    for wanted in json.loads(options.list.read_text("utf-8"))["subjects"]:
        folder = options.folder / Path(wanted["model"]).name
        folder.mkdir(parents=True, exist_ok=True)
        missing = {} if options.no_build else build_missing(wanted, folder)
        report = measure(wanted, folder)
        known = {name: arguments for name, arguments in wanted["bundles"].items() if name not in missing}
        subjects.append(ModelResults(report, wanted["model"], wanted["text"], known, missing))
    partial = options.output.with_name(f".{options.output.name}.partial")
    partial.write_text(results_markdown(subjects, "python scripts/results.py"), "utf-8")
    os.replace(partial, options.output)
    print(f"{options.output} is written")
    return 1 if any(subject.missing for subject in subjects) else 0


def build_missing(wanted: dict, folder: Path) -> dict[str, str]:
    """Builds what is not there. {name: the tool's last line} of those that could not be built."""
    missing = {}
    for name, arguments in wanted["bundles"].items():
        out = folder / f"{name}.mbundle"
        if (out / "manifest.json").exists():
            continue
        print(f"building {out}", flush=True)
        command = [sys.executable, "-m", "mobile_bundle.cli.build", wanted["model"], "-o", str(out)]
        process = subprocess.run([*command, *shlex.split(arguments)], stderr=subprocess.PIPE, text=True)
        if process.returncode:
            missing[name] = (process.stderr.strip().splitlines() or ["no reason given"])[-1]
            print(f"not built: {name}: {missing[name]}", file=sys.stderr, flush=True)
    return missing


def measure(wanted: dict, folder: Path) -> Report:
    """The report of every bundle in the folder."""
    bundles = sorted(path.parent for path in folder.glob("*.mbundle/manifest.json"))
    if not bundles:
        raise UserError(f"{folder} has no bundles: run without --no-build")
    data = folder / "report.json"
    command = [sys.executable, "-m", "mobile_bundle.cli.main", "report", *map(str, bundles)]
    command += ["--against", wanted["model"], "--text", wanted["text"], "-o", str(folder / "report.html")]
    command += ["--context", str(wanted["context"]), "--windows", str(wanted["windows"])]
    command += ["--points", wanted["points"]] if "points" in wanted else []
    command += ["--reuse", str(data)] if data.exists() else []
    if subprocess.run(command).returncode:
        raise UserError(f"{folder}: the report could not be made (see above)")
    return read_report(data)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"results.py: {error}")
