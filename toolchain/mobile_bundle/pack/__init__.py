"""A bundle's download form: one ZIP that any tool opens, and that a phone can refuse or install while it arrives."""

from mobile_bundle.pack.pack import Packed, pack_bundle

__all__ = ["Packed", "pack_bundle"]
