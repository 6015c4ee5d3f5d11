"""tokenizer.json and the files beside it, combined as transformers does it (AutoTokenizer of 5.24).

tokenizer_config.json, special_tokens_map.json and added_tokens.json can add tokens, and some tokenizer classes take
only vocabulary, merges and post-processor from tokenizer.json and bring everything else themselves. The result is one
description with tokenizer.json's structure that says it all, so that what compiles it needs to know of no other file.

Source: transformers, tokenization_utils_base.py (`_from_pretrained`), tokenization_utils_tokenizers.py
(`TokenizersBackend`), models/auto/tokenization_auto.py (`AutoTokenizer`) and models/*/tokenization_*.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobile_bundle.errors import InputError, UnsupportedError
from mobile_bundle.files.inputs import read_json_object
from mobile_bundle.tokenizer.classes import CLASSES, GENERIC, tokenizer_class

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_CONFIG = "tokenizer_config.json"
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass
class TokenizerFiles:
    """description: with tokenizer.json's structure. special: bos_token, eos_token and so on, as text. notes: lines for
    a person about what could not be done as transformers does it."""

    description: dict[str, Any]
    special: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_tokenizer_files(model_dir: Path, description: dict[str, Any], config: dict[str, Any]) -> TokenizerFiles:
    """What transformers makes of the tokenizer in a checkpoint directory.

    description: the parsed tokenizer.json; config: the parsed config.json. Raises UserError where the companions cannot
    be read, or ask for what the runtime does not do."""
    settings = _optional(model_dir / _CONFIG)
    name = tokenizer_class(settings, config, description)
    _refuse_settings(settings)
    values, decoder = _arguments(model_dir, settings, description)
    kind = CLASSES.get(name)
    found = TokenizerFiles(kind.rebuild(description, values) if kind else dict(description))
    if kind:
        values = {**kind.defaults, **values}
    padding = description.get("padding")
    if isinstance(padding, dict) and isinstance(padding.get("pad_token"), str):
        values.setdefault("pad_token", padding["pad_token"])
    named = _named_tokens(values)
    extra = [_token(value, "extra_special_tokens") for value in _extra_values(values)]
    found.special = {key: named[key]["content"] for key in _NAMED if key in named}
    added = _listed(found.description)
    present = {entry["content"] for entry in added if isinstance(entry, dict) and isinstance(entry.get("content"), str)}
    to_add = [decoder[number] for number in sorted(decoder)]
    present.update(token["content"] for token in to_add)
    for token in (*named.values(), *extra):
        if token["content"] not in present and token not in to_add:
            to_add.append(token)
    names = {token["content"] for token in named.values()}
    to_add = [token | {"special": True} if token["content"] in names else token for token in to_add]
    if kind and kind.adds_special_again:
        contents = dict.fromkeys(token["content"] for token in (*named.values(), *extra))
        to_add += [{"content": content, "special": True} for content in contents]
    found.description["added_tokens"] = added + to_add
    found.notes += _notes(name, settings)
    return found


def _optional(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except FileNotFoundError:
        return {}


def _refuse_settings(settings: dict[str, Any]) -> None:
    """UserError for what changes ids or texts and the runtime does not do."""
    if settings.get("split_special_tokens"):
        raise UnsupportedError(
            f"{_CONFIG}: split_special_tokens is not supported: special tokens in a text would be taken apart"
        )
    if settings.get("fix_mistral_regex"):
        raise UnsupportedError(
            f"{_CONFIG}: fix_mistral_regex is not supported",
            "load and save the tokenizer with transformers, so that tokenizer.json has the right expression",
        )
    if settings.get("clean_up_tokenization_spaces") and settings.get(
        "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    ):
        raise UnsupportedError(f"{_CONFIG}: clean_up_tokenization_spaces is not supported for BPE", "set it to false")
    files = settings.get("fast_tokenizer_files", ["tokenizer.json"])
    if files != ["tokenizer.json"]:
        raise UnsupportedError(
            f"{_CONFIG}: fast_tokenizer_files names other files than tokenizer.json, which is not supported",
            "remove it",
        )


def _arguments(
    model_dir: Path, settings: dict[str, Any], description: dict[str, Any]
) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """(arguments of the tokenizer's class, added tokens by number), as `_from_pretrained` collects them."""
    values = {key: value for key, value in settings.items() if key != "added_tokens_decoder"}
    if "additional_special_tokens" in values and not values.get("extra_special_tokens"):
        values["extra_special_tokens"] = values.pop("additional_special_tokens")
    specific = {key: values.pop(key) for key in list(values) if _is_specific(key, values[key])}
    if isinstance(values.get("extra_special_tokens"), dict):
        specific |= values.pop("extra_special_tokens")
    decoder: dict[int, dict[str, Any]] = {}
    if "added_tokens_decoder" in settings:
        listed = settings["added_tokens_decoder"]
        if not isinstance(listed, dict):
            raise InputError(f"{_CONFIG}: added_tokens_decoder is not an object of ids and tokens")
        for key, entry in listed.items():
            decoder[_number(key)] = _token(entry, "added_tokens_decoder")
    else:
        _read_older_files(model_dir, values, specific, decoder)
        for entry in _listed(description):
            number = entry.get("id") if isinstance(entry, dict) else None
            if type(number) is not int:
                raise InputError("tokenizer.json: an added token has no id that is a whole number")
            decoder[number] = _token(entry, "added_tokens")
    if "additional_special_tokens" in values and "extra_special_tokens" not in values:
        values["extra_special_tokens"] = values.pop("additional_special_tokens")
    values["model_specific_special_tokens"] = specific
    by_content = {token["content"]: token for token in decoder.values()}
    for key in _NAMED:
        if values.get(key) is not None:
            token = _token(values[key], key)
            values[key] = by_content.get(token["content"], values[key])
    return values, decoder


def _read_older_files(
    model_dir: Path, values: dict[str, Any], specific: dict[str, Any], decoder: dict[int, dict[str, Any]]
) -> None:
    """special_tokens_map.json and added_tokens.json, which count where there is no added_tokens_decoder."""
    for key, value in _optional(model_dir / "special_tokens_map.json").items():
        if key == "extra_special_tokens" and isinstance(value, list):
            present = values.get("extra_special_tokens") or []
            value = [*present, *(item for item in value if item not in present)]
        elif isinstance(value, dict) and key != "extra_special_tokens":
            value = value | {"special": True}
        values[key] = value
    if isinstance(values.get("extra_special_tokens"), dict):
        specific |= values.pop("extra_special_tokens")
    listed = [(key, values[key]) for key in _NAMED if values.get(key)]
    listed += [("extra_special_tokens", value) for value in _extra_values(values)]
    # transformers has not yet turned serialized tokens of tokenizer_config.json into tokens here and passes them over
    special = {_token(value, key)["content"] for key, value in listed if not _is_serialized(value)}
    for content, number in _optional(model_dir / "added_tokens.json").items():
        if type(number) is not int:
            raise InputError(f"added_tokens.json: the id of {content!r} is not a whole number")
        is_special = content in special
        decoder[number] = {"content": content, "special": is_special, "normalized": not is_special}


def _listed(description: dict[str, Any]) -> list[Any]:
    """The added tokens that tokenizer.json lists."""
    listed = description.get("added_tokens") or []
    if not isinstance(listed, list):
        raise InputError("tokenizer.json: added_tokens is not a list")
    return list(listed)


def _extra_values(values: dict[str, Any]) -> list[Any]:
    listed = values.get("extra_special_tokens") or []
    if not isinstance(listed, list):
        raise InputError("extra_special_tokens of the tokenizer's files is neither a list nor an object")
    return list(listed)


def _is_specific(key: str, value: Any) -> bool:
    return key.endswith("_token") and key not in _NAMED and isinstance(value, str)


def _named_tokens(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The named special tokens in the order in which transformers adds them."""
    named = {key: _token(values[key], key) for key in _NAMED if values.get(key) is not None}
    own = {
        key: value
        for key, value in values.items()
        if key.endswith("_token") and key not in _NAMED and (isinstance(value, str) or _is_token(value))
    }
    specific = own | values.get("model_specific_special_tokens", {})
    return named | {key: _token(value, key) for key, value in specific.items()}


def _is_token(value: Any) -> bool:
    return isinstance(value, dict) and "content" in value


def _is_serialized(value: Any) -> bool:
    return isinstance(value, dict) and value.get("__type") == "AddedToken"


def _token(value: Any, where: str) -> dict[str, Any]:
    """A token as tokenizer.json lists it, without its id; a string is a special token."""
    if isinstance(value, str):
        return {"content": value, "special": True}
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise InputError(f"{where} of the tokenizer's files holds {_shown(value)}, which is not a token")
    token = {"content": value["content"]}
    for key in _FLAGS:
        if key in value:
            if not isinstance(value[key], bool):
                raise InputError(f"{where} of the tokenizer's files: {key} of {_shown(value)} is not true or false")
            token[key] = value[key]
    return token


def _number(key: str) -> int:
    try:
        return int(key[:20])
    except ValueError:
        raise InputError(f"{_CONFIG}: the id {key[:40]!r} in added_tokens_decoder is not a whole number") from None


def _shown(value: Any) -> str:
    return repr(value)[:80]


def _notes(name: str, settings: dict[str, Any]) -> Iterator[str]:
    code = settings.get("auto_map")
    if (isinstance(code, dict) and "AutoTokenizer" in code) or isinstance(code, list):
        yield f"{_CONFIG} names Python code for the tokenizer (auto_map), which was not run: tokenizer.json was used"
    elif name not in GENERIC and name not in CLASSES:
        yield f"the tokenizer class {name[:60]!r} is not known: tokenizer.json was used as it is"
