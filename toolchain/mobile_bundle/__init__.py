"""mobile-bundle: a Hugging Face causal-LM checkpoint becomes a bundle that runs on a small Android phone."""

from mobile_bundle.version import __version__

__all__ = ["__version__"]
