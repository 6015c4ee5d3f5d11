"""Tensors coded into part files, in any order by any number of workers, then assembled in one order."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack
from pathlib import Path

from mobile_bundle.codecs import Blob, BlobError, BlobHeader, Stats, StreamCodec, codec_by_name
from mobile_bundle.codecs.blob import HEADER_BYTES
from mobile_bundle.container import PlannedTensor, WeightsWriter
from mobile_bundle.errors import ResumableError, UserError
from mobile_bundle.models import Model, TensorSpec
from mobile_bundle.pipeline.executor import ClusterWorkers, ProcessWorkers, ThreadWorkers, Workers
from mobile_bundle.pipeline.parts import (
    PIECE,
    Part,
    PartStore,
    TensorRecord,
    code_open_part,
    code_part,
    save_stats,
    stats_digest,
)
from mobile_bundle.planning.assignment import segment_of
from mobile_bundle.processors import default_jobs

Progress = Callable[[int, int, str], None]
"""Called with (weights done, weights in all, name of the tensor that was just finished), from one thread at a time."""

PROCESS_WEIGHTS = 100_000_000
MOST_THREADS = 4
"""Where nobody said how many jobs, processes are used for at least so many weights on more than so many processors: a
process takes half a second to start and 60 MB, and two threads need a quarter less processor time than two processes;
but threads share one interpreter lock."""


class PartPool:
    """Codes tensors of an open checkpoint into part files, several at a time, and assembles them: a context manager.

    directory: of the parts (parts_directory of the output); what an earlier build finished there is kept. jobs: None
    for as many as there are processors, threads or processes (PROCESS_WEIGHTS); 1 for one thread of this process; more
    for so many processes. cluster: address of a Dask scheduler, used instead of local processes. threads: every job is
    a thread of this process, because inputs lie on its GPU.
    UserError if another build writes to the directory, or the cluster cannot be used.

    Leaving the context stops what is under way. Parts stay until `discard`, so that the same build can go on from
    there."""

    def __init__(
        self,
        model: Model,
        directory: Path,
        jobs: int | None = None,
        cluster: str | None = None,
        threads: bool = False,
    ) -> None:
        self.model = model
        self.kept = 0
        """Tensors so far that an earlier build had finished."""
        self._store = PartStore(directory, model)
        self._model_dir = Path(os.path.realpath(model.checkpoint.path))
        self._jobs, self._cluster, self._threads = jobs, cluster, threads
        self._keys: dict[str, str] = {}
        self._stack = ExitStack()

    def __enter__(self) -> PartPool:
        with ExitStack() as stack:
            stack.enter_context(self._store)
            self._workers = self._open_workers()
            stack.callback(self._workers.close)
            self._inputs_under_way = threading.BoundedSemaphore(2 * self._workers.count)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def submit(
        self, tensor: TensorSpec, codec: StreamCodec | str, inputs: Stats | Path | None = None
    ) -> Future[TensorRecord]:
        """Has a tensor coded, unless an earlier build did so with the same codec, inputs, checkpoint and tool.

        inputs: what calibration knows of the tensor, or an .npz file of it (parts.save_stats). They may be large, so
        `submit` waits while two tensors with inputs per worker are under way. The future gives the record, or raises
        UserError: values that cannot be coded, a full disk, a worker that was killed. UserError at once for a codec
        that other processes would not find by its name."""
        codec = codec_by_name(codec) if isinstance(codec, str) else codec
        if not self._workers.shared_memory:
            codec_by_name(codec.lookup)
        key = self._keys[tensor.name] = self._store.key(tensor.name, codec.lookup, stats_digest(inputs))
        future: Future[TensorRecord] = Future()
        future.set_running_or_notify_cancel()  # it cannot be cancelled by itself
        part = self._store.finished(tensor, key)
        if part is not None:
            self.kept += 1
            future.set_result(part.record)
            return future
        self._store.forget(tensor.name)
        has_inputs = inputs is not None
        if has_inputs:
            self._inputs_under_way.acquire()
        try:
            work = self._start(tensor, codec, inputs, key)
        except BaseException as error:
            if has_inputs:
                self._inputs_under_way.release()
            if lost := self._workers.explain(error):
                raise lost from error
            raise
        work.add_done_callback(lambda done: self._finish(done, future, tensor, has_inputs))
        return future

    def assemble(
        self,
        path: Path,
        config: bytes,
        tensors: Sequence[TensorSpec],
        extras: Mapping[str, Blob],
        records: Mapping[str, TensorRecord],
    ) -> list[TensorRecord]:
        """Writes weights.ptd at `path`, whole or not at all, from the parts of `tensors` and the blobs `extras`.

        config: mb_model_config, 256 bytes; tensors: in the order of the file, every one submitted here and its future
        done; extras: blobs of no checkpoint tensor by name (shared codebooks), placed at the end of the segment
        "vectors"; records: the futures' results by tensor name. Returns the records of `tensors`, then those of the
        extras (codec: the format's name, error 0). UserError if a part is damaged or gone, if the checkpoint is not
        what it was when it was opened, or if the disk refuses."""
        self.model.checkpoint.check_unchanged()
        parts = [self._whole_part(tensor) for tensor in tensors]
        planned = [
            PlannedTensor(segment_of(tensor), tensor.name, _part_header(part))
            for tensor, part in zip(tensors, parts, strict=True)
        ]
        planned += [PlannedTensor("vectors", name, blob.header) for name, blob in extras.items()]
        with WeightsWriter(path, config, planned) as writer:
            for tensor, part in zip(tensors, parts, strict=True):
                blob_writer = writer.blob(tensor.name)
                with open(part.path, "rb", buffering=0) as file:
                    while piece := file.read(PIECE):
                        blob_writer.write(piece)
                if blob_writer.close() != part.crc32:
                    raise self._damaged(tensor)
            for name, blob in extras.items():
                blob_writer = writer.blob(name)
                blob_writer.write(blob.header.pack())
                blob_writer.write(blob.payload)
                blob_writer.close()
            writer.finish()
        added = [
            TensorRecord.of(name, blob.header.format.name.lower(), blob.header, 0.0) for name, blob in extras.items()
        ]
        return [records[tensor.name] for tensor in tensors] + added

    def blob(self, tensor: TensorSpec) -> Blob:
        """The part of a tensor that was submitted here and whose future is done."""
        part = self._whole_part(tensor)
        try:
            return Blob.parse(part.path.read_bytes())
        except (OSError, BlobError) as error:
            raise self._damaged(tensor) from error

    def discard(self) -> None:
        """Removes the parts: for when the result is on the disk under its own name."""
        self._store.discard()

    def check_space(self, assignment: Iterable[tuple[TensorSpec, StreamCodec]]) -> None:
        """UserError if the disk has no room for the parts that are missing and for the file made of them.

        (That file does not take its parts' place bit by bit: a kill would lose the parts that only it holds.)"""
        needed = 0
        for tensor, codec in assignment:
            size = codec.blob_bytes(tensor.rows, tensor.columns)
            needed += size if self._store.path(tensor.name).exists() else 2 * size
        free = shutil.disk_usage(self._store.directory).free
        if needed > free:
            raise ResumableError(
                f"no room for {self._store.directory} and the file made of it: {needed / 1e6:,.1f} MB are needed, "
                f"{free / 1e6:,.1f} MB are free",
                "free some space or choose another place",
            )

    def _open_workers(self) -> Workers:
        if self._cluster is not None:
            return ClusterWorkers(self._cluster, self._model_dir, self._store.directory)
        jobs = self._jobs or default_jobs()
        few = jobs <= MOST_THREADS or self.model.parameters < PROCESS_WEIGHTS
        if self._threads or jobs == 1 or (self._jobs is None and few):
            return ThreadWorkers(jobs)
        return ProcessWorkers(jobs)

    def _start(
        self, tensor: TensorSpec, codec: StreamCodec, inputs: Stats | Path | None, key: str
    ) -> Future[TensorRecord]:
        path = self._store.path(tensor.name)
        submit = self._workers.executor.submit
        if self._workers.shared_memory:
            return submit(code_open_part, self.model, tensor, codec, inputs, path, key)
        if isinstance(inputs, Stats):
            inputs = save_stats(self._store.inputs(tensor.name), inputs)
        return submit(code_part, self._model_dir, tensor.name, codec.lookup, inputs and inputs.absolute(), path, key)

    def _finish(
        self, done: Future[TensorRecord], future: Future[TensorRecord], tensor: TensorSpec, has_inputs: bool
    ) -> None:
        """Passes the result on, an executor's own exceptions as UserErrors, and lets go of the inputs."""
        if has_inputs:
            self._inputs_under_way.release()
            self._store.inputs(tensor.name).unlink(missing_ok=True)
        error = CancelledError() if done.cancelled() else done.exception()
        if error is not None:
            future.set_exception(self._workers.explain(error) or error)
        else:
            future.set_result(done.result())

    def _whole_part(self, tensor: TensorSpec) -> Part:
        part = self._store.part(tensor.name, self._keys[tensor.name])
        if part is None:
            raise self._damaged(tensor)
        return part

    def _damaged(self, tensor: TensorSpec) -> UserError:
        self._store.forget(tensor.name)
        return ResumableError(
            f"{self._store.path(tensor.name)} was changed after it was written", "run the command again"
        )


def _part_header(part: Part) -> BlobHeader:
    """The header of the part's blob. UserError if it is not one."""
    try:
        with open(part.path, "rb") as file:
            return BlobHeader.parse(file.read(HEADER_BYTES))
    except (OSError, BlobError) as error:
        raise ResumableError(
            f"{part.path} was changed after it was written ({error})", "run the command again"
        ) from error
