"""Text that the model writes itself: what it has learned, without the data that it learned it from.

Sequences are sampled in batches with a cache of keys and values that has its full size from the start. They begin as a
conversation by the model's template up to the user's words, as a document, or as the user's own openings do, and run on
to their full length. Each batch is stored when it is done, so that a run that was killed goes on behind it, and the
next run with the same model and settings reuses them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mobile_bundle.calibrate.decoder import LayerRunner, normalise
from mobile_bundle.files.disk import disk_errors
from mobile_bundle.healing.decoders import Original
from mobile_bundle.healing.mixture import Tokens

TEMPERATURE = 0.9
CHAT_SHARE = 0.6
"""Of the sequences that begin as a conversation, where the model has a chat template."""


@dataclass(frozen=True)
class Openings:
    """chat: ids up to the user's words, none without a template; documents: ids that documents begin with, at least
    one."""

    chat: Tokens | None
    documents: Sequence[Tokens]


class _CachedLayer(LayerRunner):
    """A layer that reads one token at a time. keys, values: (sequences, kv_heads, tokens, head_dim)."""

    keys: Tensor
    values: Tensor
    position: int
    first: int

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.keys[:, :, self.position] = k[:, :, 0]
        self.values[:, :, self.position] = v[:, :, 0]
        seen = slice(self.first, self.position + 1)
        grouped = q.view(len(q), k.shape[1], -1, q.shape[-1])  # the query heads of a key head lie side by side
        mixed = functional.scaled_dot_product_attention(grouped, self.keys[:, :, seen], self.values[:, :, seen])
        return mixed.view_as(q)


def sample(original: Original, openings: Sequence[Tokens], length: int, seed: int) -> Tokens:
    """Sequences of `length` tokens, int32 (count, length), one for each opening. They are the same for a seed on the
    same device."""
    with torch.no_grad(), torch.autocast(original.norm.device.type, torch.bfloat16, _is_half(original)):
        return _sampled(original, openings, length, seed)


def _is_half(original: Original) -> bool:
    return original.embedding.dtype == torch.bfloat16


def _sampled(original: Original, openings: Sequence[Tokens], length: int, seed: int) -> Tokens:
    spec, device = original.spec, original.norm.device
    generator = torch.Generator(device).manual_seed(seed)
    dtype = original.embedding.dtype
    count = len(openings)
    begun = torch.zeros(count, length, dtype=torch.int64)
    given = torch.zeros(count, length, dtype=torch.bool)
    for row, opening in enumerate(openings):
        size = min(len(opening), length)
        begun[row, :size] = torch.from_numpy(opening[:size].astype(np.int64))
        given[row, :size] = True
    tokens, given = begun.to(device), given.to(device)
    cosines, sines = original.tables(length)
    layers = []
    for weights in original.layers:
        layer = _CachedLayer(spec, weights, cosines, sines, 0)
        shape = (count, spec.kv_heads, length, spec.head_dim)
        layer.keys, layer.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        layers.append(layer)
    for position in range(length - 1):
        x = original.embedding[tokens[:, position : position + 1]].float()
        for layer in layers:
            layer.position = position
            layer.first = max(0, position + 1 - spec.sliding_window) if spec.sliding_window else 0
            layer.at(cosines[0][position : position + 1], sines[0][position : position + 1])
            x = layer.forward(x)
        x = normalise(x, original.norm, spec.norm_epsilon)[:, 0].to(dtype)
        likely = torch.softmax((x @ original.head.T).float() / TEMPERATURE, -1)
        # the largest of p / e with e exponential is a draw from p (Gumbel's way, without logarithms)
        drawn = (likely / torch.empty_like(likely).exponential_(generator=generator).clamp_(min=1e-30)).argmax(-1)
        after = tokens[:, position + 1]
        tokens[:, position + 1] = torch.where(given[:, position + 1], after, drawn)
    return tokens.cpu().numpy().astype(np.int32)


def own_text(
    original: Original,
    openings: Openings,
    folder: Path,
    *,
    tokens: int,
    length: int,
    at_once: int,
    seed: int,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Files of all batches, in order: int32 (at_once, length) each, `tokens` or a little more together.

    folder: where they are stored and found again. share: (rank, processes): which of the missing ones to write."""
    batches = -(-tokens // (at_once * length))
    files = [folder / f"own-{number:05}.npy" for number in range(batches)]
    for number, path in enumerate(files):
        if number % share[1] == share[0] and not path.exists():
            random = np.random.default_rng([seed, number])
            begun = [_opening(openings, random) for _ in range(at_once)]
            found = sample(original, begun, length, int(random.integers(1 << 62)))
            unfinished = path.with_suffix(".unfinished")
            with disk_errors(path, found.nbytes):
                folder.mkdir(parents=True, exist_ok=True)
                with unfinished.open("wb") as file:
                    np.save(file, found)
                unfinished.rename(path)
        progress(number + 1, batches)
    return files


def distinct(sequences: Tokens) -> Tokens:
    """Without those that came before, in order."""
    _, first = np.unique(sequences, axis=0, return_index=True)
    return sequences[np.sort(first)]


def _opening(openings: Openings, random: np.random.Generator) -> Tokens:
    if openings.chat is not None and random.random() < CHAT_SHARE:
        return openings.chat
    return openings.documents[int(random.integers(len(openings.documents)))]
