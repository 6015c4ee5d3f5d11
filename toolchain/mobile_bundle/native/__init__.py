"""The C runtime, loaded into Python by ctypes: one file for each part of it. Python adds nothing to its arithmetic."""

from mobile_bundle.native.programs import runner_paths

__all__ = ["runner_paths"]
