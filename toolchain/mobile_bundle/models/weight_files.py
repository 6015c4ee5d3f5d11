"""Which files of a checkpoint directory hold its weights, in transformers' order of preference.

transformers (modeling_utils.py, _get_resolved_checkpoint_files): the file that config.json names as
`transformers_weights`, else model.safetensors, else the shards that model.safetensors.index.json names. Shards without
an index, which transformers refuses, are read here if their set is complete.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobile_bundle.errors import InputError, UnsupportedError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"model-(\d{1,9})-of-(\d{1,9})\.safetensors")


@dataclass(frozen=True)
class WeightFiles:
    """names: of the files, in the order in which transformers reads them. weight_map: tensor to file as the index says,
    empty without an index. notes: what a person should know of the choice."""

    names: list[str]
    weight_map: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def is_shard(name: str) -> bool:
    """Whether a file is called like a shard."""
    return bool(_SHARD.fullmatch(name))


def shard_names(directory: Path) -> list[str]:
    """Names of all files that are called like shards, sorted."""
    return sorted(path.name for path in directory.iterdir() if is_shard(path.name))


def choose_weight_files(directory: Path, named: Any, index: dict[str, Any] | None) -> WeightFiles | None:
    """The files to read, all of which exist; None if there are no safetensors.

    named: config.json's `transformers_weights`; index: the parsed index, or None if there is none. UserError for an
    invalid index and for missing shards."""
    shards = shard_names(directory)
    if named is not None:
        if not isinstance(named, str) or "/" in named or not named.endswith(".safetensors"):
            raise UnsupportedError(
                f"transformers_weights in config.json of {directory} is {named!r}; only the name of a safetensors file "
                f"in that directory is supported"
            )
        _require(directory, named, "config.json (transformers_weights)", shards)
        return WeightFiles([named], notes=[f"the weights are {named}, as config.json says (transformers_weights)"])
    if (directory / SINGLE).is_symlink() or (directory / SINGLE).exists():
        _require(directory, SINGLE, "the directory", shards)
        others = [INDEX] * (index is not None) + shards
        notes = []
        if others:
            beside = others[0] if len(others) == 1 else f"{others[0]} and {len(others) - 1} more"
            notes.append(f"the weights are {SINGLE}, which transformers prefers; not used: {beside}")
        return WeightFiles([SINGLE], notes=notes)
    if index is not None:
        return _by_index(directory, index, shards)
    return _without_index(directory, shards) if shards else None


def _by_index(directory: Path, index: dict[str, Any], shards: list[str]) -> WeightFiles:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise InputError(f"{directory / INDEX} has no weight_map", "download it again")
    names = sorted(set(weight_map.values()))
    for name in names:
        _require(directory, name, INDEX, shards)
    unused = [name for name in shards if name not in names]
    notes = [f"the weights are the {len(names)} files that {INDEX} names; not used: {', '.join(unused)}"[:300]]
    return WeightFiles(names, weight_map, notes if unused else [])


def _without_index(directory: Path, shards: list[str]) -> WeightFiles:
    numbers: dict[int, str] = {}
    totals = set()
    for name in shards:
        match = _SHARD.fullmatch(name)
        assert match
        numbers[int(match[1])] = name
        totals.add(int(match[2]))
    if len(totals) > 1:
        raise InputError(
            f"{directory} holds shards of {' and of '.join(str(total) for total in sorted(totals))}, and no {INDEX} "
            "says which of them belong together",
            "download it again into an empty directory",
        )
    total = totals.pop()
    missing = next((number for number in range(1, total + 1) if number not in numbers), None)
    if missing is not None:
        raise InputError(
            f"{directory} has no {_like(shards[0], missing)}: {len(numbers)} of {total} shards are present",
            "download the rest",
        )
    for name in shards:
        _require(directory, name, "the directory", shards)
    return WeightFiles(shards, notes=[f"there is no {INDEX}; all {total} shards are read"])


def _like(shard: str, number: int) -> str:
    """The name of the shard of that number beside one of the same set."""
    match = _SHARD.fullmatch(shard)
    assert match
    return f"model-{number:0{len(match[1])}}-of-{match[2]}.safetensors"


def _require(directory: Path, name: str, who: str, shards: list[str]) -> None:
    """UserError if `who` names a file that is not in the directory. shards: those that are there."""
    path = directory / name
    if "/" not in name and path.is_file():
        return
    if "/" not in name and path.is_symlink():
        raise InputError(f"{path} is a link to a file that does not exist", "download the checkpoint again")
    wanted = _SHARD.fullmatch(name)
    same_set = [shard for shard in shards if wanted and shard.endswith(f"-of-{wanted[2]}.safetensors")]
    hint = "download it"
    if shards and not same_set:
        hint = f"it holds {shards[0]}: the index belongs to other files; download the checkpoint again"
    raise InputError(f"{who} names {name}, which is not in {directory}; {hint}")
