"""Compiles a chat template and proves it: the runtime must say exactly what the template says, or there is no chat."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mobile_bundle.chat_template.isolated import Refused, examine
from mobile_bundle.chat_template.probes import MARKS, PLAIN, WITH_SYSTEM
from mobile_bundle.errors import ArgumentError
from mobile_bundle.native import chat as runtime

COMPILED = "the chat template is compiled"
"""How the line begins that says so; all of it, when nothing is missing."""

_RESERVED = ("messages", "tools", "documents", "add_generation_prompt")


@dataclass(frozen=True)
class ChatTemplate:
    """A compiled template."""

    section: bytes  # MB_TOKEN_CHAT
    texts: bytes  # MB_TOKEN_CHAT_BYTES
    thinking: bool  # whether a request may switch thinking on and off
    after_answer: str  # what stands between an answer and the content of the next message, "" where that is not fixed
    options: dict[str, Any]  # the options that were fixed
    samples: tuple[str, ...]  # plain conversations as it writes them


def compile_chat_template(
    source: str,
    special_tokens: Mapping[str, str],
    options: Mapping[str, Any] | None = None,
    now: datetime.datetime | None = None,
) -> tuple[ChatTemplate | None, str]:
    """Compiles a template.

    special_tokens: bos_token, eos_token and so on, which the template may name. options: keyword arguments of
    apply_chat_template that are fixed by the build (JSON values). now: the time of the proof, by default the present.
    Returns the template, None when that is not possible, and one line for a person that says how it went. Never raises
    for a faulty template; UserError for options that it does not have.
    """
    options = dict(options or {})
    now = now or datetime.datetime.now().replace(microsecond=0)
    constants = {"tools": None, "documents": None, **special_tokens, **options}
    try:
        answer = examine(source, constants, now)
        _check_options(options, answer["variables"])
        section, texts = base64.b64decode(answer["section"]), base64.b64decode(answer["texts"])
        limits = _prove(section, texts, answer["renderings"], now)
    except Refused as error:
        return None, f"the chat template cannot be compiled: {error}"
    after = answer["renderings"][1]["text"].split(MARKS[1])[-1].split(MARKS[2])[0]
    samples = tuple(rendering.get("text", "") for rendering in answer["renderings"][: len(PLAIN) + 1])
    template = ChatTemplate(section, texts, answer["thinking"] is not None, after, options, samples)
    return template, COMPILED + "".join(f", but {limit}" for limit in limits)


def _check_options(options: Mapping[str, Any], variables: list[str]) -> None:
    known = [name for name in variables if name not in _RESERVED]
    for name in options:
        if name not in known:
            raise ArgumentError(
                f"the chat template has no variable {name}; "
                + (f"its variables are {', '.join(known)}" if known else "it has none at all")
            )


def _prove(section: bytes, texts: bytes, renderings: list[dict[str, Any]], now: datetime.datetime) -> list[str]:
    """Compares the compiled template with the real one. Returns what the compiled one cannot do. Raises Refused if it
    is of no use or says anything else."""
    limits: dict[str, None] = {}
    for rendering in renderings:
        messages = [(role, content) for role, content in rendering["messages"]]
        said = runtime.render(section, texts, messages, rendering["thinking"], now)
        expected = rendering.get("text")
        reason = rendering.get("error") if expected is None else said.error
        if said.text is not None and said.text != expected:
            roles = ", ".join(role for role, _ in messages)
            raise Refused(f"compiled, it differs from the template for a conversation of {roles}")
        if said.text is not None:
            continue
        if messages in PLAIN:
            raise Refused(reason or "it refuses a conversation")
        if messages == WITH_SYSTEM:
            limits[f"without system messages ({reason})"] = None
        elif expected is not None:
            limits.setdefault(f"some conversations are refused ({reason})", None)
    return list(limits)[:3]
