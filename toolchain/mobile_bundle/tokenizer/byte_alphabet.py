"""The characters that stand for bytes in a byte-level vocabulary."""

from __future__ import annotations


def _byte_alphabet() -> dict[str, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_ALPHABET = _byte_alphabet()
CHARACTER_OF_BYTE = {byte: character for character, byte in BYTE_ALPHABET.items()}
