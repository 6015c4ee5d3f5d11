"""A bundle's manifest, typed. container/manifest.schema.json says what a manifest.json has to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from mobile_bundle.calibrate.measured import Measured
from mobile_bundle.planning.memory import PredictedMemory

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


@dataclass(frozen=True)
class ModelShape:
    """The model in the bundle. parameters: a tied head counts once; context: positions that it was trained for;
    default_context: what a session gets that asks for none; sliding_window: 0 for none; bos: None for none."""

    name: str
    architecture: str
    parameters: int
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    context: int
    default_context: int
    sliding_window: int
    tied: bool
    bos: int | None
    eos: tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """A tensor in the bundle. bytes: of its blob, header included; relative_error: ||W - W'||**2 / ||W||**2."""

    name: str
    codec: str
    format: str
    rows: int
    columns: int
    bytes: int
    bits_per_weight: float
    relative_error: float


@dataclass(frozen=True)
class File:
    """A file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What manifest.json says. bytes: of all files but the manifest; bits_per_weight: of all weight blobs; predicted:
    memory with the context of predicted.context full; min_device_ram_gb: the smallest phone whose free half holds it;
    generation: the sampling values that the checkpoint recommends; chat_template: whether there is one; chat_thinking:
    whether it can switch thinking; chat_options: its arguments that the build fixed; licence: as the model card names
    it; notes: what a person should know; measured: by a calibrated build, of itself; runtimes: version of the package
    that made the program of each runtime."""

    format_version: int
    tool_version: str
    model: ModelShape
    recipe: str
    tensors: tuple[Tensor, ...]
    bytes: int
    bits_per_weight: float
    files: Mapping[str, File]
    predicted: PredictedMemory
    min_device_ram_gb: int
    generation: Mapping[str, Any]
    chat_template: bool
    chat_thinking: bool
    chat_options: Mapping[str, Any]
    licence: str | None
    notes: tuple[str, ...]
    runtimes: Mapping[str, str]
    measured: Measured | None

    @staticmethod
    def parse(manifest: Mapping[str, Any]) -> Manifest:
        """manifest: as read_manifest gives it, which has checked it."""
        typed = {
            "model": _typed(ModelShape, manifest["model"] | {"eos": tuple(manifest["model"]["eos"])}),
            "tensors": tuple(_typed(Tensor, tensor) for tensor in manifest["tensors"]),
            "files": {name: _typed(File, file) for name, file in manifest["files"].items()},
            "predicted": _typed(PredictedMemory, manifest["predicted"]),
            "chat_thinking": manifest.get("chat_thinking", False),
            "chat_options": manifest.get("chat_options", {}),
            "notes": tuple(manifest["notes"]),
            "measured": _typed(Measured, manifest["measured"]) if "measured" in manifest else None,
            "runtimes": {name: program["version"] for name, program in manifest.get("runtimes", {}).items()},
        }
        return _typed(Manifest, {**manifest, **typed})


def _typed(kind: type[T], values: Mapping[str, Any]) -> T:
    """The dataclass, without members that it does not have: a newer tool may have written them."""
    return kind(**{field.name: values[field.name] for field in fields(kind) if field.name in values})
