"""What a calibrated build says of its own quality."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """How a coded model does beside the original on windows of the calibration text that nothing was fitted to. The
    coded one rounds its inputs to int8 as the engine does. original_loss, loss: mean negative log-likelihood (nats per
    token) of the text's next tokens; tokens: that were scored; kl: mean divergence of the coded model's distribution
    from the original's (nats), which is the loss on a text of next tokens that the original takes for as likely as they
    are. A text that it was trained on loses more: what it has learned by heart goes first."""

    tokens: int
    original_loss: float
    loss: float
    kl: float

    def __str__(self) -> str:
        return (
            f"measured on {self.tokens:,} tokens of the calibration text that nothing was fitted to: "
            f"expect +{self.kl:.4f} nats per token of other text (KL); here it is "
            f"{self.loss - self.original_loss:+.4f}, perplexity {math.exp(self.loss):.3f} "
            f"(the original has {math.exp(self.original_loss):.3f})"
        )
