"""Codes a model layer by layer, and each layer input by input. The statistics of an input are those of the model as it
is coded so far.

So a matrix also compensates the errors of those before it, as far as it can (the order of GPTQ and VPTQ)."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

import torch
from torch import Tensor

from mobile_bundle.calibrate.calibration import Calibration
from mobile_bundle.calibrate.decoder import PROJECTIONS, STAGES, fast_product
from mobile_bundle.calibrate.device import for_codecs, ready
from mobile_bundle.calibrate.head import Head
from mobile_bundle.calibrate.measured import Measured
from mobile_bundle.calibrate.profile import Profile
from mobile_bundle.calibrate.threads import give_memory_back, one_thread_each
from mobile_bundle.calibrate.walk import (
    Floats,
    Walk,
    layer_tensors,
    layers_in_turn,
    moved,
    read_matrix,
    tensor_named,
)
from mobile_bundle.codecs import Blob, Stats, StreamCodec, codec_for
from mobile_bundle.codecs.matrices import Matrix
from mobile_bundle.codecs.shared_codebook import TrainedCodebook
from mobile_bundle.models import DecoderSpec, TensorSpec
from mobile_bundle.pipeline.parts import TensorRecord
from mobile_bundle.pipeline.pool import PartPool, Progress
from mobile_bundle.pipeline.shared_codebooks import train_shared
from mobile_bundle.planning.sharing import shared_name


def write_calibrated(
    pool: PartPool,
    spec: DecoderSpec,
    assignment: Mapping[str, StreamCodec],
    path: Path,
    calibration: Calibration,
    progress: Progress | None = None,
) -> tuple[list[TensorRecord], Measured]:
    """As write_weights, with statistics for the codecs that use them (`calibrated`). Workers code the projections that
    read one input side by side. Measured: the coded model on the windows that were held out."""
    device = torch.device(calibration.device)
    with one_thread_each(device), ready(device):
        return _write(pool, spec, assignment, path, calibration, device, progress)


def _write(
    pool: PartPool,
    spec: DecoderSpec,
    assignment: Mapping[str, StreamCodec],
    path: Path,
    calibration: Calibration,
    device: torch.device,
    progress: Progress | None,
) -> tuple[list[TensorRecord], Measured]:
    model = pool.model
    pool.check_space((tensor, assignment[tensor.name]) for tensor in model.tensors)
    work = _Work(pool, assignment, calibration.profile, progress)
    outside = [tensor for tensor in model.tensors if tensor.layer < 0]
    for tensor in sorted(outside, key=lambda tensor: -tensor.rows):
        hessian = {
            "embedding": calibration.profile.embedding_hessian,
            "output": calibration.profile.output_hessian,
        }.get(tensor.role)
        work.submit(tensor, None if hessian is None else for_codecs(torch.from_numpy(hessian).to(device)))
    embedding = tensor_named(model, "embedding.weight")

    def walks(values: Floats) -> list[Walk]:
        fast = fast_product(device)
        return [
            Walk(model, calibration.windows, values, fast, device),
            Walk(model, calibration.held_out, values, device=device),
        ]

    walk, held_out = walks(work.decoded(embedding))
    reference, held_out_reference = walks(read_matrix(model, embedding))
    coded: dict[str, Tensor] = {}  # the layer before
    groups: dict[str, int | None] = {}
    for layer, read in layers_in_turn(model, range(spec.layers), device):
        give_memory_back()
        weights = moved(read, device)
        original = dict(weights)
        tensors = layer_tensors(model, layer)
        for tensor in tensors.values():
            if tensor.role != "body":
                work.submit(tensor)
        for stage, hessian, drift in walk.stages(weights, reference):
            readers = [name for name in tensors if PROJECTIONS.get(name.removesuffix(".weight")) == stage]
            for name in readers:
                work.submit(tensors[name], hessian, drift)
            # Workers are busy; what was held out moves on meanwhile.
            if stage == STAGES[0] and coded:
                held_out.advance(coded, groups)
            elif stage == STAGES[-2]:
                held_out_reference.advance(original)
            for name in readers:
                weights[name] = torch.from_numpy(work.decoded(tensors[name])).to(device)
        coded, groups = weights, _int8_groups(tensors, assignment)
    held_out.advance(coded, groups)
    del walk, reference
    head = embedding if spec.tied else tensor_named(model, "output.weight")
    own = Head.of(model, work.decoded(head), device, assignment[head.name].activation_group)
    measured = own.measure(held_out, Head.of(model, read_matrix(model, head), device), held_out_reference)
    extras = work.codebook_blobs()
    return pool.assemble(path, spec.to_config_bytes(), model.tensors, extras, work.records()), measured


def _int8_groups(tensors: Mapping[str, TensorSpec], assignment: Mapping[str, StreamCodec]) -> dict[str, int | None]:
    """`activation_group` of a layer's inputs, by entrance of PROJECTIONS; the widest where their readers differ."""
    found: dict[str, int | None] = {}
    for name, tensor in tensors.items():
        entrance, group = PROJECTIONS.get(name.removesuffix(".weight")), assignment[tensor.name].activation_group
        if entrance is not None:
            found[entrance] = group if group is None else max(group, found.get(entrance) or 0)
    return found


class _Work:
    """Tensors under way."""

    def __init__(
        self, pool: PartPool, assignment: Mapping[str, StreamCodec], profile: Profile, progress: Progress | None
    ) -> None:
        self._pool, self._assignment, self._profile, self._progress = pool, assignment, profile, progress
        self._shared = train_shared(pool.model, assignment, profile)
        self._futures: dict[str, Future[TensorRecord]] = {}
        self._total = sum(tensor.rows * tensor.columns for tensor in pool.model.tensors)
        self._done: dict[str, int] = {}

    def submit(self, tensor: TensorSpec, hessian: Matrix | None = None, drift: Matrix | None = None) -> None:
        codec = self._assignment[tensor.name]
        stats = None
        if codec.calibrated and tensor.role != "vector":
            shared = self._codebook(tensor)
            stats = Stats(
                hessian,
                self._profile.matrices[tensor.name].row_weights,
                shared.codes if shared else None,
                shared.step if shared else None,
                drift,
            )
        self._futures[tensor.name] = self._pool.submit(tensor, codec, stats)

    def decoded(self, tensor: TensorSpec) -> Floats:
        """The tensor as the bundle has it, float32 (rows, columns); waits until it is coded."""
        self._futures[tensor.name].result()
        self._done[tensor.name] = tensor.rows * tensor.columns
        if self._progress:
            self._progress(sum(self._done.values()), self._total, tensor.name)
        blob = self._pool.blob(tensor)
        codec, shared = codec_for(blob.header), self._codebook(tensor)
        return (codec.reading(shared.codes) if shared else codec).decode(blob)

    def codebook_blobs(self) -> dict[str, Blob]:
        """The codebooks that matrices share, as they are stored, by name."""
        return {
            name: Blob(codebook.header, trained.codes.tobytes()) for name, (codebook, trained) in self._shared.items()
        }

    def records(self) -> dict[str, TensorRecord]:
        records = {name: future.result() for name, future in self._futures.items()}
        if self._progress:
            self._progress(self._total, self._total, "")
        return records

    def _codebook(self, tensor: TensorSpec) -> TrainedCodebook | None:
        codebook = self._assignment[tensor.name].shared_codebook
        return self._shared[shared_name(tensor.name, codebook)][1] if codebook else None
