"""Command-line options for the parameters that the library's messages name."""

from __future__ import annotations

import re

_OPTIONS = {
    "against": "--against",
    "batch": "--batch",
    "calibration": "--calibration",
    "checkpointing": "--checkpointing",
    "cluster": "--cluster",
    "context": "--context",
    "device": "--device",
    "formats": "--formats",
    "jobs": "--jobs",
    "kv": "--kv",
    "languages": "--languages",
    "lab": "--lab",
    "max_perplexity": "--max-perplexity",
    "max_ram": "--max-ram",
    "max_size": "--max-size",
    "method": "--method",
    "micro_batch": "--micro-batch",
    "min_speed": "--min-speed",
    "minutes": "--minutes",
    "own_tokens": "--own-tokens",
    "points": "--points",
    "pressure": "--pressure",
    "rate": "--rate",
    "recipe": "--recipe",
    "reps": "--reps",
    "revision": "--revision",
    "save_baseline": "--save-baseline",
    "seed": "--seed",
    "sequence": "--sequence",
    "serial": "--serial",
    "start": "--start",
    "system_prompt": "--system-prompt",
    "target": "--target",
    "text_share": "--text-share",
    "anneal_share": "--anneal-share",
    "layers_share": "--layers-share",
    "hidden_states": "--hidden-states",
    "temperature": "--temperature",
    "graph": "--graph",
    "shard": "--shard",
    "threads": "--threads",
    "tokens": "--tokens",
    "vocabulary_from": "--vocabulary-from",
    "windows": "--windows",
    "work": "--work",
}


def with_options(text: str) -> str:
    """The text with `max_size` (a parameter in backticks) replaced by --max-size."""
    return re.sub(r"`(\w+)`", lambda found: _OPTIONS.get(found[1], found[0]), text)
