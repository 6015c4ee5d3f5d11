"""Training the codebooks that the layers of one projection share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.calibrate.profile import Profile
from mobile_bundle.calibrate.walk import read_matrix
from mobile_bundle.codecs import Blob, BlobHeader, Format, Stats, StreamCodec
from mobile_bundle.codecs.codebook import samples_wanted, train_codebooks
from mobile_bundle.codecs.vector_blob import stack_codebooks
from mobile_bundle.codecs.vptq import training_sample
from mobile_bundle.models import Model
from mobile_bundle.planning.sharing import sharing


@dataclass(frozen=True)
class SharedCodebook:
    """blob: what is stored; codebook and step: what Stats hands to the codec."""

    blob: Blob
    codebook: NDArray[np.int8]
    step: NDArray[np.float32]


def train_shared(model: Model, assignment: Mapping[str, StreamCodec], profile: Profile) -> dict[str, SharedCodebook]:
    """Trains every one on vectors of all the matrices that use it, each weighed by its importance."""
    out = {}
    for name, (layout, users) in sharing(model.tensors, assignment).items():
        count = samples_wanted(layout) // len(users) + 1
        samples = []
        for tensor in users:
            known = profile.matrices[tensor.name]
            stats = Stats(row_weights=known.row_weights)
            samples.append(training_sample(read_matrix(model, tensor), stats, known.column_importance, layout, count))
        points = np.concatenate([points for points, _ in samples])
        weights = np.concatenate([weights for _, weights in samples])
        books = train_codebooks(points, weights / weights.mean(), layout)
        stacked = stack_codebooks(layout, books.first, books.second)
        header = BlobHeader(Format.INT8, layout.entries, layout.stride)
        out[name] = SharedCodebook(Blob(header, stacked.tobytes()), stacked, np.array([books.step], np.float32))
    return out
