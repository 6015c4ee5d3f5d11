"""How figures are written for people, and the frame that a wide table scrolls in."""

from __future__ import annotations

from collections.abc import Sized
from html import escape

from mobile_bundle.report.schema import Closeness


def scrolled(label: str, table: str) -> str:
    """A table (HTML) that scrolls sideways where the screen is narrower, by keyboard too. label: escaped here."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{table}</div>'


def percent(error: float) -> str:
    """A relative error, two significant digits."""
    return "0" if error == 0 else f"{100 * error:.2g} %" if error < 0.1 else f"{100 * error:.0f} %"


def megabytes(size: int) -> str:
    """Decimal megabytes, kilobytes below one."""
    return f"{size / 1e6:,.1f} MB" if size >= 1_000_000 else f"{size / 1e3:,.1f} kB"


def parameters(count: int) -> str:
    """Millions or billions."""
    return f"{count / 1e9:.2f} B" if count >= 1_000_000_000 else f"{count / 1e6:.1f} M"


def perplexity_text(value: float | None) -> str:
    """Three decimals, as `eval` prints it."""
    return "not finite" if value is None else f"{value:,.3f}" if value < 1000 else f"{value:,.0f}"


def change_text(perplexity: float | None, original: float | None) -> str:
    """Of a perplexity against the original's: percent, or how many times it is where that reads better."""
    if perplexity is None or not original:
        return "?"
    ratio = perplexity / original
    return f"{100 * (ratio - 1):+.2f} %" if ratio < 2 else f"{ratio:,.1f} times"


def kl_text(close: Closeness | None) -> str:
    """Nats per token."""
    return "?" if close is None else f"{close.kl:.4f}"


def agreement_text(close: Closeness | None) -> str:
    """Of best tokens."""
    return "?" if close is None else f"{100 * close.agreement:.1f} %"


def counted(items: Sized, noun: str) -> str:
    """ "1 bundle", "2 bundles"."""
    number = len(items)
    return f"{number} {noun}{'' if number == 1 else 's'}"
