"""Writes a checkpoint directory whose vocabulary is that of some texts.

It is a checkpoint as any other: what reads, measures, plans and codes need not know of it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import InputError, UnsupportedError
from mobile_bundle.files.disk import disk_errors, write_file
from mobile_bundle.files.inputs import read_json_object
from mobile_bundle.files.work_folder import scratch_folder
from mobile_bundle.models import Checkpoint, TensorSpec, open_model
from mobile_bundle.models.gguf import is_gguf
from mobile_bundle.native.constraint import most_form_bytes
from mobile_bundle.native.tokenizer import Tokenizer
from mobile_bundle.tokenizer import steps as step
from mobile_bundle.tokenizer.companions import read_tokenizer_files
from mobile_bundle.tokenizer.compile import compile_tokenizer
from mobile_bundle.tokenizer.steps import Steps, parse_steps
from mobile_bundle.tokenizer.vocabulary import Vocabulary, read_vocabulary
from mobile_bundle.vocabulary import renamed
from mobile_bundle.vocabulary.selection import needed

_PIECE = 4 << 20
_COPIED = ("README.md", "LICENSE", "special_tokens_map.json", "chat_template.jinja", "chat_template.json")


@dataclass(frozen=True)
class Reduction:
    """rows: of every new id the old one. old_rows: how many rows the embedding had. old_tokenizer_bytes,
    tokenizer_bytes: of tokenizer.bin before and after. form_bytes: what answers in a given form take at most, after.
    tokens_per_word: in the texts, before and after alike.
    elsewhere: in another text, before and after."""

    rows: list[int]
    old_rows: int
    old_tokenizer_bytes: int
    tokenizer_bytes: int
    form_bytes: int
    tokens_per_word: float
    elsewhere: tuple[float, float]

    def note(self, row_bytes: float) -> str:
        """A line for a person. row_bytes: what a row of the embedding, and of a head of its own, takes together."""
        saved = (self.old_rows - len(self.rows)) * row_bytes + self.old_tokenizer_bytes - self.tokenizer_bytes
        before, after = self.elsewhere
        return (
            f"the vocabulary has {len(self.rows):,} of {self.old_rows:,} tokens, which saves {saved / 1e6:.1f} MB "
            f"({(self.old_tokenizer_bytes - self.tokenizer_bytes) / 1e6:.1f} MB of them tokenizer); tokens per word: "
            f"{self.tokens_per_word:.2f} in the text that it was taken from, before and after; in the English text "
            f"that ships with the tool {before:.2f} before and {after:.2f} after"
        )


def smaller_checkpoint(model_dir: Path, texts: Sequence[str], elsewhere: str, folder: Path) -> Reduction:
    """Writes the checkpoint of model_dir into the new directory `folder`, with the tokens that the texts need.

    The directory takes as much space as the weights. Raises UserError: for GGUF files and Unigram tokenizers, for texts
    without words, and as open_model and compile_tokenizer do."""
    reduction = smaller_tokenizer(model_dir, texts, elsewhere, folder)
    with open_model(model_dir) as model:
        assert isinstance(model.checkpoint, Checkpoint)  # smaller_tokenizer refused the other kind
        _write_weights(model.checkpoint, model.tensors, reduction.rows, folder / "model.safetensors")
    return reduction


def smaller_tokenizer(model_dir: Path, texts: Sequence[str], elsewhere: str, folder: Path) -> Reduction:
    """The same without weights: configuration and tokenizer."""
    if is_gguf(model_dir):
        raise UnsupportedError(
            f"{model_dir}: the vocabulary of a GGUF file cannot be made smaller", "take the checkpoint directory"
        )
    folder.mkdir()
    config = read_json_object(model_dir / "config.json")
    generation = _optional(model_dir / "generation_config.json")
    compiled = compile_tokenizer(model_dir, config)
    vocabulary, steps = _read(model_dir, config)
    if not any(text.split() for text in texts):
        raise InputError("the text that the vocabulary is taken from has no words")
    *used_by, template = _encoded(compiled.data, [*texts, compiled.chat_template or ""])
    used = set(np.unique(np.concatenate([*used_by, template])).tolist())
    used |= renamed.named_ids(config) | renamed.named_ids(generation)
    texts_of = {number: text for text, number in vocabulary.tokens.items()}
    known = texts_of.keys() | {token.id for token in vocabulary.added}
    kept = sorted(needed(vocabulary, steps, used & known))
    order = [texts_of[number] for number in kept if number in texts_of]
    ids = _new_ids(kept, texts_of, vocabulary, order)
    _write_files(model_dir, folder, config, generation, order, ids)
    smaller = compile_tokenizer(folder, read_json_object(folder / "config.json"))
    rows = [old for old, _ in sorted(ids.items(), key=lambda pair: pair[1])]
    if smaller.vocabulary != len(rows):
        raise UnsupportedError(f"{model_dir}: the ids of its tokenizer cannot be renamed")
    before, after = (_per_word(_encoded(data, [elsewhere]), [elsewhere]) for data in (compiled.data, smaller.data))
    return Reduction(
        rows,
        int(config["vocab_size"]),
        len(compiled.data),
        len(smaller.data),
        most_form_bytes(smaller.data, len(rows)),
        _per_word(used_by, texts),
        (before, after),
    )


def _read(model_dir: Path, config: dict[str, Any]) -> tuple[Vocabulary, Steps]:
    files = read_tokenizer_files(model_dir, read_json_object(model_dir / "tokenizer.json"), config)
    steps = parse_steps(files.description)
    vocabulary = read_vocabulary(files.description, steps)
    if vocabulary.flags & step.UNIGRAM:
        raise UnsupportedError(
            "tokenizer.json: the vocabulary of a Unigram tokenizer cannot be made smaller: its best ways would change"
        )
    vocabulary.leave_out(int(config["vocab_size"]))
    return vocabulary, steps


def _encoded(data: bytes, texts: Iterable[str]) -> list[NDArray[np.int32]]:
    """The ids of each text by a tokenizer.bin."""
    with scratch_folder() as folder:
        path = folder / "tokenizer.bin"
        write_file(path, data)
        tokenizer = Tokenizer(path)
        try:
            return [tokenizer.encode(text) for text in texts]
        finally:
            tokenizer.close()


def _per_word(ids: Sequence[NDArray[np.int32]], texts: Sequence[str]) -> float:
    return sum(map(len, ids)) / max(1, sum(len(text.split()) for text in texts))


def _new_ids(kept: list[int], texts: dict[int, str], vocabulary: Vocabulary, order: list[str]) -> dict[int, int]:
    """Old ids to new ones: the model's tokens in their order, then the added ones beside them, as the tokenizers
    library counts."""
    places = {text: number for number, text in enumerate(order)}
    ids = {number: places[texts[number]] for number in kept if number in texts}
    for token in vocabulary.added:
        if token.id not in ids:
            ids[token.id] = len(ids)
    return ids


def _write_files(
    model_dir: Path,
    folder: Path,
    config: dict[str, Any],
    generation: dict[str, Any],
    order: list[str],
    ids: dict[int, int],
) -> None:
    changed = renamed.token_ids(config, ids) | {"vocab_size": len(ids)}
    changed.pop("transformers_weights", None)
    _write(folder / "config.json", changed)
    if generation:
        _write(folder / "generation_config.json", renamed.token_ids(generation, ids))
    description = read_json_object(model_dir / "tokenizer.json")
    _write(folder / "tokenizer.json", renamed.tokenizer_json(description, set(order), order, ids))
    if settings := _optional(model_dir / "tokenizer_config.json"):
        _write(folder / "tokenizer_config.json", renamed.settings(settings, ids))
    if added := _optional(model_dir / "added_tokens.json"):
        _write(folder / "added_tokens.json", {text: ids[number] for text, number in added.items() if number in ids})
    for name in _COPIED:
        if (model_dir / name).is_file():
            shutil.copyfile(model_dir / name, folder / name)


def _write_weights(checkpoint: Checkpoint, tensors: Sequence[TensorSpec], rows: list[int], path: Path) -> None:
    """One safetensors file: every tensor as it is, of embedding and output head the rows of kept tokens."""
    cut = {tensor.source for tensor in tensors if tensor.role in ("embedding", "output")} | {"lm_head.weight"}
    header: dict[str, Any] = {}
    at = 0
    names = checkpoint.names()
    for name in names:
        _, stored = checkpoint.held(name)
        shape = [len(rows), *stored.shape[1:]] if name in cut else list(stored.shape)
        size = stored.bytes // stored.shape[0] * len(rows) if name in cut else stored.bytes
        header[name] = {"dtype": stored.dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with disk_errors(path, at + len(text) + 8), open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            held, stored = checkpoint.held(name)
            if name in cut:
                width = stored.bytes // stored.shape[0]
                for begin, end in _runs(rows):
                    file.write(held.read(stored.offset + begin * width, (end - begin) * width))
            else:
                for begin in range(0, stored.bytes, _PIECE):
                    file.write(held.read(stored.offset + begin, min(_PIECE, stored.bytes - begin)))


def _runs(rows: list[int]) -> Iterable[tuple[int, int]]:
    """The rows as ranges of neighbours."""
    begin = 0
    for at in range(1, len(rows) + 1):
        if at == len(rows) or rows[at] != rows[at - 1] + 1:
            yield rows[begin], rows[at - 1] + 1
            begin = at


def _write(path: Path, value: dict[str, Any]) -> None:
    write_file(path, json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def _optional(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except FileNotFoundError:
        return {}
