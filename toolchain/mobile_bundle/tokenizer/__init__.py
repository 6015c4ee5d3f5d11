"""Hugging Face's tokenizer.json to tokenizer.bin (runtime/include/mobile_bundle/tokenizer_format.h)."""

from mobile_bundle.tokenizer.compile import CompiledTokenizer, compile_tokenizer

__all__ = ["CompiledTokenizer", "compile_tokenizer"]
