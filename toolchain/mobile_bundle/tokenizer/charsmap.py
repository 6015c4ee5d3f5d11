"""SentencePiece's table of replacements: the Precompiled normalizer of a tokenizer.json.

The table goes into tokenizer.bin as it is: the size of a trie, the trie (a double array in Darts' layout), and the
texts that its values point to, each up to a NUL. runtime/tokenizer/charsmap.c applies it as the `tokenizers` package
does; here it is checked, and charsmap_proof.py compares what the runtime makes of texts before a bundle is written."""

from __future__ import annotations

import base64
import binascii
import struct

from mobile_bundle.errors import InputError, UnsupportedError

MAX_REPLACEMENT = 255
"""MB_TOKEN_MAX_REPLACEMENT. Unicode's longest compatibility decomposition is 33 bytes."""


def decode_charsmap(value: object) -> bytes:
    """The bytes of `precompiled_charsmap`. UserError for what is no such table, or one beyond the runtime's limits."""
    try:
        data = base64.b64decode(value if isinstance(value, str) else "", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    (trie_bytes,) = struct.unpack_from("<I", data) if len(data) >= 4 else (0,)
    if trie_bytes == 0 or trie_bytes % 4 or trie_bytes > len(data) - 4:
        raise InputError("tokenizer.json: precompiled_charsmap is not a table of SentencePiece's")
    texts = data[4 + trie_bytes :]
    try:
        texts.decode()
    except UnicodeDecodeError:
        raise InputError("tokenizer.json: the texts of precompiled_charsmap are not UTF-8") from None
    if max(map(len, texts.split(b"\0"))) > MAX_REPLACEMENT:
        raise UnsupportedError(
            f"tokenizer.json: precompiled_charsmap replaces a character by more than {MAX_REPLACEMENT} bytes"
        )
    return data
