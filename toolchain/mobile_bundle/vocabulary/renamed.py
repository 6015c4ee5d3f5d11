"""The files beside the weights, with the kept tokens alone and their new ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mobile_bundle.errors import UnsupportedError

_Json = dict[str, Any]


def tokenizer_json(description: _Json, kept: set[str], order: list[str], ids: Mapping[int, int]) -> _Json:
    """A tokenizer.json with the model's tokens of `order` alone. kept: their texts; ids: old to new ones."""
    model = description["model"]
    merges = [pair for pair in model["merges"] if _is_kept(pair, kept)]
    smaller = {**model, "vocab": {text: number for number, text in enumerate(order)}, "merges": merges}
    added = [
        {**entry, "id": ids[entry["id"]]} if entry.get("id") in ids else entry
        for entry in description.get("added_tokens") or []
        if entry.get("id") is None or entry["id"] in ids
    ]
    post = _template(description.get("post_processor"), ids)
    return {**description, "model": smaller, "added_tokens": added, "post_processor": post}


def _is_kept(pair: Any, kept: set[str]) -> bool:
    left, right = pair.split(" ") if isinstance(pair, str) else pair
    return left in kept and right in kept and left + right in kept


def _template(value: Any, ids: Mapping[int, int]) -> Any:
    """A post-processor whose special tokens have their new ids."""
    if isinstance(value, list):
        return [_template(part, ids) for part in value]
    if not isinstance(value, dict):
        return value
    changed = {key: _template(part, ids) for key, part in value.items()}
    if isinstance(value.get("ids"), list) and "tokens" in value:
        changed["ids"] = [_new(number, ids) for number in value["ids"]]
    return changed


def settings(values: _Json, ids: Mapping[int, int]) -> _Json:
    """A tokenizer_config.json."""
    listed = values.get("added_tokens_decoder")
    if not isinstance(listed, dict):
        return values
    decoder = {str(ids[int(number)]): token for number, token in listed.items() if int(number) in ids}
    return {**values, "added_tokens_decoder": decoder}


def token_ids(values: _Json, ids: Mapping[int, int]) -> _Json:
    """A config.json or generation_config.json: every value of a key like `eos_token_id` is an id or a list of ids. Ids
    that no token has become null."""
    changed = dict(values)
    for key, value in values.items():
        if key.endswith(("token_id", "token_ids")):
            changed[key] = [ids[each] for each in value if each in ids] if isinstance(value, list) else ids.get(value)
    return changed


def named_ids(values: _Json) -> set[int]:
    """The ids that such a file names."""
    found: set[int] = set()
    for key, value in values.items():
        if key.endswith(("token_id", "token_ids")):
            found.update(each for each in (value if isinstance(value, list) else [value]) if type(each) is int)
    return found


def _new(number: Any, ids: Mapping[int, int]) -> int:
    if number not in ids:
        raise UnsupportedError(f"tokenizer.json: its post-processor adds the id {number}, which no token has")
    return ids[number]
