"""Metadata of a GGUF file with checks: a value of another type is a one-line error that names its key."""

from __future__ import annotations

from typing import Any

from mobile_bundle.errors import InputError, UserError
from mobile_bundle.models.gguf.container import GgufFile


class Metadata:
    """Typed access. None, or the default, where a key is missing."""

    def __init__(self, file: GgufFile) -> None:
        self._path, self._values = file.path, file.metadata

    def text(self, key: str) -> str | None:
        value: str | None = self._typed(key, str, "a text")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value: bool | None = self._typed(key, bool, "true or false")
        return default if value is None else value

    def whole(self, key: str) -> int | None:
        value: int | None = self._typed(key, int, "a whole number")
        return value

    def number(self, key: str) -> float | None:
        value = self._values.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise self._wrong(key, "a number")
        return None if value is None else float(value)

    def texts(self, key: str) -> list[str] | None:
        values: list[bytes] | None = self._list(key, bytes, "a list of texts")
        try:
            return None if values is None else [value.decode("utf-8") for value in values]
        except UnicodeDecodeError:
            raise self.error(f"{key} in its metadata holds text that is not UTF-8") from None

    def wholes(self, key: str) -> list[int] | None:
        values: list[int] | None = self._list(key, int, "a list of whole numbers")
        return values

    def flags(self, key: str) -> list[bool] | None:
        values: list[bool] | None = self._list(key, bool, "a list of true and false")
        return values

    def numbers(self, key: str) -> list[float] | None:
        values: list[float] | None = self._list(key, float, "a list of numbers")
        return values

    def listed(self, key: str) -> list[int] | None:
        """A whole number, or one per layer, as a list."""
        return self.wholes(key) if isinstance(self._values.get(key), list) else _one(self.whole(key))

    def error(self, what: str) -> UserError:
        """An error about this file."""
        return InputError(f"{self._path}: {what}")

    def _typed(self, key: str, kind: type, name: str) -> Any:
        value = self._values.get(key)
        if value is not None and type(value) is not kind:
            raise self._wrong(key, name)
        return value

    def _list(self, key: str, kind: type, name: str) -> Any:
        value = self._values.get(key)
        if value is not None and not (isinstance(value, list) and all(type(each) is kind for each in value)):
            raise self._wrong(key, name)
        return value

    def _wrong(self, key: str, name: str) -> UserError:
        shown = repr(self._values[key])
        return self.error(f"{key} in its metadata is {shown[:60]}, not {name}")


def _one(value: int | None) -> list[int] | None:
    return None if value is None else [value]
