"""tokenizer.json and its companions to tokenizer.bin. Needs `tokenizers` only for splits that are compiled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobile_bundle.chat_template.compile import COMPILED, compile_chat_template
from mobile_bundle.chat_template.find import find_chat_template
from mobile_bundle.errors import ArgumentError, InputError, UserError
from mobile_bundle.files.inputs import read_json_object
from mobile_bundle.models.gguf import GgufFile, is_gguf
from mobile_bundle.models.gguf.config import generation_json
from mobile_bundle.tokenizer.binary import write_tokenizer
from mobile_bundle.tokenizer.charsmap_proof import prove_charsmap
from mobile_bundle.tokenizer.companions import TokenizerFiles, read_tokenizer_files
from mobile_bundle.tokenizer.gguf import read_tokenizer
from mobile_bundle.tokenizer.proof import prove_splits
from mobile_bundle.tokenizer.steps import BYTE_LEVEL, parse_steps
from mobile_bundle.tokenizer.vocabulary import Vocabulary, read_vocabulary

_TEMPLATE_TOKENS = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
"""What transformers hands to a chat template."""


@dataclass(frozen=True)
class CompiledTokenizer:
    """What a bundle needs of a tokenizer."""

    data: bytes  # tokenizer.bin
    vocabulary: int  # highest id + 1
    bos: int | None
    eos: list[int]  # ids that end a text, the first one the model's own; may be empty
    chat_end: int | None  # the special token that ends an answer in a chat, where the template names one
    chat_template: str | None  # its source
    chat_template_status: str  # one line: compiled (and what it cannot do then), or why not
    chat_options: dict[str, Any] = field(default_factory=dict)  # fixed by the build
    has_thinking: bool = False  # whether a request may switch thinking on and off
    notes: list[str] = field(default_factory=list)  # for a person: what is left out, or may differ from transformers

    @property
    def has_chat(self) -> bool:
        """Whether tokenizer.bin holds the chat template."""
        return self.chat_template_status.startswith(COMPILED)

    @property
    def has_whole_chat(self) -> bool:
        """Whether tokenizer.bin holds all that the chat template does."""
        return self.chat_template_status == COMPILED


@dataclass(frozen=True)
class _Sources:
    """What a tokenizer is compiled from. template: the chat template, or None and why; generation: the parsed
    generation_config.json."""

    files: TokenizerFiles
    template: tuple[str | None, str]
    generation: dict[str, Any]


def compile_tokenizer(
    model_dir: Path, config: dict[str, Any], chat_options: Mapping[str, Any] | None = None
) -> CompiledTokenizer:
    """Compiles the tokenizer of a checkpoint directory, or of a GGUF file.

    config: the parsed config.json; added tokens for which a model of its `vocab_size` has no rows are left out.
    chat_options: keyword arguments of apply_chat_template that the build fixes. Raises UserError, one line that says
    what to do, when tokenizer.json is missing or does what the runtime cannot do exactly. A chat template that cannot
    be compiled is no error, unless there are options for it.
    """
    if not is_gguf(model_dir):
        return _compiled(model_dir / "tokenizer.json", _from_directory(model_dir, config), config, chat_options)
    found = _from_gguf(model_dir)
    try:
        return _compiled(model_dir, found, config, chat_options)
    except UserError as error:
        reason = error.message.removeprefix("tokenizer.json: ")
        raise type(error)(f"{model_dir}, its tokenizer: {reason}", error.remedy) from error


def _from_directory(model_dir: Path, config: dict[str, Any]) -> _Sources:
    path = model_dir / "tokenizer.json"
    if not path.is_file():
        other = next((name for name in ("tokenizer.model", "vocab.json") if (model_dir / name).is_file()), None)
        hint = f" from its {other}" if other else ""
        raise InputError(
            f"{path} is missing: make it{hint} with transformers: "
            "AutoTokenizer.from_pretrained(DIRECTORY).save_pretrained(DIRECTORY)"
        )
    files = read_tokenizer_files(model_dir, read_json_object(path), config)
    template = find_chat_template(model_dir, _read_optional(model_dir / "tokenizer_config.json"))
    return _Sources(files, template, _read_optional(model_dir / "generation_config.json"))


def _from_gguf(path: Path) -> _Sources:
    with GgufFile(path) as file:
        found = read_tokenizer(file)
        return _Sources(
            TokenizerFiles(found.description, found.special), (found.chat_template, ""), generation_json(file)
        )


def _compiled(
    path: Path, found: _Sources, config: dict[str, Any], chat_options: Mapping[str, Any] | None
) -> CompiledTokenizer:
    """path: the file that is read, for messages."""
    files = found.files
    try:
        steps = parse_steps(files.description)
        vocabulary = read_vocabulary(files.description, steps)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a tokenizer that can be read ({type(error).__name__}: {error})") from error
    rows = config.get("vocab_size")
    left_out = vocabulary.leave_out(rows) if isinstance(rows, int) else []
    source, reason = found.template
    chat, status = None, f"the chat template cannot be read: {reason}" if reason else "the model has no chat template"
    if source is not None:
        named = {name: files.special[name] for name in _TEMPLATE_TOKENS if name in files.special}
        chat, status = compile_chat_template(source, named, chat_options)
    if chat and (used := next((token for token in left_out if any(token in text for text in chat.samples)), "")):
        chat, status = None, f"the chat template cannot be used: the model has no row for the token {used} in it"
    if chat_options and chat is None:
        raise ArgumentError(f"chat options were given, and {status}")
    sources: list[dict[str, Any]] = [found.generation, config, files.special]
    bos = _token_ids("bos_token", sources, vocabulary)
    if steps.splits:
        prove_splits(steps.splits, json.dumps(steps.split_parts), bool(steps.flags & BYTE_LEVEL))
    if steps.charsmap:
        prove_charsmap(steps.charsmap)
    return CompiledTokenizer(
        data=write_tokenizer(vocabulary, steps, chat),
        vocabulary=vocabulary.size,
        bos=bos[0] if bos else None,
        eos=_token_ids("eos_token", sources, vocabulary),
        chat_end=_leading_token(chat.after_answer, vocabulary) if chat else None,
        chat_template=source,
        chat_template_status=status,
        chat_options=dict(chat.options) if chat else {},
        has_thinking=chat is not None and chat.thinking,
        notes=[*files.notes, *_left_out_notes(left_out, rows)],
    )


def _left_out_notes(tokens: list[str], rows: Any) -> list[str]:
    if not tokens:
        return []
    few = ", ".join(token[:40] for token in tokens[:5]) + (" ..." if len(tokens) > 5 else "")
    return [f"{len(tokens)} added tokens are left out, the model has only {rows} rows: {few}"]


def _read_optional(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except FileNotFoundError:
        return {}


def _token_ids(name: str, sources: list[dict[str, Any]], vocabulary: Vocabulary) -> list[int]:
    """The ids that the first source with any gives, under `name` or `name`_id: a number, a string or a list of them."""
    for source in sources:
        values = source.get(f"{name}_id", source.get(name))
        ids = []
        for value in values if isinstance(values, list) else [values]:
            number = vocabulary.lookup(value) if isinstance(value, str) else value
            if type(number) is int and 0 <= number < vocabulary.size and number not in ids:
                ids.append(number)
        if ids:
            return ids
    return []


def _leading_token(text: str, vocabulary: Vocabulary) -> int | None:
    """The longest special token that the text begins with, white space aside."""
    text = text.lstrip()
    found = [name for name in vocabulary.special if text.startswith(name)]
    return vocabulary.lookup(max(found, key=len)) if found else None
