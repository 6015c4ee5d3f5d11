"""What a report says. These classes are its JSON: `to_json` writes them, `RESULTS.md` and `--reuse` read it back.

Sizes are bytes; errors are ||W - W'||**2 / ||W||**2; an infinite or undefined perplexity is null."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from mobile_bundle.errors import InputError, printable
from mobile_bundle.files.inputs import read_json
from mobile_bundle.report.errors import TensorError
from mobile_bundle.report.pareto import PointSet

REPORT_VERSION = 2


@dataclass(frozen=True)
class Protocol:
    """What perplexity is measured on: `windows` windows of `context` tokens, `tokens` of them scored.

    text: the file's name; text_sha256: of its text; ids_sha256: of the token ids, so that bundles whose tokenizers
    disagree are never compared; kv: type of the KV cache; command: what measured it, as typed; machine: where."""

    text: str
    text_sha256: str
    ids_sha256: str
    context: int
    windows: int
    tokens: int
    kv: str
    command: str
    machine: str
    kernels: str


@dataclass(frozen=True)
class Original:
    """The checkpoint itself. sha256: of its configuration and weights; perplexity: stored as `raw`, by the engine."""

    name: str
    architecture: str
    parameters: int
    layers: int
    bytes: int
    sha256: str
    perplexity: float | None


@dataclass(frozen=True)
class TensorReport:
    """recorded_error: the manifest's. squared_weight, squared_error: sums of w**2 and (w - w')**2 by reading the
    checkpoint and decoding the bundle, here and now; null for a tensor that the checkpoint does not have (a shared
    codebook), squared_error also where there is no decoder for the format in Python."""

    name: str
    part: str
    layer: int | None
    codec: str
    format: str
    rows: int
    columns: int
    bytes: int
    bits_per_weight: float
    recorded_error: float
    squared_weight: float | None
    squared_error: float | None

    @property
    def measured(self) -> TensorError | None:
        """What was measured of it; None if the checkpoint does not have it."""
        return None if self.squared_weight is None else TensorError(self.squared_weight, self.squared_error)

    @property
    def error(self) -> float:
        """The relative error: exact, or the manifest's where it could not be measured."""
        exact = self.measured.relative_error if self.measured is not None else None
        return self.recorded_error if exact is None else exact

    @property
    def undecoded(self) -> bool:
        """Whether `error` is only what the manifest records, although the checkpoint has the tensor."""
        return self.squared_weight is not None and self.squared_error is None

    @property
    def disagrees(self) -> bool:
        """Whether the manifest records another error than decoding finds (float32 sums differ by less)."""
        return abs(self.error - self.recorded_error) > 1e-9 + 1e-3 * max(self.error, self.recorded_error)


@dataclass(frozen=True)
class Closeness:
    """How close a bundle's distributions are to the original's. kl: mean KL(original || bundle), nats per token;
    kl_99: its 99th percentile; agreement: share of tokens at which both hold the same token for the best; kl_error,
    agreement_error: standard errors over the tokens."""

    kl: float
    kl_error: float
    kl_99: float
    agreement: float
    agreement_error: float


@dataclass(frozen=True)
class BundleReport:
    """One bundle.

    model_bytes: weights.ptd and tokenizer.bin, what is compared with others' files; installed_bytes: of weights.cache
    beside them, 0 where nothing has to be decoded; bundle_bytes: every file, manifest included, the cache not.
    split: bundle_bytes by part. bits_per_weight, relative_error: of "all", "body" (projections) and "embedding" (with
    the output head); errors are over matrices, vectors are exact. layers: error of each layer's projections.
    predicted: the manifest's, at its context. closeness: null where it
    is not finite. pareto: no other bundle of the report is as small and as good."""

    name: str
    recipe: str
    sha256: str
    model_bytes: int
    installed_bytes: int
    bundle_bytes: int
    split: dict[str, int]
    bits_per_weight: dict[str, float]
    relative_error: dict[str, float]
    perplexity: float | None
    closeness: Closeness | None
    predicted: dict[str, int]
    min_device_ram_gb: int
    layers: list[float]
    tensors: list[TensorReport]
    pareto: bool = False

    def errors(self) -> dict[str, TensorError]:
        """What was measured of each tensor that the checkpoint has, by name."""
        return {tensor.name: tensor.measured for tensor in self.tensors if tensor.measured is not None}


@dataclass(frozen=True)
class Report:
    """What `mobile-bundle report` found out. bundles: smallest first."""

    tool_version: str
    protocol: Protocol
    original: Original
    bundles: list[BundleReport]
    others: PointSet | None
    report_version: int = REPORT_VERSION

    def smallest_within(self, ratio: float) -> BundleReport | None:
        """The smallest bundle of at most `ratio` times the original's perplexity."""
        limit = ratio * (self.original.perplexity or 0.0)
        return next((b for b in self.bundles if b.perplexity is not None and b.perplexity <= limit), None)

    def to_json(self) -> str:
        """The JSON document."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_report(path: Path) -> Report:
    """A report from its JSON. UserError if the file is not one, or one of another version."""
    try:
        data = read_json(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(data, dict) or data.get("report_version") != REPORT_VERSION:
        raise InputError(f"{path} is not a report of version {REPORT_VERSION}", "make it again")
    try:
        report = _record(Report, data)
    except TypeError as error:
        raise InputError(f"{path} is damaged ({error})", "make the report again") from error
    figures = [report.original.perplexity, *(bundle.perplexity for bundle in report.bundles)]
    sums = [value for b in report.bundles for t in b.tensors for value in (t.squared_weight, t.squared_error)]
    if any(figure is not None and figure < 1 for figure in figures) or any(
        value is not None and value < 0 for value in sums
    ):
        raise InputError(f"{path} is damaged (a perplexity below 1, or a square below 0)", "make the report again")
    return report


_Record = TypeVar("_Record")


def _record(kind: type[_Record], data: Any) -> _Record:
    """A dataclass from its JSON, every type checked; members with a default may be missing: reports from before there
    were such. TypeError names the member that is not as it should be."""
    names = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    needed = {entry.name for entry in fields(kind) if entry.default is MISSING}  # type: ignore[arg-type]
    if not isinstance(data, dict) or not needed <= set(data) <= names:
        raise TypeError(f"the members of a {kind.__name__} are others")
    hints = get_type_hints(kind)
    return kind(**{name: _checked(hints[name], value, name) for name, value in data.items()})


def _checked(hint: Any, value: Any, name: str) -> Any:
    """The value as a member of that type."""
    kind, inner = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return _record(hint, value)  # type: ignore[arg-type]
    if kind is list and isinstance(value, list):
        return [_checked(inner[0], item, name) for item in value]
    if kind is dict and isinstance(value, dict):
        return {key: _checked(inner[1], item, name) for key, item in value.items()}
    if kind is UnionType:
        return None if value is None else _checked(inner[0], value, name)
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint in (str, int, bool) and type(value) is hint:
        return printable(value) if isinstance(value, str) else value
    raise TypeError(f"{name} is {repr(value)[:40]}")
