"""The stage before all others, where a text says which tokens are needed: a checkpoint with those alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from mobile_bundle.corpus.text import DEFAULT_TEXT, read_text
from mobile_bundle.files.disk import disk_errors
from mobile_bundle.files.work_folder import WorkFolder
from mobile_bundle.models import TensorSpec
from mobile_bundle.models.repository import model_name
from mobile_bundle.pipeline.parts import TensorRecord
from mobile_bundle.pipeline.request import BuildRequest
from mobile_bundle.vocabulary import Reduction, smaller_checkpoint

SAMPLE = 100_000
"""Characters of the shipped text in which tokens per word are counted."""


@contextmanager
def with_vocabulary(request: BuildRequest) -> Iterator[tuple[BuildRequest, Reduction | None]]:
    """The request with the smaller checkpoint as its model, if it asks for one. The checkpoint lies beside the output
    and is gone at the end. UserError as smaller_checkpoint's."""
    if not request.vocabulary:
        yield request, None
        return
    with disk_errors(request.output, 0):
        work = WorkFolder(request.output.absolute().parent, f"{request.output.name}.vocabulary", 0o700)
    with work:
        folder = work.path / (model_name(request.model).replace("/", "-") or "model")
        sample = read_text(DEFAULT_TEXT)[:SAMPLE]
        texts = [*request.vocabulary, *([request.system_prompt] if request.system_prompt else [])]
        reduction = smaller_checkpoint(request.model, texts, sample, folder)
        yield replace(request, model=folder), reduction


def note_saved(reduction: Reduction, tensors: Sequence[TensorSpec], records: Sequence[TensorRecord]) -> str:
    """What the smaller vocabulary saves, by the bytes that a row of embedding and head takes in the bundle."""
    stored = {record.name: record.bytes for record in records}
    rows = [stored[tensor.name] / tensor.rows for tensor in tensors if tensor.role in ("embedding", "output")]
    return reduction.note(sum(rows))
