"""SeedLM: blocks of weights as seeds of a pseudo-random generator, 4 or 3 bits per weight (MB_FORMAT_SEEDLM).

Method and search: seedlm_search.py. A stored form: `mobile-run install` decodes it to AFFINE8 (8.5 bits per weight),
which adds 3e-5 to the relative squared error; a download shrinks, what a phone computes with does not.

Weights are divided by `scale` = rms(W) / 32767, so that they stand beside the sums S of integers that are to reproduce
them: w = (float)S * (scale * 2^e). The root mean square is the standard deviation about zero, since a block is
approximated from zero. Rows are filled up to whole blocks with zeros.

Layout (packed_formats.h): N seeds of 16 bits, then a stream of nibbles: e + 8 and the P coefficients q + 8 per block.
The nibbles are kept in RAM (2 bits per weight) while the seeds are written.
"""

from __future__ import annotations

import math
import os

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.blob import Blob
from mobile_bundle.codecs.codec import Encoded, StreamCodec, Write, largest_magnitude, source_chunks, sum_squares
from mobile_bundle.codecs.declaration import Declaration, FormatRules, Installed
from mobile_bundle.codecs.formats import BlobError, Format
from mobile_bundle.codecs.seedlm_search import SHAPES, random_matrices, tables
from mobile_bundle.codecs.source import Floats, MatrixSource
from mobile_bundle.codecs.stats import Stats
from mobile_bundle.native.search import Found, search_seedlm

DEVICE_VARIABLE = "MOBILE_BUNDLE_SEEDLM_DEVICE"
"""Environment: a torch device, such as "cuda", that searches instead of the processor. The blob is the same."""
MAX_WEIGHT = 1e15
"""Sums of squares of larger ones could be infinite in float32."""


class SeedLMCodec(StreamCodec):
    """bits: 4 (blocks of 8, 3 coefficients) or 3 (blocks of 12, 4 coefficients). threads: of one search; the builder
    codes several tensors at a time, so one is its choice."""

    format = Format.SEEDLM

    def __init__(self, bits: int, threads: int = 1) -> None:
        self.bits = bits
        self.threads = threads
        self.group, self.coefficients = SHAPES[bits]

    @property
    def name(self) -> str:
        return f"seedlm-{self.bits}bit"

    def encode_stream(self, source: MatrixSource, write: Write, stats: Stats | None = None) -> Encoded:
        """ValueError for values that are not finite or larger than 1e15; UserError when the search cannot run."""
        del stats  # data-free
        if largest_magnitude(source) > MAX_WEIGHT:
            raise ValueError(f"SeedLM takes weights up to {MAX_WEIGHT:g}")
        scale = seedlm_scale(source)
        header = self._header(source, float(scale))
        write(header.pack())
        per_row = -(-source.columns // self.group)
        nibbles = np.empty((source.rows * per_row, 1 + self.coefficients), np.uint8)
        inverse = np.float64(1.0) / np.float64(scale)
        error = total = 0.0
        begin = 0
        for chunk in source_chunks(source):
            blocks = np.zeros((len(chunk), per_row * self.group), np.float32)
            blocks[:, : source.columns] = chunk * inverse
            found = self._search(blocks.reshape(-1, self.group))
            write(found.seeds.astype("<u2", copy=False).data.cast("B"))
            here = nibbles[begin : begin + len(found.seeds)]
            here[:, 0] = found.exponents + np.int8(8)
            here[:, 1:] = found.coefficients + np.int8(8)
            begin += len(here)
            back = _weights(found.seeds, here, self.group, scale).reshape(len(chunk), -1)[:, : source.columns]
            error += sum_squares(back - chunk)
            total += sum_squares(chunk)
        stream = nibbles.reshape(-1)
        if len(stream) % 2:
            stream = np.append(stream, np.uint8(0))
        write((stream[0::2] | stream[1::2] << np.uint8(4)).data.cast("B"))
        return Encoded(header, error, total)

    def decode_rows(self, blob: Blob, begin: int, end: int) -> NDArray[np.float32]:
        header = blob.header
        if header.group != self.group:
            raise ValueError(f"codec {self.name} does not read blocks of {header.group}")
        per_row = -(-header.columns // self.group)
        width = 1 + self.coefficients
        first, count = begin * per_row, (end - begin) * per_row
        seeds = np.frombuffer(blob.payload, "<u2", count, 2 * first)
        if not seeds.all():
            raise BlobError("SeedLM blob holds seed 0")
        packed = np.frombuffer(blob.payload, np.uint8, offset=2 * header.rows * per_row)
        packed = packed[first * width // 2 : ((first + count) * width + 1) // 2]  # first is even, or begin is 0
        stream = np.empty(2 * len(packed), np.uint8)
        stream[0::2] = packed & 15
        stream[1::2] = packed >> 4
        nibbles = stream[: count * width].reshape(count, width)
        values = _weights(seeds, nibbles, self.group, np.float32(header.scale))
        return np.ascontiguousarray(values.reshape(end - begin, -1)[:, : header.columns])

    def _search(self, blocks: Floats) -> Found:
        device = os.environ.get(DEVICE_VARIABLE)
        if device:
            from mobile_bundle.codecs.seedlm_gpu import search_torch

            return search_torch(blocks, self.bits, device)
        return search_seedlm(blocks, tables(self.bits), self.threads)


def seedlm_scale(source: MatrixSource) -> np.float32:
    """rms(W) / 32767; 1 for a matrix of zeros. Never below the smallest normal number."""
    total = 0.0
    for chunk in source_chunks(source):
        total += float(np.square(chunk.astype(np.float64)).sum(axis=1).sum())
    if total == 0:
        return np.float32(1.0)
    rms = math.sqrt(total / (source.rows * source.columns))
    return max(np.float32(rms / 32767), np.finfo(np.float32).tiny)


def _weights(seeds: NDArray[np.uint16], nibbles: NDArray[np.uint8], length: int, scale: np.float32) -> Floats:
    """float32 (n, length). nibbles: uint8 (n, 1 + P): e + 8 and q + 8."""
    q = nibbles[:, 1:].astype(np.int32) - 8
    sums = np.einsum("nip,np->ni", random_matrices(seeds, length, q.shape[1]), q)
    steps = np.ldexp(scale, np.arange(-8, 8)).astype(np.float32)
    values: Floats = sums.astype(np.float32) * steps[nibbles[:, 0], None]
    return values


def _payload_bytes(rows: int, columns: int, group: int, flags: int) -> int:
    del flags
    blocks = rows * -(-columns // group)
    nibbles = 1 + next(coefficients for length, coefficients in SHAPES.values() if length == group)
    return 2 * blocks + (blocks * nibbles + 1) // 2


DECLARATION = Declaration(
    formats=(
        FormatRules(
            Format.SEEDLM,
            payload_bytes=_payload_bytes,
            decoder=lambda header: SeedLMCodec(4 if header.group == 8 else 3),
            groups=(8, 12),
            installed=Installed(Format.AFFINE8, "affine-8bit", group=32),
        ),
    ),
    codecs=(SeedLMCodec(4), SeedLMCodec(3)),
    recipes={"seedlm-4bit": "affine-4bit", "seedlm-3bit": "affine-4bit"},
)
