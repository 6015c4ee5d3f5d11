"""The keys behind "ARCHITECTURE." in a GGUF's metadata."""

from __future__ import annotations

from mobile_bundle.models.gguf.metadata import Metadata


class Values:
    """Typed access; what is missing or makes no sense is a one-line error that names the key."""

    def __init__(self, metadata: Metadata, architecture: str) -> None:
        self._metadata, self._prefix = metadata, architecture + "."
        self.error = metadata.error

    def whole(self, key: str, default: int | None = None) -> int:
        """At least 1; a value per layer counts if it is the same in every layer."""
        values = self._metadata.listed(self._prefix + key)
        if not values and default is not None:
            return default
        if not values:
            raise self.error(f"its metadata has no {self._prefix}{key}")
        if len(set(values)) > 1:
            raise self.error(f"{self._prefix}{key} differs between layers, which is not supported")
        if not 1 <= values[0] <= 1 << 28:
            raise self.error(f"{self._prefix}{key} is {values[0]}, not a whole number from 1 to {1 << 28}")
        return values[0]

    def wholes(self, key: str, layers: int) -> list[int]:
        """A value of at least 0 for every layer."""
        values = self._metadata.listed(self._prefix + key) or []
        values = values * layers if len(values) == 1 else values
        if len(values) != layers or min(values) < 0:
            raise self.error(f"{self._prefix}{key} is not a list of a number from 0 on for each of {layers} layers")
        return values

    def flags(self, key: str, layers: int) -> list[bool] | None:
        """True or false for every layer; None if the key is missing."""
        values = self._metadata.flags(self._prefix + key)
        if values is not None and len(values) != layers:
            raise self.error(f"{self._prefix}{key} has {len(values)} values for {layers} layers")
        return values

    def flag(self, key: str, default: bool) -> bool:
        return self._metadata.flag(self._prefix + key, default)

    def number(self, key: str, default: float | None = None) -> float:
        value = self._metadata.number(self._prefix + key)
        if value is None and default is None:
            raise self.error(f"its metadata has no {self._prefix}{key}")
        return value if value is not None else float(default or 0.0)

    def text(self, key: str) -> str | None:
        return self._metadata.text(self._prefix + key)

    def has(self, key: str) -> bool:
        return self._metadata.number(self._prefix + key) is not None
