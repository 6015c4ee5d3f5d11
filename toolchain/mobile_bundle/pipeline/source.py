"""Stage 1, reading: the checkpoint and its tokenizer, which have to belong together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mobile_bundle.errors import InputError
from mobile_bundle.models import DecoderSpec, Model, open_model
from mobile_bundle.models.spec import MAX_EOS
from mobile_bundle.pipeline.request import BuildRequest
from mobile_bundle.tokenizer import CompiledTokenizer, compile_tokenizer


@dataclass(frozen=True)
class Source:
    """model: the open checkpoint, whose `notes` the stages add to; tokenizer: compiled; spec: the model's, with the
    tokenizer's BOS and end tokens."""

    model: Model
    tokenizer: CompiledTokenizer
    spec: DecoderSpec


@contextmanager
def open_source(request: BuildRequest) -> Iterator[Source]:
    """UserError for a checkpoint or a tokenizer that cannot be used."""
    with open_model(request.model) as model:
        tokenizer = compile_tokenizer(request.model, model.checkpoint.config, request.chat_options)
        if tokenizer.vocabulary > model.spec.vocabulary:
            raise InputError(
                f"{request.model}: the tokenizer has {tokenizer.vocabulary} tokens, the model only "
                f"{model.spec.vocabulary}: they do not belong together"
            )
        bos = -1 if tokenizer.bos is None else tokenizer.bos
        yield Source(model, tokenizer, model.spec.with_tokens(bos, _end_tokens(tokenizer, model.notes)))


def note_given_up(source: Source) -> None:
    """Notes what of the checkpoint is not in the bundle, as far as it is known when the weights are coded."""
    model, tokenizer = source.model, source.tokenizer
    model.notes.extend(tokenizer.notes)
    if not tokenizer.has_whole_chat:
        model.notes.append(tokenizer.chat_template_status)
    zeros = [tensor.source for tensor in model.tensors if model.is_zero(tensor)]
    if zeros:
        few = ", ".join(zeros[:3]) + (" ..." if len(zeros) > 3 else "")
        model.notes.append(f"{len(zeros)} tensors are zero throughout, as in a checkpoint that is not whole: {few}")


def _end_tokens(tokenizer: CompiledTokenizer, notes: list[str]) -> tuple[int, ...]:
    """The checkpoint's, and the one that ends an answer by the chat template: some checkpoints leave it out. Those that
    are beyond what the runtime holds become a note."""
    ends, chat_end = list(tokenizer.eos), tokenizer.chat_end
    if chat_end is not None and chat_end not in ends[:MAX_EOS]:
        ends = [token for token in ends if token != chat_end]
        ends.insert(MAX_EOS - 1, chat_end)
    if len(ends) > MAX_EOS:
        left = ", ".join(str(token) for token in ends[MAX_EOS:][:8])
        notes.append(f"the model has {len(ends)} end tokens, the runtime holds {MAX_EOS}: {left} do not end a text")
    return tuple(ends[:MAX_EOS])
