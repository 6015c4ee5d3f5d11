"""Split steps of a tokenizer.json, compiled into the tables that the runtime runs (tokenizer_format.h)."""

from mobile_bundle.tokenizer.splits.step import SplitStep, chain
from mobile_bundle.tokenizer.splits.table import CompiledSplits, compile_splits

__all__ = ["CompiledSplits", "SplitStep", "chain", "compile_splits"]
