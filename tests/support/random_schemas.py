"""Random JSON schemas of the part that the runtime knows."""

from __future__ import annotations

import random
from typing import Any

NAMES = ("name", "age", "é", "a b", 'with"quote', "back\\slash", "日本", "x", "line\nbreak", "tags", "0", "")
WORDS = ("red", "green", 'q"', "\\", "naïve", "中", "", "a b", "\t", "\u0001", "🎉")
PATTERNS = (
    "^[a-z]{2,5}$",
    "^(yes|no)$",
    "b+",
    "^\\d{3}-\\d{2}$",
    '^["\\\\]{1,3}$',
    "^[^a]{1,4}$",
    "^\\w{1,5}\\s\\w{2}$",
    "x$",
)
FORMATS = ("date", "time", "date-time", "uuid", "ipv4", "email")


def random_schema(chance: random.Random) -> dict[str, Any]:
    """A schema whose values are mostly short."""
    schema = _schema(chance, chance.randint(0, 3))
    if chance.random() < 0.3:
        definitions = {name: _schema(chance, 1) for name in ("one", "a/b~c")}
        holder: dict[str, Any] = {"type": "object", "properties": {"d": schema}, "required": ["d"]}
        holder["$defs"] = definitions
        holder["properties"]["r"] = {"$ref": "#/$defs/" + chance.choice(("one", "a~1b~0c"))}
        return holder
    return schema


def _schema(chance: random.Random, depth: int) -> dict[str, Any]:
    kinds = [_string, _integer, _number, _simple, _enum, _const]
    if depth:
        kinds += [*(2 * [_object, _array, _any_of, _one_of, _types]), _anything, _tagged]
    schema = chance.choice(kinds)(chance, depth)
    if chance.random() < 0.1:
        schema |= {"title": "A title", "description": "What it is", "default": None, "examples": [1, {"a": []}]}
    return schema


def _string(chance: random.Random, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    kind = chance.randrange(5)
    if kind == 0:
        schema["pattern"] = chance.choice(PATTERNS)
    elif kind == 1:
        schema["format"] = chance.choice(FORMATS)
    else:
        least = chance.choice((0, 0, 1, 3, 20))
        if kind > 2 or least:
            schema["minLength"] = least
        schema["maxLength"] = least + chance.choice((0, 1, 2, 5, 40))
    return schema


def _integer(chance: random.Random, depth: int) -> dict[str, Any]:
    return {"type": "integer"} | _bounds(chance, 0, 10 ** chance.randint(0, 14))


def _number(chance: random.Random, depth: int) -> dict[str, Any]:
    return {"type": "number"} | _bounds(chance, 3, 10 ** chance.randint(0, 9))


def _bounds(chance: random.Random, least_apart: int, most: int) -> dict[str, Any]:
    """Some of the four bounds, with a number between them."""
    low = chance.randint(-most, most)
    high = min(low + least_apart + 2 + chance.choice((0, 1, 9, 100, most)), 10**15 - 1)
    out = {}
    if chance.random() < 0.6:
        out[chance.choice(("minimum", "exclusiveMinimum"))] = low
    if chance.random() < 0.6:
        out[chance.choice(("maximum", "exclusiveMaximum"))] = high if high <= 10**9 or least_apart == 0 else 10**9
    return out


def _simple(chance: random.Random, depth: int) -> dict[str, Any]:
    return {"type": chance.choice(("boolean", "null"))}


def _value(chance: random.Random, depth: int) -> Any:
    if depth == 0:
        return chance.choice((*WORDS, 0, -3, 1.5, 1e20, True, False, None))
    if chance.random() < 0.5:
        return [_value(chance, depth - 1) for _ in range(chance.randint(0, 3))]
    return {chance.choice(NAMES): _value(chance, depth - 1) for _ in range(chance.randint(0, 3))}


def _enum(chance: random.Random, depth: int) -> dict[str, Any]:
    values = [_value(chance, chance.randint(0, 2)) for _ in range(chance.randint(1, 6))]
    return {"enum": values} if chance.random() < 0.7 else {"enum": [*values, "word"], "type": ["string", "number"]}


def _const(chance: random.Random, depth: int) -> dict[str, Any]:
    return {"const": _value(chance, chance.randint(0, 2))}


def _object(chance: random.Random, depth: int) -> dict[str, Any]:
    names = chance.sample(NAMES, chance.randint(1, 5))
    schema: dict[str, Any] = {"type": "object", "properties": {name: _schema(chance, depth - 1) for name in names}}
    if chance.random() < 0.8:
        schema["required"] = [name for name in names if chance.random() < 0.6]
    kind = chance.randrange(4)
    if kind < 3:
        schema["additionalProperties"] = (False, True, _schema(chance, depth - 1))[kind]
    return schema


def _anything(chance: random.Random, depth: int) -> dict[str, Any]:
    return chance.choice((
        {}, {"type": "object"}, {"type": "array", "maxItems": 2}, {"type": "array", "items": True, "maxItems": 2},
        {"type": "object", "additionalProperties": {"type": "integer"}}, {"type": ["object", "null"]},
    ))  # fmt: skip


def _tagged(chance: random.Random, depth: int) -> dict[str, Any]:
    """Objects that a property tells apart, and others that do not matter."""
    tags = [{"const": "a"}, {"enum": ["b", 2]}, {"const": 3.5}, {"enum": [True, None]}]
    objects = []
    for tag in chance.sample(tags, chance.randint(1, 4)):
        one = _object(chance, depth)
        one["properties"] = {"x": {"type": "integer"}} | one["properties"] | {"tag": tag}
        one["required"] = [*one.get("required", []), "tag"]
        objects.append(one)
    return {"oneOf": [*objects, {"enum": ["a", "b"]}, {"const": "c"}, {"type": "number"}]}


def _array(chance: random.Random, depth: int) -> dict[str, Any]:
    least = chance.choice((0, 0, 1, 2, 4))
    schema: dict[str, Any] = {"type": "array", "items": _schema(chance, depth - 1)}
    if least or chance.random() < 0.5:
        schema["minItems"] = least
    if chance.random() < 0.7:
        schema["maxItems"] = least + chance.choice((0, 1, 3))
    return schema


def _any_of(chance: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_schema(chance, depth - 1) for _ in range(chance.randint(1, 3))]}


def _one_of(chance: random.Random, depth: int) -> dict[str, Any]:
    kinds = [_string, _integer, _array, _object]
    return {"oneOf": [kind(chance, depth) for kind in chance.sample(kinds, chance.randint(1, 4))]}


def _types(chance: random.Random, depth: int) -> dict[str, Any]:
    return _string(chance, depth) | {"type": ["string", "null", "boolean"]}
