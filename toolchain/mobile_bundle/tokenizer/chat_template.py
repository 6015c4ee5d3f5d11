"""Chat templates, taken apart at build time.

A template is a Jinja program; the phone has no Jinja. But what almost all templates do is to put fixed texts between
the contents of the messages, and which text it is depends only on the roles before and after it. Those texts are found
by rendering conversations with marked contents. Then it is proved on other conversations that they say what the
template says; if they do not, there are no pieces and the reason is given.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from mobile_bundle.errors import UserError
from mobile_bundle.input_files import read_json, read_text

SYSTEM, USER, ASSISTANT = range(3)
START = ANSWER = 3  # START only comes before, ANSWER only after
ROLES = ("system", "user", "assistant")

# What contents may look like: the proof's.
_CONTENTS = (
    "Hello",
    " two  spaces around ",
    "\n\nlines\nand\ttabs \n",
    '<b>markup & "quotes"</b> it\'s {{ braces }} {% and %} [INST] # not a comment',
    "\u00fcn\u00efc\u00f6de \u6f22\u5b57 \U0001f389 e\u0301",
    "0",
    "user: \\n \\\\ ' assistant",
)


@dataclass
class ChatPieces:
    """`between[before, after]`: the text between two places of a conversation (SYSTEM, USER, ASSISTANT; START before
    the first content, ANSWER after the last). `trims`: roles whose content loses white space at both ends."""

    between: dict[tuple[int, int], str] = field(default_factory=dict)
    trims: set[int] = field(default_factory=set)

    def render(self, messages: list[tuple[int, str]]) -> str:
        """The conversation with the request to answer. Raises KeyError for a sequence of roles that there is not."""
        text, place = "", START
        for role, content in messages:
            text += self.between[place, role] + (content.strip() if role in self.trims else content)
            place = role
        return text + self.between[place, ANSWER]


class _Unusable(Exception):
    """Why a template cannot be taken apart."""


class _GenerationBlocks(jinja2.ext.Extension):
    """Transformers' {% generation %} blocks, which only mark the assistant's tokens for training."""

    tags = {"generation"}  # noqa: RUF012 (as the base class has it)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def find_chat_template(model_dir: Path, tokenizer_config: dict[str, Any]) -> str | None:
    """The template's source, from where transformers takes it; None when the model has none. UserError for a file that
    cannot be read."""
    with contextlib.suppress(FileNotFoundError):
        return read_text(model_dir / "chat_template.jinja")
    try:
        template = read_json(model_dir / "chat_template.json")
    except FileNotFoundError:
        template = tokenizer_config
    template = template.get("chat_template") if isinstance(template, dict) else template
    if isinstance(template, list):  # named templates
        named = {str(entry.get("name")): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default", next(iter(named.values()), 0))
    if template is not None and not isinstance(template, str):
        raise UserError(f"{model_dir}: the chat template is neither text nor a list of named templates")
    return template


def compile_chat_template(
    source: str | None, special_tokens: dict[str, str], now: datetime.datetime | None = None
) -> tuple[ChatPieces | None, str]:
    """Takes a template apart.

    special_tokens: bos_token, eos_token and so on, which the template may name. now: what a template that asks for the
    date gets, by default the present.
    Returns the pieces, None when that is not possible, and one line for a person that says how it went. Never raises
    for a faulty template.
    """
    if source is None:
        return None, "the model has no chat template"
    try:
        renderer = _Renderer(source, special_tokens, now or datetime.datetime.now())
        pieces, note = _take_apart(renderer)
    except _Unusable as error:
        return None, f"the chat template cannot be compiled: {error}"
    except Exception as error:  # whatever a foreign program may raise
        return None, f"the chat template cannot be rendered: {type(error).__name__}: {error}".splitlines()[0]
    if renderer.asked_for_date:
        note += ", with the date of the build in it"
    return pieces, f"the chat template is compiled{note}"


class _Renderer:
    """The template in the environment that transformers gives it."""

    def __init__(self, source: str, special_tokens: dict[str, str], now: datetime.datetime) -> None:
        self.asked_for_date = False
        self._special_tokens = special_tokens

        def raise_exception(message: str) -> None:
            raise jinja2.TemplateError(message)

        def strftime_now(form: str) -> str:
            self.asked_for_date = True
            return now.strftime(form)

        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = raise_exception
        environment.globals["strftime_now"] = strftime_now
        self._template = environment.from_string(source)

    def render(self, messages: list[tuple[int, str]]) -> str:
        return self._template.render(
            messages=[{"role": ROLES[role], "content": content} for role, content in messages],
            tools=None,
            documents=None,
            add_generation_prompt=True,
            **self._special_tokens,
        )


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _take_apart(renderer: _Renderer) -> tuple[ChatPieces, str]:
    """The pieces and what is to be said about them. Raises the first failure when nothing less will do either."""
    failure: Exception | None = None
    for with_system, trimmed in itertools.product((True, False), (False, True)):
        try:
            pieces = _derive(renderer, with_system)
            if trimmed:
                pieces.trims = {SYSTEM, USER, ASSISTANT}
            _prove(renderer, pieces, with_system, trimmed)
        except (_Unusable, jinja2.TemplateError) as error:
            failure = failure or error
            continue
        note = "" if with_system else f", but without system messages ({failure})"
        return pieces, note + (", but white space around contents is dropped" if trimmed else "")
    assert failure
    raise failure


def _derive(renderer: _Renderer, with_system: bool) -> ChatPieces:
    pieces = ChatPieces()
    conversations = [[USER], [USER, ASSISTANT, USER]]
    if with_system:
        conversations.append([SYSTEM, USER])
    for roles in conversations:
        marks = [f"mobileBundle{index}Mark" for index in range(len(roles))]
        rest = renderer.render(list(zip(roles, marks, strict=True)))
        place = START
        for role, mark in zip(roles, marks, strict=True):
            if rest.count(mark) != 1:
                raise _Unusable(f"it does not give the content of a {ROLES[role]} message once and as it is")
            text, rest = rest.split(mark)
            pieces.between.setdefault((place, role), text)
            place = role
        pieces.between.setdefault((place, ANSWER), rest)
        for role, mark in zip(roles, marks, strict=True):
            spaced = [
                (other, f" \n{text}\n " if other == role else text) for other, text in zip(roles, marks, strict=True)
            ]
            if f" \n{mark}\n " not in renderer.render(spaced):
                pieces.trims.add(role)
    return pieces


def _prove(renderer: _Renderer, pieces: ChatPieces, with_system: bool, trimmed: bool) -> None:
    """Raises _Unusable when the pieces say anything else than the template. trimmed: about contents without white space
    around them, which is all that the runtime will give."""
    samples = [content.strip() if trimmed else content for content in _CONTENTS]
    contents: Callable[[], str] = itertools.cycle(samples).__next__
    for turns, system, _ in itertools.product(range(4), (False, True) if with_system else (False,), _CONTENTS):
        contents()  # so that every role meets every content
        roles = [SYSTEM] * system + [USER, ASSISTANT] * turns + [USER]
        messages = [(role, contents()) for role in roles]
        if pieces.render(messages) != renderer.render(messages):
            named = ", ".join(ROLES[role] for role in roles)
            raise _Unusable(f"a conversation of {named} is more than texts between contents")
