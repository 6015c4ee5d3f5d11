"""Loss and gradients of a micro-batch, as few calls of the device as can be.

A step of a small model is thousands of kernels, each shorter than its call: the GPU waits for the processor. So the
whole of it, forward and backward, is recorded as a CUDA graph after it has run twice, and replayed from then on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from mobile_bundle.healing.world import bf16_products

_WARM = 2
"""Steps before one is recorded: compiling and the libraries' workspaces must not happen in a recording."""

Tell = Callable[[str], None]


@dataclass
class _Recording:
    """inputs: where the graph reads; loss: where it writes, its gradients go to the parameters'."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    loss: Tensor


class Gradients:
    """module: (tokens, what the original's head sees, its layers' outputs or None) to a loss. record: as CUDA graphs,
    on a GPU; module must not exchange gradients itself then. variant: what else the computation depends on, a new
    recording for each. tell: takes a line where recording fails."""

    def __init__(self, module: nn.Module, device: torch.device, record: bool, variant: Callable[[], Any], tell: Tell):
        self._module, self._device, self._variant, self._tell = module, device, variant, tell
        self._record = record and device.type == "cuda"
        self._ran: dict[Any, int] = {}
        self._recordings: dict[Any, _Recording] = {}

    def clear(self) -> None:
        """Before the first micro-batch of a step."""
        recorded = bool(self._recordings)  # the graphs write to the gradients that are there
        for parameter in self._module.parameters():
            if not recorded:
                parameter.grad = None
        if recorded:
            torch._foreach_zero_([each.grad for each in self._module.parameters() if each.grad is not None])

    def add(self, tokens: Tensor, seen: Tensor, outputs: list[Tensor] | None, part: float, last: bool) -> Tensor:
        """Adds the gradients of part * loss to the parameters'. Returns part * loss, a scalar on the device.

        last: of a step; several processes exchange gradients then."""
        if not self._record:
            with self._unshared(last):
                return self._computed(tokens, seen, outputs, part)
        key = tokens.shape, outputs is None, part, self._variant()
        self._forget_others(key[-1])
        self._ran[key] = self._ran.get(key, 0) + 1
        if self._ran[key] > _WARM and key not in self._recordings:
            self._recordings.update(self._recorded(key, tokens, seen, outputs, part))
        recording = self._recordings.get(key)
        if recording is None:
            return self._computed(tokens, seen, outputs, part)
        for own, given in zip(recording.inputs, [tokens, seen, *(outputs or [])], strict=True):
            own.copy_(given)
        recording.graph.replay()
        return recording.loss

    def _forget_others(self, variant: Any) -> None:
        """Recordings of another variant: they are not replayed again, and hold the memory of a whole step."""
        self._recordings = {key: each for key, each in self._recordings.items() if key[-1] == variant}

    def _computed(self, tokens: Tensor, seen: Tensor, outputs: list[Tensor] | None, part: float) -> Tensor:
        with bf16_products(self._device):
            loss: Tensor = self._module(tokens, seen, outputs) * part
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _recorded(
        self, key: Any, tokens: Tensor, seen: Tensor, outputs: list[Tensor] | None, part: float
    ) -> dict[Any, _Recording]:
        """Nothing where the device refuses; then nothing is recorded any more."""
        for parameter in self._module.parameters():  # at places that stay
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        inputs = [each.clone() for each in (tokens, seen, *(outputs or []))]
        graph = torch.cuda.CUDAGraph()
        pool = next((each.graph.pool() for each in self._recordings.values()), None)  # one after the other uses it
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()  # what the steps before it held
            with torch.cuda.graph(graph, pool=pool):
                loss = self._computed(inputs[0], inputs[1], inputs[2:] if outputs is not None else None, part)
        except RuntimeError as error:
            self._record = False
            self._tell(f"steps are not recorded as a CUDA graph, which is slower: {str(error).splitlines()[0]}")
            return {}
        return {key: _Recording(graph, inputs, loss)}

    def _unshared(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients go to the other processes with the last part alone."""
        for module in self._module.children():
            if isinstance(module, FSDPModule):
                module.set_requires_gradient_sync(last)
        if isinstance(self._module, DistributedDataParallel) and not last:
            return self._module.no_sync()
        return nullcontext()
