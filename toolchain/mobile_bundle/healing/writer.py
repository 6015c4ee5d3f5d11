"""A model that writes many sequences side by side, one token at a time.

All that a step reads and writes lies at fixed places of the device's memory: a step is recorded once as a CUDA graph
and replayed for every further token, so that hundreds of small kernels cost one call. Places of the cache that are not
written yet are masked; how many are looked at grows by pieces, with a graph for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mobile_bundle.calibrate.decoder import LayerRunner, embedded, normalise, soft_cap
from mobile_bundle.healing.decoders import Original, first_alike
from mobile_bundle.healing.mixture import Tokens

_PIECE = 128
"""Places of the cache by which a step looks further back."""

Tell = Callable[[str], None]


class _CachedLayer(LayerRunner):
    """A layer that reads one token at a time. keys, values: (sequences, kv_heads, tokens, head_dim); past: of a
    convolution, its last inputs (sequences, taps, hidden); place: int64 (1,), of the token; mask: bool (seen,), places
    that the token sees."""

    keys: Tensor
    values: Tensor
    past: Tensor
    place: Tensor
    mask: Tensor

    def remember(self, count: int, length: int, device: torch.device, dtype: torch.dtype) -> None:
        """Makes the cache of `count` sequences."""
        spec = self._spec
        if self._convolution:
            self.past = torch.zeros(count, spec.taps, spec.hidden, device=device)
            return
        shape = (count, spec.kv_heads, length, spec.head_dim)
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))

    @property
    def window(self) -> int:
        """Positions that a query sees; 0: all."""
        return self._window

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        spec, seen = self._spec, len(self.mask)
        self.keys.index_copy_(2, self.place, k.to(self.keys.dtype))
        self.values.index_copy_(2, self.place, v.to(self.values.dtype))
        grouped = q.view(len(q), k.shape[1], -1, q.shape[-1])  # the query heads of a key head lie side by side
        keys, values = self.keys[:, :, :seen], self.values[:, :, :seen]
        if spec.score_cap:
            scores = soft_cap(
                (grouped.to(keys.dtype) @ keys.transpose(-1, -2)).float() * spec.score_scale, spec.score_cap
            )
            mixed = scores.masked_fill(~self.mask, -torch.inf).softmax(-1).to(values.dtype) @ values
        else:
            mixed = functional.scaled_dot_product_attention(
                grouped.to(keys.dtype), keys, values, attn_mask=self.mask.expand(1, 1, 1, -1), scale=spec.score_scale
            )
        return mixed.reshape(q.shape)

    def _convolve(self, gates: Tensor) -> Tensor:
        b, c, x = gates.chunk(3, dim=-1)
        self.past.copy_(torch.cat([self.past[:, 1:], (b * x).to(self.past.dtype)], 1))
        weights = self._weights["conv.taps.weight"].view(self._spec.taps, -1)
        return c * (self.past * weights).sum(1, keepdim=True)


class Writer:
    """`count` sequences of `length` tokens. temperature: of the sampling."""

    def __init__(self, original: Original, count: int, length: int, temperature: float) -> None:
        self._original, self._length, self._temperature = original, length, temperature
        device, dtype = original.norm.device, original.embedding.dtype
        self._tokens = torch.zeros(count, length, dtype=torch.int64, device=device)
        self._given = torch.zeros(count, length, dtype=torch.bool, device=device)
        self._place = torch.zeros(1, dtype=torch.int64, device=device)
        self._places = torch.arange(length, device=device)
        self._noise = torch.ones(count, len(original.head), device=device)
        self._graphs: dict[int, torch.cuda.CUDAGraph | None] = {}
        cosines, sines = self._tables = original.tables(length)
        spec = original.spec
        self._layers = [
            _CachedLayer(spec, weights, cosines, sines, first_alike(spec, number))
            for number, weights in enumerate(original.layers)
        ]
        for layer in self._layers:
            layer.remember(count, length, device, dtype)
            layer.place = self._place

    @torch.no_grad()
    def write(self, openings: Sequence[Tokens], seed: int, tell: Tell) -> Tokens:
        """int32 (count, length): one sequence for each opening. The same for a seed on the same device.

        tell: takes a line where the steps cannot be recorded, and are computed one by one."""
        device = self._tokens.device
        generator = torch.Generator(device).manual_seed(seed)
        self._begin(openings)
        with torch.autocast(device.type, torch.bfloat16, self._original.embedding.dtype == torch.bfloat16):
            for position in range(self._length - 1):
                # a logit less the logarithm of an exponential draw: the largest is a draw from softmax (Gumbel's way)
                self._noise.exponential_(generator=generator)
                self._advance(min(self._length, (position // _PIECE + 1) * _PIECE), position, tell)
        return self._tokens.cpu().numpy().astype(np.int32)

    def _begin(self, openings: Sequence[Tokens]) -> None:
        begun = torch.zeros(self._tokens.shape, dtype=torch.int64)
        given = torch.zeros(self._given.shape, dtype=torch.bool)
        for row, opening in enumerate(openings):
            size = min(len(opening), self._length)
            begun[row, :size] = torch.from_numpy(opening[:size].astype(np.int64))
            given[row, :size] = True
        self._tokens.copy_(begun)
        self._given.copy_(given)
        self._place.zero_()
        for layer in self._layers:
            if hasattr(layer, "past"):
                layer.past.zero_()

    def _advance(self, seen: int, position: int, tell: Tell) -> None:
        """A token of every sequence: by the graph of so many places, which is recorded when it is needed first."""
        graphs = self._graphs
        if position < 2 or self._tokens.device.type != "cuda":  # the first steps warm up what a recording must not hold
            self._step(seen)
            return
        if seen not in graphs and None not in graphs.values():
            graphs[seen] = self._recorded(seen, tell)
        graph = graphs.get(seen)
        if graph is None:
            self._step(seen)
        else:
            graph.replay()

    def _recorded(self, seen: int, tell: Tell) -> torch.cuda.CUDAGraph | None:
        """None where the device or the driver refuses."""
        graph = torch.cuda.CUDAGraph()
        try:
            torch.cuda.synchronize()
            memory = next((each.pool() for each in self._graphs.values() if each), None)  # one after the other use it
            with torch.cuda.graph(graph, pool=memory):
                self._step(seen)
        except RuntimeError as error:
            tell(f"own text is written without a CUDA graph, which is slower: {str(error).splitlines()[0]}")
            return None
        return graph

    def _step(self, seen: int) -> None:
        """The next token of every sequence, from what lies at the place, with the cache's first `seen` places."""
        original, place = self._original, self._place
        spec = original.spec
        rows = [table.index_select(1, place) for table in self._tables]
        masks: dict[int, Tensor] = {}
        x = embedded(spec, original.embedding[self._tokens.index_select(1, place)].float())
        for layer in self._layers:
            window = layer.window
            if window not in masks:
                behind = place - self._places[:seen]
                masks[window] = (behind >= 0) & (behind < window) if window else behind >= 0
            layer.mask = masks[window]
            kind = int(window > 0)
            layer.at(rows[0][kind], rows[1][kind])
            x = layer.forward(x)
        x = normalise(x, original.norm, spec.norm_epsilon)[:, 0].to(original.head.dtype)
        logits = soft_cap((x @ original.head.T).float(), spec.logit_cap) / self._temperature
        drawn = (logits - self._noise.clamp(min=1e-30).log()).argmax(-1, keepdim=True)
        place.add_(1)
        after, given = self._tokens.index_select(1, place), self._given.index_select(1, place)
        self._tokens.index_copy_(1, place, torch.where(given, after, drawn))
