"""Packages of a Debian release other than the machine's own, or of another architecture, fetched by its apt.

Everything that apt reads and writes lies in a private folder; only the address of the archive is the machine's."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mobile_bundle.errors import DeviceError, InstallationError
from mobile_bundle.lab.requirements import run

_SUITE = "trixie"  # the first with an adbd that needs neither Android's properties nor its init

_CONFIGURATION = """
#clear APT::Architectures;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Default-Release "";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::Cache "{folder}/cache";
Dir::Etc::SourceList "{folder}/sources.list";
Dir::Etc::SourceParts "{folder}/none";
Dir::Etc::Preferences "{folder}/none/preferences";
Dir::Etc::PreferencesParts "{folder}/none";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
"""


def _archive() -> str:
    """The address that the machine's own apt takes Debian's main component from."""
    fields = "$(ORIGIN) $(LABEL) $(REPO_URI)"
    command = ["apt-get", "indextargets", "--format", fields, "Created-By: Packages", "Component: main"]
    for line in run(command, "apt's sources cannot be read").splitlines():
        origin, label, address = line.split(maxsplit=2)
        if (origin, label) == ("Debian", "Debian"):
            return address
    raise DeviceError("the lab takes its system from Debian's archive, which this machine's apt does not know")


def _keyring() -> str:
    """Debian's keys, by which its archive is checked."""
    files = run(["dpkg", "-L", "debian-archive-keyring"], "the lab needs the package debian-archive-keyring")
    for line in files.splitlines():
        if re.search(r"/debian-archive-keyring\.(gpg|pgp)$", line):
            return line
    raise InstallationError("the package debian-archive-keyring has no keyring in it", "install it again")


class Archive:
    """Debian's archive for one architecture ("amd64", "arm64"), with a private apt in `folder`."""

    def __init__(self, folder: Path, architecture: str) -> None:
        self._packages = folder / "cache" / "archives"
        for name in ("cache/archives/partial", "state/lists/partial", "none"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text(f"deb [signed-by={_keyring()}] {_archive()} {_SUITE} main\n")
        configuration = folder / "apt.conf"
        configuration.write_text(_CONFIGURATION.format(folder=folder, architecture=architecture))
        self._environment = {**os.environ, "APT_CONFIG": str(configuration), "LC_ALL": "C"}
        self._run("apt-get", "-qq", "update")

    def _run(self, *command: str) -> str:
        # In the folder of packages, because that is where `download` puts them.
        return run(list(command), f"Debian's {_SUITE} cannot be fetched", self._environment, self._packages)

    def with_dependencies(self, *names: str) -> list[Path]:
        """The packages and everything that they need, as .deb files."""
        self._run("apt-get", "-qq", "install", "-y", "--download-only", *names)
        return sorted(self._packages.glob("*.deb"))

    def kernel(self, metapackage: str) -> Path:
        """The kernel that a metapackage stands for, as one .deb file without what it would need when installed."""
        match = re.search(r"^\s*Depends: (\S+)$", self._run("apt-cache", "depends", metapackage), re.MULTILINE)
        if not match:
            raise DeviceError(f"Debian's {_SUITE} has no package {metapackage}")
        self._run("apt-get", "-qq", "download", match[1])
        return next(self._packages.glob(f"{match[1]}_*.deb"))
