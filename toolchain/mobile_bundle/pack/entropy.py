"""A bundle's weights, entropy-coded: what a build by the recipe NAME+entropy would have written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mobile_bundle.codecs.blob import Blob, BlobHeader
from mobile_bundle.codecs.declaration import rules_of
from mobile_bundle.codecs.entropy import compress
from mobile_bundle.container.index import IndexEntry
from mobile_bundle.container.weights import PlannedTensor, WeightsReader, WeightsWriter
from mobile_bundle.processors import default_jobs

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class _Coded:
    entry: IndexEntry
    header: BlobHeader
    offset: int  # in the spool file


def write_entropy_coded(weights: Path, target: Path, progress: Progress) -> dict[str, BlobHeader]:
    """Writes `target`, in which every matrix of `weights` that gets smaller by it is entropy-coded. Returns the headers
    of those. The coded blobs lie in a file beside `target` meanwhile: their sizes decide where everything goes."""
    spool_path = target.with_name(f"{target.name}.spool")
    with WeightsReader(weights) as reader, open(spool_path, "w+b") as spool:
        spool_path.unlink()
        entries = sorted(reader.entries, key=lambda entry: entry.offset)
        coded, done, total = [], 0, sum(entry.bytes for entry in entries)
        for entry, blob in _coded_blobs(reader, entries):
            coded.append(_Coded(entry, blob.header, spool.tell()))
            spool.write(blob.to_bytes())
            done += entry.bytes
            progress(done, total, entry.name)
        planned = [PlannedTensor(_segment_of(each.entry), each.entry.name, each.header) for each in coded]
        with WeightsWriter(target, reader.config, planned) as writer:
            for each in coded:
                spool.seek(each.offset)
                out = writer.blob(each.entry.name)
                out.write(spool.read(each.header.blob_bytes))
                out.close()
            writer.finish()
    return {each.entry.name: each.header for each in coded if each.header.format is not each.entry.header.format}


def _coded_blobs(reader: WeightsReader, entries: list[IndexEntry]) -> Iterator[tuple[IndexEntry, Blob]]:
    """The blobs in the order of the entries, coded by as many threads as this process has processors (coders release
    the interpreter's lock), a few ahead of the one that is taken, so that memory stays small."""
    workers = default_jobs()
    waiting: deque[tuple[IndexEntry, Future[Blob]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for entry in entries:
            if len(waiting) > workers:
                first, future = waiting.popleft()
                yield first, future.result()
            waiting.append((entry, pool.submit(_code, reader, entry)))
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()


def _code(reader: WeightsReader, entry: IndexEntry) -> Blob:
    blob = reader.blob(entry.name)
    rules = rules_of(entry.header.format)
    if not rules.matrix or rules.stored:
        return blob
    coded = compress(blob).blob
    return coded if coded.header.blob_bytes < blob.header.blob_bytes else blob


def _segment_of(entry: IndexEntry) -> str:
    """The segment of weights.ptd in which the builder puts the tensor."""
    if not rules_of(entry.header.format).matrix:
        return "vectors"
    kind, _, rest = entry.name.partition(".")
    return f"layers.{rest.partition('.')[0]}" if kind == "layers" else kind
