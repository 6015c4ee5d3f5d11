"""Conversations that prove a compiled template: what templates are known to touch, and what this one names."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jinja2 import nodes

COUNT = 240
"""Random conversations per template."""

MARKS = ("mobileBundle0Mark", "mobileBundle1Mark", "mobileBundle2Mark")
PLAIN = (
    [("user", MARKS[0])],
    [("user", MARKS[0]), ("assistant", MARKS[1]), ("user", MARKS[2])],
)
"""What a template has to render to be of any use."""
WITH_SYSTEM = [("system", MARKS[0]), ("user", MARKS[1])]

_PARTS = (
    "Hello",
    "",
    " ",
    "\n",
    "\n\n",
    "\t",
    " two  spaces ",
    "\u3000\u00a0\x1f\x85\u2028",
    "<think>",
    "</think>",
    "<think>\nFirst, I greet.\n</think>\n\n",
    "<think></think>",
    "<|im_end|>",
    "<|im_start|>assistant\n",
    "<s>[INST] x [/INST]</s>",
    "<|eot_id|>",
    "<tool_response>",
    "</tool_response>",
    '<b>markup & "quotes"</b> it\'s',
    "{{ braces }} {% and %} {# not a comment #}",
    "\u00fcn\u00efc\u00f6de \u6f22\u5b57 \U0001f389 e\u0301",
    "0",
    "user: \\n \\\\ ' assistant",
    "/no_think",
)
_LONGEST_LITERAL, _MOST_LITERALS = 200, 48


@dataclass(frozen=True)
class Probe:
    """A conversation, and what is asked of the thinking variable (None: nothing)."""

    messages: list[tuple[str, str]]
    thinking: bool | None = None


def make_probes(tree: nodes.Template, has_thinking: bool) -> Iterator[Probe]:
    """PLAIN, WITH_SYSTEM, then random conversations, the same ones every time."""
    for messages in (*PLAIN, WITH_SYSTEM):
        yield Probe(list(messages))
    literals = [c.value for c in tree.find_all(nodes.Const) if isinstance(c.value, str) and c.value]
    literals = [text for text in dict.fromkeys(literals) if len(text) <= _LONGEST_LITERAL][:_MOST_LITERALS]
    choose = random.Random(20)
    for _ in range(COUNT):
        messages = [(role, _content(choose, literals)) for role in _roles(choose)]
        yield Probe(messages, choose.choice((None, False, True)) if has_thinking else None)


def _roles(choose: random.Random) -> list[str]:
    roles = ["system"] if choose.random() < 0.4 else []
    for _ in range(choose.randrange(5)):
        roles += ["user", "assistant"]
    roles.append("user")
    if choose.random() < 0.3:  # consecutive roles, a system message in the middle, none of the user
        for _ in range(choose.randint(1, 3)):
            roles.insert(choose.randint(0, len(roles)), choose.choice(("user", "assistant", "system")))
    if choose.random() < 0.2:
        roles.append("assistant")
    return roles


def _content(choose: random.Random, literals: Sequence[str]) -> str:
    if choose.random() < 0.15:  # nothing but one part
        return choose.choice(literals or _PARTS) if choose.random() < 0.5 else choose.choice(_PARTS)
    parts = [
        choose.choice(literals) if literals and choose.random() < 0.4 else choose.choice(_PARTS)
        for _ in range(choose.randrange(6))
    ]
    return "".join(parts)
