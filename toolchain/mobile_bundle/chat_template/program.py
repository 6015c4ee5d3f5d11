"""A compiled chat template as bytes; the layout is in runtime/include/mobile_bundle/chat_format.h."""

from __future__ import annotations

import struct
from collections.abc import Sequence

VERSION = 1
MAX_NODES = 1 << 16
MAX_DEPTH = 96
HAS_THINKING = 1
FOR_FILTER, FOR_OTHERWISE = 1, 2
OF_TEXT, OF_LIST, OF_MAP, OF_NUMBER, OF_UNKNOWN = (1 << bit for bit in range(5))


def _names(words: str) -> tuple[str, ...]:
    return tuple(words.split())


# The enumerations of chat_format.h, in their order.
OPS = _names(
    "BLOCK OUTPUT IF FOR SET SET_ATTRIBUTE CAPTURE BREAK CONTINUE SCOPE MACRO PARAMETER TEXT INT BOOL NONE UNDEFINED "
    "NAME MESSAGES ADD_GENERATION_PROMPT THINKING FUNCTION LOOP LIST MAP NAMESPACE ATTRIBUTE ITEM SLICE AND OR NOT "
    "IF_ELSE COMPARE ADD SUBTRACT MULTIPLY FLOOR_DIVIDE MODULO NEGATE JOIN CALL METHOD FILTER TEST SELECT RANGE DATE "
    "RAISE CANNOT"
)
COMPARISONS = _names("EQUAL NOT_EQUAL LESS LESS_EQUAL GREATER GREATER_EQUAL IN NOT_IN")
METHODS = _names(
    "SPLIT RSPLIT STRIP LSTRIP RSTRIP STARTSWITH ENDSWITH REPLACE UPPER LOWER TITLE CAPITALIZE FIND RFIND COUNT JOIN "
    "REMOVEPREFIX REMOVESUFFIX PARTITION RPARTITION GET"
)
FILTERS = _names("TRIM LENGTH DEFAULT STRING UPPER LOWER TITLE CAPITALIZE REPLACE JOIN FIRST LAST LIST TOJSON")
TESTS = _names(
    "DEFINED UNDEFINED NONE STRING MAPPING ITERABLE SEQUENCE NUMBER INTEGER BOOLEAN TRUE FALSE ODD EVEN DIVISIBLEBY"
)


class TooLarge(Exception):
    """The template is beyond what the format holds."""


class Program:
    """Nodes of a syntax tree, children before their parents."""

    def __init__(self) -> None:
        self.has_thinking = False
        self._nodes: list[tuple[int, int, int, int, int]] = []
        self._depths: list[int] = []
        self._edges: list[int] = []
        self._texts: dict[str, int] = {}

    def text(self, text: str) -> int:
        """The index of a text. Raises UnicodeEncodeError for one with half a surrogate pair."""
        text.encode()
        return self._texts.setdefault(text, len(self._texts))

    def add(self, op: str, children: Sequence[int] = (), value: int = 0, variant: int = 0) -> int:
        """Adds a node; its index."""
        depth = 1 + max((self._depths[child] for child in children), default=0)
        if len(self._nodes) == MAX_NODES or depth > MAX_DEPTH:
            raise TooLarge(f"it is larger than {MAX_NODES} operations or nested deeper than {MAX_DEPTH}")
        self._nodes.append((OPS.index(op), variant, value, len(self._edges), len(children)))
        self._depths.append(depth)
        self._edges.extend(children)
        return len(self._nodes) - 1

    def sections(self) -> tuple[bytes, bytes]:
        """The bytes of MB_TOKEN_CHAT and of MB_TOKEN_CHAT_BYTES; the last node added is the whole template."""
        spans, texts = bytearray(), bytearray()
        for text in self._texts:
            data = text.encode()
            spans += struct.pack("<2I", len(texts), len(data))
            texts += data
        flags = HAS_THINKING if self.has_thinking else 0
        header = struct.pack("<8I", VERSION, len(self._nodes), len(self._edges), len(self._texts), flags, 0, 0, 0)
        nodes = b"".join(struct.pack("<2H3I", *node) for node in self._nodes)
        return header + nodes + struct.pack(f"<{len(self._edges)}I", *self._edges) + bytes(spans), bytes(texts)
