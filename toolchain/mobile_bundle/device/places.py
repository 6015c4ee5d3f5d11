"""Where things lie on the device."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_WORK = "/data/local/tmp/mobile-bundle"
"""The one place where adb's shell may write and run programs on every Android."""


@dataclass(frozen=True)
class Places:
    """Absolute paths below the work folder. bundle: keyed by the bundle's name, so that several can stay."""

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
