"""BitNet's arithmetic in a model of transformers."""

from __future__ import annotations

from typing import Any


def ternarise(model: Any) -> None:
    """BitNet as transformers runs it online: ternary weights (absmean), inputs rounded to int8 per token."""

    def rounded(module: Any, inputs: Any) -> Any:
        del module
        x = inputs[0]
        scale = 127 / x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5)
        return ((x * scale).round().clamp(-128, 127) / scale,)

    for name, module in model.named_modules():
        if name.endswith("_proj"):
            scale = module.weight.data.abs().mean().clamp(min=1e-5)
            module.weight.data = (module.weight.data / scale).round().clamp(-1, 1) * scale
            module.register_forward_pre_hook(rounded)
