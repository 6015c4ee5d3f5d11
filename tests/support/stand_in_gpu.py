"""A GPU that this machine does not have: tensors that say that they lie elsewhere, and compute on the processor.

An operation that mixes them with the processor's own tensors fails as on a GPU, and so does taking one for an array
without bringing it over. torch's device "meta" lends the name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

NAME = "meta"
_DEVICE = torch.device(NAME)


class _Tensor(torch.Tensor):
    """held: the values, on the processor."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> _Tensor:
        made: _Tensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype, device=_DEVICE
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Takes what no argument tells: tensors that are made on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [each for each in tree_iter((args, kwargs)) if isinstance(each, torch.Tensor)]
    there = [isinstance(each, _Tensor) for each in tensors]
    moves = func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
    mixed = any(there) and not all(own or each.dim() == 0 for own, each in zip(there, tensors, strict=True))
    if mixed and not moves:
        raise RuntimeError(f"{func}: tensors of two devices")
    asked = kwargs.get("device")
    onto = asked.type == NAME if asked is not None else any(there)
    if func.overloadpacket is torch.ops.aten.copy_:
        onto = there[0]
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    held_args, held_kwargs = tree_map(lambda each: each.held if isinstance(each, _Tensor) else each, (args, kwargs))
    found = func(*held_args, **held_kwargs)
    own = {id(each.held): each for each in tensors if isinstance(each, _Tensor)}

    def wrapped(each: Any) -> Any:
        """An operation that changes its argument gives that very tensor."""
        if not onto or not isinstance(each, torch.Tensor):
            return each
        return own[id(each)] if id(each) in own else _Tensor(each)

    return tree_map(wrapped, found)


@contextmanager
def stand_in_gpu() -> Iterator[str]:
    """The device's name. In the thread that enters, tensors can be made there; in others, from such tensors."""
    with _Mode():
        yield NAME
