"""The pre-tokenizer of a tokenizer.json as a chain of split steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BEHAVIOURS = ("Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext")
"""By their numbers in tokenizer_format.h."""

GPT2_EXPRESSION = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What a ByteLevel step splits by."""


@dataclass(frozen=True)
class SplitStep:
    """One step: what is looked for (an expression, a text, or the characters of a step of this name), what becomes of
    it, and whether it stands behind the ByteLevel step, where every byte is a character."""

    expression: str = ""
    text: str = ""
    characters: str = ""
    behaviour: str = "Isolated"
    invert: bool = False
    on_bytes: bool = False


def chain(parts: list[dict[str, Any]]) -> tuple[tuple[SplitStep, ...], bool] | None:
    """(the split steps, whether they are byte-level) of the parts of a pre-tokenizer; None where one is unknown."""
    steps: list[SplitStep] = []
    on_bytes = False
    for part in parts:
        match part:
            case {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": behaviour} if behaviour in BEHAVIOURS:
                invert = part.get("invert", False) is True
                steps.append(SplitStep(expression=regex, behaviour=behaviour, invert=invert, on_bytes=on_bytes))
            case {"type": "Split", "pattern": {"String": str(text)}, "behavior": behaviour} if behaviour in BEHAVIOURS:
                invert = part.get("invert", False) is True
                steps.append(SplitStep(text=text, behaviour=behaviour, invert=invert, on_bytes=on_bytes))
            case {"type": "Digits"}:
                behaviour = "Isolated" if part.get("individual_digits", False) else "Contiguous"
                steps.append(SplitStep(characters="Digits", behaviour=behaviour, on_bytes=on_bytes))
            case {"type": "Punctuation"} if part.get("behavior", "Isolated") in BEHAVIOURS:
                behaviour = part.get("behavior", "Isolated")
                steps.append(SplitStep(characters="Punctuation", behaviour=behaviour, on_bytes=on_bytes))
            case {"type": "WhitespaceSplit"}:
                steps.append(SplitStep(characters="WhitespaceSplit", behaviour="Removed", on_bytes=on_bytes))
            case {"type": "ByteLevel"} if not on_bytes and not part.get("add_prefix_space", True):
                if part.get("use_regex", True):
                    steps.append(SplitStep(expression=GPT2_EXPRESSION))
                on_bytes = True
            case _:
                return None
    return tuple(steps), on_bytes
