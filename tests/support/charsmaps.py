"""Tables of characters as SentencePiece makes them (precompiled_charsmap)."""

from __future__ import annotations

import struct

REPLACEMENTS = {
    "ﬁ": "fi", "①": "1", "e\u0301": "é", "a\u0308": "ä", "\u00a0": " ", "\u3000": " ", "\u200b": "", "\t": " ",
    "\n": " ", "\r\n": " ", "\u0301": "'", "가": "ga", "\u0915": "K", "©": "(c)", "\u00ad": "", "x": "yy", "xy": "z",
    "\u0600": "N", "👩": "w", "\u1100": "g",
}  # fmt: skip
"""Some that the real table has, and others: prefixes of each other, parts of clusters."""


def charsmap(replacements: dict[str, str]) -> bytes:
    """A table of them. Its trie gives every node 256 places of its own, where a node at place p has the child of byte c
    at p ^ offset ^ c, and its value at p ^ offset."""
    texts, values = b"", {}
    for key, text in replacements.items():
        values[key.encode()] = len(texts)
        texts += text.encode() + b"\0"
    nodes = sorted({key[:length] for key in values for length in range(len(key) + 1)} | {b""}, key=len)
    number = {node: at for at, node in enumerate(nodes)}
    units, places = [0] * (256 * len(nodes)), {b"": 0}
    for node in nodes[1:]:
        parent = node[:-1]
        place = places[node] = 256 * number[parent] + (places[parent] % 256 ^ node[-1])
        units[place] = node[-1] | (node in values) << 8 | 1 << 9 | (place // 256 ^ number[node]) << 10
        if node in values:
            units[256 * number[node] + place % 256] = values[node] | 1 << 31
    return struct.pack(f"<{len(units) + 1}I", 4 * len(units), *units) + texts
