"""Kills builds, reports, packs and installs at random moments and looks at what is left. Some half an hour:

    PYTHONPATH=tests python -m support.kill_harness --builds 140 --reports 20 --packs 40 --installs 200

After every kill (SIGKILL) a name must hold nothing, what it held before, or the whole result; what else lies there
must be what the documentation names. The same command is then run again, and killed again, until one run ends by
itself: it must give the very bytes of a run that nobody disturbed, and leave nothing else. test_kills.py runs a
short form."""

from __future__ import annotations

import argparse
import hashlib
import lzma
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mobile_bundle.corpus.text import DEFAULT_TEXT
from mobile_bundle.native.programs import runner_paths
from mobile_bundle.report.schema import read_report
from support.paths import EXAMPLE

BUILD = (sys.executable, "-m", "mobile_bundle.cli.build")
TOOL = (sys.executable, "-m", "mobile_bundle.cli.main")
UNFINISHED = re.compile(r"\.(out\.\w+(\.zip)?|weights\.cache|mobile-bundle)\.partial-[\w-]+|out\.mbundle\.parts")
BUILDS = ("raw", "recipe", "processes", "planned", "calibrated")


class Broken(AssertionError):
    """A kill left what it must not leave, or changed the result."""


@dataclass
class Case:
    """A command that writes `outputs`, names in its folder. old: results that half of the runs begin with, to be
    replaced. again: more arguments for going on."""

    name: str
    command: list[str]
    outputs: list[str]
    old: dict[str, Path] = field(default_factory=dict)
    again: list[str] = field(default_factory=list)


class Harness:
    """Everything happens in `work`, temporary files of the commands included. counts: kills, those of them that came
    after a command had begun to write, and whole results."""

    def __init__(self, work: Path, seed: int) -> None:
        self.work, self.random = work, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.temporary = work / "tmp"
        self.temporary.mkdir()
        self.text = work / "text.txt"
        default = DEFAULT_TEXT
        self.text.write_bytes(lzma.decompress(default.read_bytes())[:12_000].rpartition(b"\n")[0])
        one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.environment = {**os.environ, **one, "TMPDIR": str(self.temporary)}

    def builds(self, kills: int, kinds: tuple[str, ...] = BUILDS) -> None:
        """So many kills, spread over the kinds."""
        old = self.work / "old.mbundle"
        self._finish([*BUILD, str(EXAMPLE), "-o", str(old), "--recipe", "bitnet"])
        for number, kind in enumerate(kinds):
            arguments = {
                "raw": ["--recipe", "raw", "--jobs", "1"],
                "recipe": ["--recipe", "affine-3bit+entropy", "--jobs", "1"],
                "processes": ["--recipe", "affine-4bit", "--jobs", "2"],
                "planned": ["--max-size", "4MB", "--calibration", str(self.text), "--jobs", "1"],
                "calibrated": ["--recipe", "vptq-2bit", "--calibration", str(self.text), "--jobs", "1"],
            }[kind]
            command = [*BUILD, str(EXAMPLE), "-o", "out.mbundle", *arguments]
            share = kills // len(kinds) + (number < kills % len(kinds))
            self._kill_often(Case(f"build {kind}", command, ["out.mbundle"], {"out.mbundle": old}), share)

    def packs(self, kills: int) -> None:
        """Of a bundle whose weights get smaller by entropy coding."""
        command = [*TOOL, "pack", str(self._bundle("affine-4bit")), "-o", "out.mbundle.zip"]
        self._kill_often(Case("pack", command, ["out.mbundle.zip"]), kills)

    def reports(self, kills: int) -> None:
        """Of two bundles. An interrupted one goes on with its own JSON."""
        bundles = [str(self._bundle(recipe)) for recipe in ("affine-4bit", "bitnet")]
        command = [*TOOL, "report", *bundles, "--against", str(EXAMPLE), "--text", str(self.text), "-o", "out.html"]
        command += ["--context", "256", "--windows", "8", "--threads", "1"]
        case = Case("report", command, ["out.html", "out.json"], again=["--reuse", "out.json"])
        self._kill_often(case, kills)

    def installs(self, kills: int) -> None:
        """By the runner, into a folder of its own."""
        bundle = self._bundle("affine-4bit+entropy")
        command = [str(runner_paths()["x86_64"]), "install", str(bundle), "--cache", "."]
        self._kill_often(Case("install", command, ["weights.cache"]), kills)

    def _kill_often(self, case: Case, kills: int) -> None:
        if kills == 0:
            return
        folder = self.work / "place"
        folder.mkdir()
        begin = time.monotonic()
        self._finish(case.command, folder)
        seconds = time.monotonic() - begin
        whole = {name: tree(folder / name) for name in case.outputs}
        done = 0
        while done < kills:
            shutil.rmtree(folder)
            folder.mkdir()
            old = {name: path for name, path in case.old.items() if self.random.random() < 0.5}
            for name, path in old.items():
                shutil.copytree(path, folder / name)
            before = {name: tree(path) for name, path in old.items()}
            done += self._until_done(case, folder, seconds, whole, before, kills - done)
        shutil.rmtree(folder)

    def _until_done(
        self, case: Case, folder: Path, seconds: float, whole: dict[str, object], before: dict[str, object], most: int
    ) -> int:
        """Runs and kills until a run ends by itself, or `most` were killed: then one is left in peace. The kills."""
        kills = 0
        while True:
            command = [*case.command, *(case.again if (folder / "out.json").exists() else ())]
            limit = self.random.uniform(0.0, 1.1) * seconds if kills < most else None
            if not self._run_and_kill(command, folder, limit):
                break
            kills += 1
            self.counts[case.name] += 1
            there = [path.name for place in (folder, self.temporary) for path in place.iterdir()]
            self.counts[f"{case.name}, at work"] += any(UNFINISHED.fullmatch(name) for name in there)
            self._check(case, folder, whole, before)
        found = {path.name: tree(path) for path in folder.iterdir()}
        if found != whole:
            differing = sorted(name for name in found.keys() | whole.keys() if found.get(name) != whole.get(name))
            raise Broken(
                f"{case.name}, whole after {kills} kills: {', '.join(differing)} differ or should not be there"
            )
        self.counts[f"{case.name}, whole"] += 1
        print(dict(self.counts), file=sys.stderr, flush=True)
        return kills

    def _check(self, case: Case, folder: Path, whole: dict[str, object], before: dict[str, object]) -> None:
        """What a kill may leave."""
        for path in folder.iterdir():
            name = path.name
            if name in case.outputs:
                if name == "out.json":  # it grows with every figure
                    read_report(path)
                elif tree(path) not in (whole[name], before.get(name)):
                    raise Broken(f"{case.name}: {name} is neither what it was nor the result")
            elif not UNFINISHED.fullmatch(name):
                raise Broken(f"{case.name}: {name} was left")
        for name in before:
            if not (folder / name).exists():
                raise Broken(f"{case.name}: the old {name} is gone")
        for path in self.temporary.iterdir():
            if not UNFINISHED.fullmatch(path.name):
                raise Broken(f"{case.name}: {path.name} was left among the temporary files")

    def _run_and_kill(self, command: list[str], folder: Path, limit: float | None) -> bool:
        """Whether it was killed after so many seconds; otherwise it has ended, with status 0."""
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                stdin=subprocess.DEVNULL,
            )
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                process.kill()
            if process.wait() == -9:
                return True
            errors.seek(0)
            if process.returncode:
                raise Broken(f"{command}: status {process.returncode}: {errors.read()[-500:].decode()}")
            return False

    def _finish(self, command: list[str], folder: Path | None = None) -> None:
        self._run_and_kill(command, folder or self.work, None)

    def _bundle(self, recipe: str) -> Path:
        out = self.work / f"{recipe}.mbundle"
        if not out.exists():
            self._finish([*BUILD, str(EXAMPLE), "-o", str(out), "--recipe", recipe])
        return out

    def check_scratch(self) -> None:
        """After a run of the last kind ended by itself nothing of the killed ones is left among temporary files."""
        if left := [path.name for path in self.temporary.iterdir()]:
            raise Broken(f"{', '.join(left)} stayed among the temporary files")


def tree(path: Path) -> object:
    """Names, modes and digests of all files; equal for equal trees."""

    def facts(path: Path) -> Iterator[tuple[str, int, str]]:
        for file in sorted([path, *path.rglob("*")] if path.is_dir() else [path]):
            if file.is_file():
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                yield file.relative_to(path.parent).as_posix().partition("/")[2], file.stat().st_mode, digest

    return list(facts(path))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for what in ("builds", "packs", "installs", "reports"):
        parser.add_argument(f"--{what}", type=int, default=0, metavar="KILLS")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as work:
        harness = Harness(Path(work), options.seed)
        try:
            for what in ("builds", "packs", "installs", "reports"):
                getattr(harness, what)(getattr(options, what))
            harness.check_scratch()
            print(dict(harness.counts))
        except Broken as error:
            print(f"kill_harness.py: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
