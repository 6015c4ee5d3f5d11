"""What a run tells while it trains."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trained:
    """step: of training, done; share: of the run, 0 to 1; tokens: trained on so far; tokens_per_second: since the run
    began or went on; seconds_left: until the end at this speed; loss: the last step's KL, nats per token. kl,
    perplexity, original_perplexity: on held-out text, where it was read after this step."""

    step: int
    share: float
    tokens: int
    tokens_per_second: float
    seconds_left: float
    loss: float
    kl: float | None = None
    perplexity: float | None = None
    original_perplexity: float | None = None

    def __str__(self) -> str:
        line = (
            f"healing: {100 * self.share:.0f} %, {self.tokens:,} tokens, {self.tokens_per_second:,.0f} tokens/s, "
            f"{_duration(self.seconds_left)} left, loss {self.loss:.4f}"
        )
        if self.kl is not None:
            line += (
                f"; held-out KL {self.kl:.4f}, perplexity {self.perplexity:.2f} (original "
                f"{self.original_perplexity:.2f})"
            )
        return line


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
