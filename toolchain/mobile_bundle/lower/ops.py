"""The operators as torch knows them: `torch.ops.mobile_bundle.linear_<format>` and `torch.ops.mobile_bundle.embedding`.

    linear_<format>(Tensor x, Tensor weight, int out_features, Tensor? bias=None) -> Tensor
    embedding(Tensor weight, Tensor indices, int embedding_dim) -> Tensor

weight: uint8 (bytes,), exactly one blob of that packed format (packed_formats.h), on the CPU.
x: float32 (..., columns); bias: float32 (out_features,); result: float32 (..., out_features).
indices: int64 (...); result: float32 (..., embedding_dim).
out_features and embedding_dim repeat what the blob's header says: torch.export computes shapes without the bytes.

Inputs are rounded to int8 as the engine does (but for bf16), and eager results come from the engine's own kernels: a
lowered program gives the same bits. There is no gradient. UserError for arguments that do not fit together.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from mobile_bundle.codecs import BlobError, BlobHeader, Format
from mobile_bundle.codecs.declaration import all_rules
from mobile_bundle.errors import ArgumentError, InputError
from mobile_bundle.native import linear as native_linear

NAMESPACE = "mobile_bundle"
LINEAR = {rules.format: f"linear_{rules.format.name.lower()}" for rules in all_rules() if rules.operator}
"""The linear operator of every packed format."""
EMBEDDING = "embedding"

_library = torch.library.Library(NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]


def operator_names() -> list[str]:
    """The operators as a lowered program names them: mobile_bundle::linear_bf16.out, ..."""
    return [f"{NAMESPACE}::{name}.out" for name in (*LINEAR.values(), EMBEDDING)]


def _header(weight: torch.Tensor) -> BlobHeader:
    if weight.dtype != torch.uint8 or weight.dim() != 1 or not weight.is_contiguous():
        raise ArgumentError(f"a weight is a blob, uint8 (bytes,), not {weight.dtype} {tuple(weight.shape)}")
    try:
        return BlobHeader.parse(weight[:64].numpy().data)
    except BlobError as error:
        raise InputError(str(error)) from error


def _linear(format: Format) -> Callable[..., torch.Tensor]:
    def linear(
        x: torch.Tensor, weight: torch.Tensor, out_features: int, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        header = _header(weight)
        if header.format is not format:
            raise ArgumentError(f"{LINEAR[format]} got a weight of format {header.format.name}: use its own operator")
        if (header.rows, header.columns) != (out_features, x.shape[-1]):
            raise ArgumentError(
                f"the weight is {header.rows} x {header.columns}, yet x has {x.shape[-1]} columns and the result "
                f"{out_features}"
            )
        y = native_linear.linear(weight.numpy(), x.reshape(-1, header.columns).contiguous().numpy(), header.rows)
        result = torch.from_numpy(y).reshape(*x.shape[:-1], header.rows)
        return result if bias is None else result + bias

    return _checked_linear(linear)


def _checked_linear(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`function` behind the checks that need no bytes, which tracing does, too."""

    def linear(
        x: torch.Tensor, weight: torch.Tensor, out_features: int, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        if x.dtype != torch.float32 or x.dim() == 0:
            raise ArgumentError(f"x is float32 (..., columns), not {x.dtype} {tuple(x.shape)}: use model.float()")
        if bias is not None and (bias.dtype != torch.float32 or tuple(bias.shape) != (out_features,)):
            raise ArgumentError(f"the bias is float32 ({out_features},), not {bias.dtype} {tuple(bias.shape)}")
        return function(x, weight, out_features, bias)

    return linear


def _fake_linear(x: torch.Tensor, weight: torch.Tensor, out_features: int, bias: torch.Tensor | None) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], out_features))


def _embedding(weight: torch.Tensor, indices: torch.Tensor, embedding_dim: int) -> torch.Tensor:
    header = _header(weight)
    if header.columns != embedding_dim:
        raise ArgumentError(f"the weight has {header.columns} columns, not {embedding_dim}")
    _check_indices(indices)
    rows = native_linear.embedding(weight.numpy(), indices.reshape(-1).contiguous().numpy(), embedding_dim)
    return torch.from_numpy(rows).reshape(*indices.shape, embedding_dim)


def _fake_embedding(weight: torch.Tensor, indices: torch.Tensor, embedding_dim: int) -> torch.Tensor:
    _check_indices(indices)
    return weight.new_empty((*indices.shape, embedding_dim), dtype=torch.float32)


def _check_indices(indices: torch.Tensor) -> None:
    if indices.dtype != torch.int64:
        raise ArgumentError(f"indices are int64, not {indices.dtype}")


def _register(name: str, arguments: str, run: Callable[..., torch.Tensor], fake: Callable[..., torch.Tensor]) -> None:
    """The operator and its variant that writes to `out`, which is what ExecuTorch runs."""

    def run_out(*positional: object, out: torch.Tensor, **named: object) -> torch.Tensor:
        return out.copy_(run(*positional, **named))

    _library.define(f"{name}({arguments}) -> Tensor")  # type: ignore[no-untyped-call]
    _library.define(f"{name}.out({arguments}, *, Tensor(a!) out) -> Tensor(a!)")  # type: ignore[no-untyped-call]
    _library.impl(name, run, "CPU")  # type: ignore[no-untyped-call]
    _library.impl(f"{name}.out", run_out, "CPU")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_library)


for _format, _name in LINEAR.items():
    _register(
        _name,
        "Tensor x, Tensor weight, int out_features, Tensor? bias=None",
        _linear(_format),
        _checked_linear(_fake_linear),
    )
_register(EMBEDDING, "Tensor weight, Tensor indices, int embedding_dim", _embedding, _fake_embedding)
