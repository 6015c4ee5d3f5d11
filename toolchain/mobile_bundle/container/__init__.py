"""weights.ptd, manifest.json and the directory they lie in."""

from mobile_bundle.container.index import ContainerError, IndexEntry
from mobile_bundle.container.manifest import read_manifest, verify_files
from mobile_bundle.container.weights import PlannedTensor, WeightsReader, WeightsWriter

__all__ = [
    "ContainerError",
    "IndexEntry",
    "PlannedTensor",
    "WeightsReader",
    "WeightsWriter",
    "read_manifest",
    "verify_files",
]
