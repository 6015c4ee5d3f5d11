"""What a calibrated build says of its own quality."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """How a coded model does beside the original on windows of the calibration text that nothing was fitted to, in
    float32 with the activations as they are. original_loss, loss: mean negative log-likelihood (nats per token) of the
    text's next tokens; kl: mean divergence of the coded model's distribution from the original's (nats); tokens: that
    were scored."""

    tokens: int
    original_loss: float
    loss: float
    kl: float

    def __str__(self) -> str:
        return (
            f"measured on {self.tokens:,} tokens of the calibration text that nothing was fitted to: "
            f"{self.loss - self.original_loss:+.4f} nats per token, perplexity {math.exp(self.loss):.3f} "
            f"(the original has {math.exp(self.original_loss):.3f}), KL {self.kl:.4f}"
        )
