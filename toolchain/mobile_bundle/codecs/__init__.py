"""Weight codecs: one file each, all with `encode`, `decode`, `bits_per_weight` and a streamed `encode_stream`."""

from mobile_bundle.codecs.blob import Blob, BlobHeader
from mobile_bundle.codecs.codec import Encoded, StreamCodec, codec_for
from mobile_bundle.codecs.formats import BlobError, Format
from mobile_bundle.codecs.registry import codec_by_name, codec_names
from mobile_bundle.codecs.source import ArraySource, MatrixSource
from mobile_bundle.codecs.stats import Stats

__all__ = [
    "ArraySource",
    "Blob",
    "BlobError",
    "BlobHeader",
    "Encoded",
    "Format",
    "MatrixSource",
    "Stats",
    "StreamCodec",
    "codec_by_name",
    "codec_for",
    "codec_names",
]
