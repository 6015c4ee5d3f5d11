"""Training the codebooks that the layers of one projection share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mobile_bundle.calibrate.profile import Profile
from mobile_bundle.calibrate.threads import side_by_side
from mobile_bundle.calibrate.walk import read_matrix
from mobile_bundle.codecs import Stats, StreamCodec
from mobile_bundle.codecs.shared_codebook import Codebook, TrainedCodebook
from mobile_bundle.models import Model
from mobile_bundle.planning.sharing import sharing


def train_shared(
    model: Model, assignment: Mapping[str, StreamCodec], profile: Profile
) -> dict[str, tuple[Codebook, TrainedCodebook]]:
    """Trains every shared codebook on vectors of all matrices that use it, weighed by their importance."""
    asked = sharing(model.tensors, assignment)

    def trained(name: str) -> TrainedCodebook:
        codebook, users = asked[name]
        count = codebook.samples_wanted // len(users) + 1
        samples = []
        for tensor in users:
            known = profile.matrices[tensor.name]
            stats = Stats(row_weights=known.row_weights)
            samples.append(codebook.sample(read_matrix(model, tensor), stats, known.column_importance, count))
        points = np.concatenate([points for points, _ in samples])
        weights = np.concatenate([weights for _, weights in samples])
        return codebook.train(points, weights / weights.mean())

    return {
        name: (codebook, training)
        for (name, (codebook, _)), training in zip(asked.items(), side_by_side(trained, asked), strict=True)
    }
