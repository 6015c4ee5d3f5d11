"""The processes of one run: started by torchrun, one for each GPU, or a single one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from mobile_bundle.errors import ArgumentError, InstallationError


@dataclass(frozen=True)
class World:
    """rank of size processes, on `device`."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()

    def average(self, values: list[torch.Tensor]) -> None:
        """Of all processes, in place."""
        if self.size > 1:
            whole = torch.cat([value.flatten() for value in values])
            dist.all_reduce(whole)
            parts = torch.split(whole.div_(self.size), [value.numel() for value in values])
            torch._foreach_copy_(values, [part.view_as(value) for part, value in zip(parts, values, strict=True)])

    def agreed(self, value: float) -> float:
        """The first process's value."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return float(shared)


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """By torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK). device: "cpu" or "cuda". UserError if there is no such
    device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InstallationError("`device` cuda: torch sees no GPU", "use cpu, or install a driver and torch for CUDA")
    size = _number("WORLD_SIZE", 1)
    rank, local = _number("RANK", 0), _number("LOCAL_RANK", 0)
    own = torch.device(device, local) if device == "cuda" else torch.device("cpu")
    if device == "cuda":
        torch.cuda.set_device(own)
    precision = torch.get_float32_matmul_precision()
    # TF32 on a GPU; on a CPU oneDNN, with bfloat16 where it has units for that, which is less than int8 loses
    torch.set_float32_matmul_precision("high" if device == "cuda" else "medium")
    if size > 1:
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield World(rank, size, own)
    finally:
        torch.set_float32_matmul_precision(precision)
        if size > 1:
            dist.destroy_process_group()


def bf16_products(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, products are of bfloat16: on a GPU, and on a processor with units for it, where that takes half the time.
    Nothing else changes: sums of a product, weights and what lies between layers stay float32."""
    capable = torch.cpu.get_capabilities()
    if device.type == "cpu" and not capable.get("avx512_bf16") and not capable.get("amx_bf16"):
        return nullcontext()
    # no cache: the weights of a step are made anew in it
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if text and not text.isdigit():
        raise ArgumentError(f"the environment's {name} is {text!r}, not a number; start this command with torchrun")
    return int(text) if text else default
