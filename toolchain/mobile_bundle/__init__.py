"""mobile-bundle: a Hugging Face causal-LM checkpoint becomes a bundle that runs on a small Android phone."""

__version__ = "0.1.0"
