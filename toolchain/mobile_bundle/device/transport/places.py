"""Where things lie on the device."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

DEFAULT_WORK = "/data/local/tmp/mobile-bundle"
"""The one place where adb's shell may write and run programs on every Android."""


_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@-]{0,99}")


def folder_name(name: str) -> str:
    """What a bundle of that name is called on the device: its own name where it is plain.

    Any other becomes what is plain of it and a digest, which keeps bundles apart: white space, quotes, backslashes,
    line ends and bytes that are no text mean something to a shell, to adb or to sha256sum's output."""
    if _PLAIN.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return re.sub(r"[^A-Za-z0-9_.+=@-]", "", name).lstrip("-.")[:60] + f"_{digest}"


@dataclass(frozen=True)
class Places:
    """Absolute paths below the work folder. bundle_name: folder_name of the bundle, so that several can
    stay."""

    work: str
    abi: str
    bundle_name: str

    @property
    def bundle(self) -> str:
        return f"{self.work}/bundles/{self.bundle_name}"

    @property
    def watch(self) -> str:
        return f"{self.tools}/mobile-watch"

    @property
    def tools(self) -> str:
        """Programs that are not a bundle's own."""
        return f"{self.work}/bin/{self.abi}"

    @property
    def prompt(self) -> str:
        """The text that fills the context."""
        return f"{self.work}/prompts/{self.bundle_name}.txt"

    @property
    def state(self) -> str:
        """What one process saves and the next one takes up."""
        return f"{self.work}/prompts/{self.bundle_name}.state"
