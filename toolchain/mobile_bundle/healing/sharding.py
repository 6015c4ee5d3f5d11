"""A student whose weights, gradients and optimiser are spread over the processes: torch's FSDP2. Each layer is gathered
when it is computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mobile_bundle.healing.decoders import Student
from mobile_bundle.healing.world import World


def shard(student: Student, world: World) -> None:
    """Spreads a student that lies on the CPU over the devices of all processes, layer by layer: no device ever holds
    all of it."""
    mesh = init_device_mesh(world.device.type, (world.size,))
    for layer in student.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(student, mesh=mesh)


def gathered(value: Any) -> Any:
    """The same, with every tensor whole and on the CPU. Shards are exchanged: all processes must call it."""
    if isinstance(value, dict):
        return {key: gathered(each) for key, each in value.items()}
    if isinstance(value, list):
        return [gathered(each) for each in value]
    if isinstance(value, Tensor):
        return (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()
    return value


def spread(weights: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Whole tensors as shards of the module's own, by its names; plain where those are."""
    own = module.state_dict()
    return {name: _as(value, own[name]) for name, value in weights.items()}


def spread_optimiser(state: dict[str, Any], optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Whole tensors of an optimiser's state as shards like its parameters."""
    parameters = [each for group in optimiser.param_groups for each in group["params"]]
    entries = {
        number: {
            name: _as(value, parameters[number]) if value.shape == parameters[number].shape else value
            for name, value in entry.items()
        }
        for number, entry in state["state"].items()
    }
    return state | {"state": entries}


def _as(value: Tensor, own: Tensor) -> Tensor:
    """Every process has the whole value and takes its part."""
    if not isinstance(own, DTensor):
        return value.to(own.device)
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
