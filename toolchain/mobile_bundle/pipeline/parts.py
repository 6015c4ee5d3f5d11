"""Part files: every tensor is coded on its own, into a file of its own, by any process; a killed build continues.

    OUT.mbundle.parts/
      lock                  held (flock) by the build that is running
      NAME.part             the tensor's blob
      NAME.part.json        written after it: {"key", "source", "bytes", "crc32", "record"}
      inputs/NAME.npz       statistics on their way to another process

A part is trusted if its sidecar has the key that this build would give it (tool, config.json, codec, statistics), if
its source is the digest of what the checkpoint holds now (identity.py), and if the file has the size and the CRC-32
that the sidecar says. That is why nothing here is synced: what a power cut spoils is coded again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import secrets
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobile_bundle.codecs import BlobHeader, Stats, StreamCodec, codec_by_name
from mobile_bundle.codecs.matrices import on_host
from mobile_bundle.errors import InputError, OutputError
from mobile_bundle.files.disk import disk_errors
from mobile_bundle.models import Model, TensorSpec, open_model
from mobile_bundle.pipeline.identity import config_digest, tensor_digest, tool_identity
from mobile_bundle.processors import default_jobs

PIECE = 1 << 20
"""Bytes that are read or copied at a time."""
_HASHED = 16 << 20
"""Bytes of statistics that one thread hashes."""


@dataclass(frozen=True)
class TensorRecord:
    """What manifest.json says of one tensor. bytes: header included; relative_error: ||W - W'||^2 / ||W||^2."""

    name: str
    codec: str
    format: str
    rows: int
    columns: int
    bytes: int
    bits_per_weight: float
    relative_error: float

    @staticmethod
    def of(name: str, codec: str, header: BlobHeader, relative_error: float) -> TensorRecord:
        """The record of a blob with that header."""
        size, weights = header.blob_bytes, header.rows * header.columns
        kind = header.format.name.lower()
        return TensorRecord(name, codec, kind, header.rows, header.columns, size, 8 * size / weights, relative_error)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Part:
    """A finished part file: size in bytes, CRC-32 of all of it, the tensor's record, and the digest of what was coded
    (identity.tensor_digest)."""

    path: Path
    source: str
    bytes: int
    crc32: int
    record: TensorRecord


def parts_directory(out: str | os.PathLike[str]) -> Path:
    """Where the parts of that output lie: beside it, under an absolute path, which other machines may know too."""
    path = Path(os.path.realpath(out))
    return path.parent / f"{path.name}.parts"


def is_being_written(directory: Path) -> bool:
    """Whether a build is running that has its parts there."""
    try:
        lock = os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def finished_parts(directory: Path) -> list[str]:
    """Names of the tensors that have a part there."""
    return [path.name.removesuffix(".part.json") for path in directory.glob("*.part.json")]


def stats_digest(inputs: Stats | Path | None) -> str:
    """Digest of the values given to a codec: of the arrays, or of the bytes of the file that holds them."""
    digest = hashlib.sha256()
    if isinstance(inputs, Path):
        with open(inputs, "rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
    elif inputs is not None:
        for name, matrix in vars(inputs).items():
            if matrix is not None:
                array = on_host(matrix)
                digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
                digest.update(_tree_digest(np.ascontiguousarray(array).data.cast("B")))
    return digest.hexdigest()


def _tree_digest(data: memoryview) -> bytes:
    """Of the digests of pieces, which several threads take: the Hessian of a wide matrix has hundreds of megabytes, and
    the thread that submits it has the whole build wait."""
    pieces = [data[begin : begin + _HASHED] for begin in range(0, len(data), _HASHED)]
    if len(pieces) <= 1:
        return hashlib.sha256(data).digest()
    with ThreadPoolExecutor(min(default_jobs(), len(pieces))) as pool:
        digests = pool.map(lambda piece: hashlib.sha256(piece).digest(), pieces)
        return hashlib.sha256(b"".join(digests)).digest()


def save_stats(path: Path, stats: Stats) -> Path:
    """Writes statistics as an .npz file (uncompressed) whose members are Stats' fields. Returns the path."""
    arrays = {name: array for name, array in vars(stats).items() if array is not None}
    with disk_errors(path, sum(array.nbytes for array in arrays.values())):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        with open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(temporary, path)
    return path


def load_stats(path: Path) -> Stats:
    """Reads what save_stats wrote; members that Stats does not know are ignored. UserError if it cannot be read."""
    try:
        with np.load(path) as file:
            return Stats(**{name: file[name] for name in Stats.__dataclass_fields__ if name in file})
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read the statistics in {path}: {error}") from error


def code_part(model_dir: Path, name: str, codec: str, inputs: Path | None, path: Path, key: str) -> TensorRecord:
    """Codes one tensor of a checkpoint into the part file `path`; runs in any process that sees the files.

    model_dir: the checkpoint's directory; name: the tensor's (models/names.py); codec: its registry name; inputs: the
    .npz file of its Stats, or None. UserError as code_open_part's; one too for a checkpoint without that tensor."""
    with open_model(model_dir) as model:
        tensor = next((tensor for tensor in model.tensors if tensor.name == name), None)
        if tensor is None:
            raise InputError(f"{model_dir} has no tensor {name}")
        return code_open_part(model, tensor, codec_by_name(codec), inputs, path, key)


def code_open_part(
    model: Model, tensor: TensorSpec, codec: StreamCodec, inputs: Stats | Path | None, path: Path, key: str
) -> TensorRecord:
    """Codes one tensor of an open model into the part file `path`, and its sidecar with that key beside it.

    Both appear whole or not at all. UserError for values that cannot be coded, for weight files that change meanwhile,
    and for a disk that refuses."""
    source = tensor_digest(model, tensor)
    stats = load_stats(inputs) if isinstance(inputs, Path) else inputs
    temporary = _temporary(path)
    needed = codec.blob_bytes(tensor.rows, tensor.columns)
    size = crc = 0
    try:
        with disk_errors(path, needed):  # not around the coding, whose own errors are not the disk's
            file = open(temporary, "wb", buffering=0)  # noqa: SIM115

        def write(data: bytes | memoryview) -> None:
            nonlocal size, crc
            view = memoryview(data).cast("B")
            size, crc = size + len(view), zlib.crc32(view, crc)
            with disk_errors(path, needed):
                while len(view):
                    view = view[file.write(view) :]

        with file:
            try:
                encoded = codec.encode_stream(model.source(tensor), write, stats)
            except ValueError as error:
                raise InputError(f"cannot code tensor {tensor.source or tensor.name}: {error}") from error
        if not math.isfinite(encoded.relative_error):
            raise InputError(
                f"cannot code tensor {tensor.source or tensor.name} by {codec.name}: its values are too large; "
                f"check whether the checkpoint is damaged, or try the recipe raw"
            )
        if size != encoded.header.blob_bytes:
            raise AssertionError(f"{codec.name} wrote {size} bytes, its header says {encoded.header.blob_bytes}")
        model.checkpoint.check_unchanged()  # the digest holds for what was coded
        record = TensorRecord.of(tensor.name, codec.name, encoded.header, encoded.relative_error)
        sidecar = {"key": key, "source": source, "bytes": size, "crc32": crc, "record": record.to_json()}
        with disk_errors(path, needed):
            os.replace(temporary, path)
            temporary.write_text(json.dumps(sidecar), "utf-8")
            os.replace(temporary, _sidecar(path))
        return record
    finally:
        temporary.unlink(missing_ok=True)


class PartStore:
    """The directory of the parts, locked for one build: a context manager. A directory that is left empty is removed.

    UserError if another build of the same output is running."""

    def __init__(self, directory: Path, model: Model) -> None:
        self.directory = directory
        self._model = model
        self._config = config_digest(model)
        self._lock = -1

    def __enter__(self) -> PartStore:
        with disk_errors(self.directory, 0):
            while not self._take_lock():
                pass
        self._remove("*.tmp", "inputs/*")
        return self

    def __exit__(self, *_: object) -> None:
        self._remove("*.tmp", "inputs/*")
        if not finished_parts(self.directory):
            self.discard()
        os.close(self._lock)

    def _take_lock(self) -> bool:
        """False if the build that had the lock has just removed it. UserError if a build has it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "lock"
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # the directory was removed after all
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(path)):
                self._lock = lock
                return True
        except BlockingIOError:
            os.close(lock)
            raise OutputError(
                f"another build is writing {self.directory}", "wait until it has finished, or stop it"
            ) from None
        except FileNotFoundError:
            pass
        os.close(lock)
        return False

    def path(self, name: str) -> Path:
        """The part file of that tensor."""
        return self.directory / f"{name}.part"

    def inputs(self, name: str) -> Path:
        """Where statistics of that tensor lie while another process needs them."""
        return self.directory / "inputs" / f"{name}.npz"

    def key(self, name: str, codec: str, digest: str) -> str:
        """Digest of everything that decides a part's bytes, but for the weights. digest: stats_digest of the codec's
        inputs."""
        return hashlib.sha256("\0".join((tool_identity(), self._config, name, codec, digest)).encode()).hexdigest()

    def part(self, name: str, key: str) -> Part | None:
        """What the sidecar says, if it has that key and the file its size; the checksum is not compared here."""
        path = self.path(name)
        try:
            sidecar = json.loads(_sidecar(path).read_text("utf-8"))
            record = TensorRecord(**sidecar["record"])
            found = Part(path, sidecar["source"], sidecar["bytes"], sidecar["crc32"], record)
            return found if sidecar["key"] == key and path.stat().st_size == found.bytes else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def finished(self, tensor: TensorSpec, key: str) -> Part | None:
        """The part if it is finished, of that key and of these weights, and its checksum right: it need not be coded
        again."""
        part = self.part(tensor.name, key)
        if part is None or part.source != tensor_digest(self._model, tensor) or _crc32(part.path) != part.crc32:
            return None
        return part

    def forget(self, name: str) -> None:
        """Removes one part: its sidecar first, so that what may be left is never trusted."""
        _sidecar(self.path(name)).unlink(missing_ok=True)
        self.path(name).unlink(missing_ok=True)

    def discard(self) -> None:
        """Removes everything that builds put there, and the directory if nobody else put something into it."""
        self._remove("*.part.json", "*.part", "*.tmp", "inputs/*", "lock")
        for directory in (self.directory / "inputs", self.directory):
            try:
                directory.rmdir()
            except OSError:
                continue

    def _remove(self, *patterns: str) -> None:
        for pattern in patterns:
            for path in self.directory.glob(pattern):
                path.unlink(missing_ok=True)


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _temporary(path: Path) -> Path:
    """A name of this process's own: a cluster may code a tensor twice when it believes a worker dead."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")


def _crc32(path: Path) -> int:
    crc = 0
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            crc = zlib.crc32(piece, crc)
    return crc
