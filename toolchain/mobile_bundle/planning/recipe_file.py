"""Recipe files: YAML that says which codec a tensor gets.

    body: vptq-2bit                        # projections
    embedding: affine-4bit                 # embedding and output head
    tensors:                               # first match wins; names as `mobile-bundle inspect` prints them
      "layers.0.*": affine-8bit
      "layers.*.mlp.down.weight": vptq-v4-b10
    entropy: true                          # store entropy-coded what gets smaller by it

With a budget (--max-size, ...) neither body nor embedding may be given: the planner chooses them.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from mobile_bundle.codecs import StreamCodec, codec_by_name
from mobile_bundle.errors import InputError, UserError, printable
from mobile_bundle.files.inputs import read_text
from mobile_bundle.models import TensorSpec
from mobile_bundle.planning.recipe import Recipe, named_recipe

SUFFIXES = (".yaml", ".yml")
_MOST_BYTES = 1 << 20
_TRUTH = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False}
_NOTHING = ("", "~", "null")
_KEYS = ("body", "embedding", "tensors", "entropy")


def read_recipe_file(path: Path) -> Recipe:
    """Recipe whose body and embedding are "" where the file leaves them out. UserError for a file that cannot be read,
    an unknown key or an unknown codec."""
    data = _read_yaml(path)
    if not isinstance(data, dict) or not data:
        raise InputError(f"the recipe {path} must be a mapping with some of the keys {', '.join(_KEYS)}")
    unknown = [str(key) for key in data if key not in _KEYS]
    if unknown:
        raise InputError(f"the recipe {path} has the unknown key {unknown[0]!r}; known: {', '.join(_KEYS)}")
    body, embedding = (_codec(path, key, data.get(key)) for key in ("body", "embedding"))
    tensors = data.get("tensors", _NOTHING[0])
    if tensors in _NOTHING:
        tensors = {}
    if not isinstance(tensors, dict):
        raise InputError(f"`tensors` of the recipe {path} must map name patterns to codecs")
    overrides = tuple((str(pattern), _codec(path, str(pattern), name)) for pattern, name in tensors.items())
    if body and not embedding:
        embedding = named_recipe(body).embedding
    entropy = data.get("entropy", "false")
    if entropy not in _TRUTH:
        raise InputError(f"`entropy` of the recipe {path} must be true or false")
    return Recipe(body, embedding, overrides, printable(path.stem), _TRUTH[entropy])


def _refuse_repeated(path: Path, node: yaml.Node | None) -> None:
    """UserError for a key that a mapping has twice: YAML's reader would take the last one without a word."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise InputError(f"the recipe {path} has the key {printable(key.value)!r} twice")
            seen.add(key.value)
        _refuse_repeated(path, value)


def _read_yaml(path: Path) -> Any:
    """The YAML value, all scalars as text. UserError for a file that cannot be read, for anchors, aliases and tags,
    with which a small file could become anything, and for more than two levels."""
    try:
        text = read_text(path, _MOST_BYTES)
    except FileNotFoundError as error:
        raise InputError(f"cannot read the recipe {path}: {error.strerror}") from error
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.BaseLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
                raise InputError(f"the recipe {path} has an anchor, an alias or a tag", "write everything out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > 2:
                raise InputError(f"the recipe {path} has more than two levels; only `tensors` may have a second one")
        _refuse_repeated(path, yaml.compose(text, Loader=yaml.BaseLoader))
        return yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise InputError(f"the recipe {path} is not valid YAML: {' '.join(str(error).split())}") from error


def fixed_codecs(recipe: Recipe, tensors: list[TensorSpec]) -> dict[str, StreamCodec]:
    """What a recipe's patterns fix, by tensor name. UserError for a pattern that no matrix has."""
    matrices = [tensor for tensor in tensors if tensor.role != "vector"]
    for pattern, _ in recipe.overrides:
        if not any(fnmatchcase(tensor.name, pattern) for tensor in matrices):
            raise InputError(
                f"the recipe's pattern {pattern!r} matches no matrix of this model",
                "`mobile-bundle inspect` prints the names",
            )
    found = {}
    for tensor in matrices:
        name = next((codec for pattern, codec in recipe.overrides if fnmatchcase(tensor.name, pattern)), None)
        if name is not None:
            found[tensor.name] = codec_by_name(name)
    return found


def _codec(path: Path, key: str, name: Any) -> str:
    if name is None or name in _NOTHING:
        return ""
    if not isinstance(name, str):
        raise InputError(f"the recipe {path} gives {key!r} the value {name!r}, which must be a codec name")
    try:
        return codec_by_name(name).name
    except UserError as error:
        raise type(error)(f"the recipe {path}, {key!r}: {error.message}", error.remedy) from error
