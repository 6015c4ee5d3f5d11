"""AdamW with a bounded gradient, without a word from the device in between: a step whose gradient is not finite is
skipped there, and the processor asks for the number of such steps when it likes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mobile_bundle.healing.decoders import rated

_LARGEST_NORM = 1.0


class Optimiser:
    """Of a student's parameters, betas 0.9 and 0.95, no decay."""

    def __init__(self, student: nn.Module, rate: float, device: torch.device) -> None:
        self._adam = torch.optim.AdamW(rated(student, rate), betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self._parameters = list(student.parameters())
        self._skipped = torch.zeros((), device=device)

    @property
    def adam(self) -> torch.optim.AdamW:
        """Its state is what a checkpoint keeps."""
        return self._adam

    @property
    def skipped(self) -> int:
        """Steps so far whose gradient was not finite. Waits for the device."""
        return int(self._skipped)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """rate: of learning. The gradients are used up."""
        for group in self._adam.param_groups:
            group["lr"] = rate * group["share"]
        norm = _whole(nn.utils.get_total_norm([each.grad for each in self._parameters if each.grad is not None]))
        failed = (~torch.isfinite(norm)).float()
        self._skipped += failed
        # what torch's own GradScaler hands to a fused optimiser: the divisor of the gradients, and whether to skip
        given: dict[str, Any] = {"grad_scale": (norm / _LARGEST_NORM).clamp(min=1.0), "found_inf": failed}
        for name, value in given.items():
            setattr(self._adam, name, value)
        self._adam.step()


def _whole(norm: Tensor) -> Tensor:
    """Of shards on several devices."""
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
