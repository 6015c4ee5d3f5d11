"""The version of the tool, as manifests and reports name it."""

__version__ = "0.1.0"
