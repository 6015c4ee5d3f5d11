"""What a device is: what the probe found out, as it stands in a report."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cluster:
    """Processors that share a clock. max_khz: the highest it can have."""

    processors: list[int]
    max_khz: int


@dataclass(frozen=True)
class DeviceInfo:
    """Sizes are bytes, temperatures degrees Celsius. None: the device does not tell.

    abis: Android's names, best first. features: of the processor, as /proc/cpuinfo spells them. system: "Android 13" or
    the distribution's name. low_ram, lmk: what the low-memory killer was configured with. tools: which of the programs
    that a harness may use are there. free_bytes: in the work folder."""

    serial: str
    model: str
    system: str
    android: str | None
    emulator: bool
    kernel: str
    machine: str
    abis: list[str]
    root: bool
    processor: str
    features: list[str]
    cores: int
    clusters: list[Cluster]
    page_bytes: int
    memory_bytes: int
    available_bytes: int
    swap_bytes: int
    zram_bytes: int
    free_bytes: int
    low_ram: bool | None
    lmk: dict[str, str] = field(default_factory=dict)
    thermal_zones: dict[str, float] = field(default_factory=dict)
    tools: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """What a reader of its figures must know. A stand-in of the lab has its own."""
        if self.emulator:
            return f"an emulator ({self.system}): its speed is not a phone's"
        if self.android is None:
            return f"{self.system} on {self.machine}, not Android"
        return f"{self.model}, {self.system}"
