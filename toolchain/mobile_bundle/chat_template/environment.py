"""Jinja as transformers sets it up for chat templates, and a conversation rendered in it as transformers does.

Runs foreign programs: only the child process may use it.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

CONTINUE_TAG = "CONTINUE_FINAL_MESSAGE_TAG "

GENERATION = "_generation_support"
"""The method that a {% generation %} block calls; what is inside passes through."""


class _GenerationBlocks(jinja2.ext.Extension):
    """Transformers' {% generation %} blocks, which only mark the assistant's tokens for training."""

    tags = {"generation"}  # noqa: RUF012 (as the base class has it)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method(GENERATION), [], [], body).set_lineno(line)

    def _generation_support(self, caller: Callable[[], str]) -> str:
        return caller()


def make_environment(now: datetime.datetime) -> jinja2.Environment:
    """The environment of transformers' apply_chat_template at a point in time."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = now.strftime
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def render(template: jinja2.Template, messages: Sequence[tuple[str, str]], variables: Mapping[str, Any]) -> str:
    """The conversation, (role, content) each, with the request to answer; one that ends with the assistant's message
    has that message continued (continue_final_message). Raises what the template raises, ValueError as transformers."""
    chat = [{"role": role, "content": content} for role, content in messages]
    goes_on = messages[-1][0] == "assistant"
    last = chat[-1]["content"]
    if goes_on:
        chat[-1]["content"] += CONTINUE_TAG
    text = template.render(
        **{"tools": None, "documents": None, **variables, "messages": chat, "add_generation_prompt": not goes_on}
    )
    if not goes_on:
        return text
    tag = CONTINUE_TAG.strip()
    if last.strip() not in text or tag not in text:
        raise ValueError("the last message is not in the conversation as it is")
    place = text.rindex(tag)
    return text[:place] if text[place : place + len(CONTINUE_TAG)] == CONTINUE_TAG else text[:place].rstrip()
