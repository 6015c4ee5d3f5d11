"""Exact sizes of a bundle that is not built yet, for the planner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mobile_bundle.codecs import StreamCodec
from mobile_bundle.container import PlannedTensor
from mobile_bundle.container.weights import WeightsLayout
from mobile_bundle.models import DecoderSpec, TensorSpec
from mobile_bundle.planning.assignment import plan_weights
from mobile_bundle.planning.budget import Measure, Plan, Sizes
from mobile_bundle.planning.memory import mapped_weights, predict_memory
from mobile_bundle.planning.sharing import codebook_headers, kind_of

_MANIFEST_BYTES = 6 << 10
_MANIFEST_TENSOR_BYTES = 330
"""manifest.json is never larger than this and so much per tensor (what is written is checked)."""


def manifest_bound(tensors: int) -> int:
    """Bytes that the manifest of so many tensors takes at most, notes and licence aside."""
    return _MANIFEST_BYTES + tensors * _MANIFEST_TENSOR_BYTES


def sizes_of(
    spec: DecoderSpec,
    tensors: Sequence[TensorSpec],
    tokenizer_bytes: int,
    runners: Mapping[str, Path],
    others: Mapping[str, int],
) -> Measure:
    """The function that the planner asks. runners: {abi: path}; the largest counts, a phone stores one of them.
    others: bytes of other files that a phone stores: other runtimes' programs (export.formats.program_bytes), a
    state."""
    runner = max((path.stat().st_size for path in runners.values()), default=0)
    config = spec.to_config_bytes()

    def measure(assignment: Mapping[str, StreamCodec]) -> Sizes:
        planned = plan_weights(tensors, assignment)
        codebooks = codebook_headers(tensors, assignment)
        planned += [PlannedTensor("vectors", name, header) for name, header in codebooks.items()]
        weights = WeightsLayout(planned).file_bytes
        mapped = mapped_weights({tensor.name: tensor.header for tensor in planned}, weights)
        stored = {
            "weights.ptd": weights,
            "tokenizer.bin": tokenizer_bytes,
            "manifest.json": manifest_bound(len(planned)),
            **others,
        }
        if runner:
            stored["mobile-run"] = runner
        return Sizes(stored, predict_memory(config, mapped.touched, tokenizer_bytes).peak_bytes)

    return measure


def plan_table(plan: Plan, tensors: Sequence[TensorSpec]) -> list[str]:
    """The plan for a person: one line per kind of tensor and codec, in the order of a layer and by falling bits, then
    the prediction."""
    rows: dict[tuple[str, str], list[float]] = {}
    for tensor in tensors:
        if tensor.role == "vector":
            continue
        codec = plan.assignment[tensor.name]
        kind = "layers.*." + kind_of(tensor.name) if tensor.layer >= 0 else tensor.name
        row = rows.setdefault((kind, codec.name), [0, 0, 0, 0])
        row[0] += 1
        row[1] += tensor.rows * tensor.columns
        row[2] += codec.blob_bytes(tensor.rows, tensor.columns)
        row[3] += plan.losses.get(tensor.name, 0.0)
    lines = [f"{'tensors':<34} {'codec':<22} {'count':>5} {'MB':>9} {'bits':>6} {'loss':>8}"]
    kinds = list(dict.fromkeys(kind for kind, _ in rows))
    order = sorted(rows, key=lambda row: (kinds.index(row[0]), -rows[row][2] / rows[row][1], row[1]))
    for kind, codec_name in order:
        count, weights, size, loss = rows[kind, codec_name]
        lines.append(
            f"{kind:<34} {codec_name:<22} {count:>5.0f} {size / 1e6:>9.2f} {8 * size / weights:>6.2f} {loss:>8.4f}"
        )
    stored = " + ".join(f"{name} {size / 1e6:,.2f}" for name, size in plan.sizes.stored.items())
    lines.append(f"stored on a phone, one ABI: {plan.sizes.total / 1e6:,.2f} MB = {stored}")
    lines.append(f"predicted peak memory: {plan.sizes.peak / 1e6:,.1f} MB")
    lines.append(f"decoding: {plan.speed:.2f} of the speed of affine-4bit, by the time of its products alone")
    lines.append(
        f"predicted loss: +{plan.loss:.4f} nats per token, perplexity on the calibration text {plan.perplexity:.3f} "
        "(the sum over the matrices, int8 inputs included; the whole is measured at the end and may lose more)"
    )
    return lines
