"""Which files hold the weights: transformers' choice, shards without an index, the hub's cache, damaged headers."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mobile_bundle.errors import UserError
from mobile_bundle.models import open_model
from numpy.typing import NDArray
from support.checkpoints import write_tiny

pytest.importorskip("transformers")
from safetensors.numpy import load_file, save_file
from support.logits import our_logits, transformers_logits

INDEX = "model.safetensors.index.json"
NORM = "model.norm.weight"
Tensors = dict[str, NDArray[Any]]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("base") / "m", "llama")


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the small checkpoint."""
    return Path(shutil.copytree(tiny, tmp_path / "m"))


def shard_name(number: int, total: int) -> str:
    return f"model-{number:05}-of-{total:05}.safetensors"


def split(model: Path, total: int = 3, index: bool = True) -> list[str]:
    """The weights in shards instead of one file."""
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = [shard_name(number + 1, total) for number in range(total)]
    weight_map = {}
    for number, name in enumerate(names):
        part = {key: value for at, (key, value) in enumerate(tensors.items()) if at % total == number}
        save_file(part, model / name, {"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    if index:
        (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), "utf-8")
    return names


def change(path: Path, **values: NDArray[Any]) -> None:
    """Adds or replaces tensors of a file; "__" stands for a dot."""
    save_file(
        load_file(path) | {name.replace("__", "."): value for name, value in values.items()}, path, {"format": "pt"}
    )


def notes(model: Path) -> list[str]:
    with open_model(model) as opened:
        return opened.notes


def norm(model: Path) -> float:
    """The first weight of the last norm."""
    with open_model(model) as opened:
        tensor = next(tensor for tensor in opened.tensors if tensor.name == "norm.weight")
        return float(next(iter(opened.source(tensor).chunks(1)))[0, 0])


def as_transformers(model: Path) -> None:
    np.testing.assert_allclose(our_logits(model), transformers_logits(model), rtol=1e-3, atol=2e-4)


def test_one_file_comes_before_shards(model: Path, tiny: Path) -> None:
    split(model)
    shutil.copyfile(tiny / "model.safetensors", model / "model.safetensors")
    change(model / "model.safetensors", model__norm__weight=np.full(64, 3, np.float32))
    assert norm(model) == 3
    assert notes(model) == [
        f"the weights are model.safetensors, which transformers prefers; not used: {INDEX} and 3 more"
    ]
    as_transformers(model)
    (model / INDEX).unlink()
    assert notes(model) == [
        "the weights are model.safetensors, which transformers prefers; not used: "
        "model-00001-of-00003.safetensors and 2 more"
    ]


def test_shards_with_an_index(model: Path) -> None:
    split(model)
    assert notes(model) == []
    as_transformers(model)


def test_old_shards_beside_those_of_the_index(model: Path) -> None:
    split(model)
    shutil.copyfile(model / shard_name(1, 3), model / shard_name(1, 2))
    assert notes(model) == [
        f"the weights are the 3 files that {INDEX} names; not used: model-00001-of-00002.safetensors"
    ]
    as_transformers(model)


def test_a_file_that_config_names(model: Path) -> None:
    shutil.copyfile(model / "model.safetensors", model / "other.safetensors")
    change(model / "other.safetensors", model__norm__weight=np.full(64, 3, np.float32))
    config = json.loads((model / "config.json").read_text("utf-8"))
    (model / "config.json").write_text(json.dumps(config | {"transformers_weights": "other.safetensors"}), "utf-8")
    assert norm(model) == 3
    assert notes(model) == ["the weights are other.safetensors, as config.json says (transformers_weights)"]
    as_transformers(model)
    for name in ("../x.safetensors", "x.bin", 3):
        (model / "config.json").write_text(json.dumps(config | {"transformers_weights": name}), "utf-8")
        with pytest.raises(UserError, match=r"transformers_weights in config\.json"):
            open_model(model)


def test_shards_without_an_index(model: Path, tiny: Path) -> None:
    names = split(model, index=False)
    np.testing.assert_array_equal(our_logits(model), our_logits(tiny))
    assert notes(model) == [f"there is no {INDEX}; all 3 shards are read"]
    (model / names[1]).unlink()
    with pytest.raises(UserError, match=r"has no model-00002-of-00003.safetensors: 2 of 3 shards are present"):
        open_model(model)
    (model / shard_name(1, 4)).write_bytes(b"")
    with pytest.raises(UserError, match="shards of 3 and of 4, and no"):
        open_model(model)


def test_the_index_is_of_other_files(model: Path) -> None:
    split(model)
    for number in (1, 2, 3):
        (model / shard_name(number, 3)).rename(model / shard_name(number, 4))
    with pytest.raises(
        UserError, match=r"names model-00001-of-00003\.safetensors, .* holds model-00001-of-00004"
    ) as error:
        open_model(model)
    assert "the index belongs to other files" in str(error.value)


def test_a_tensor_in_two_shards(model: Path) -> None:
    """The index decides; where transformers would take another copy with other values, that is said."""
    names = split(model)
    index = json.loads((model / INDEX).read_text("utf-8"))
    first, last = model / names[0], model / names[2]
    value = load_file(model / index["weight_map"][NORM])[NORM]
    for path in (first, last):
        change(path, model__norm__weight=value)
    both = f"1 tensors are in more than one file, {NORM} among them; those that {INDEX} names are used"
    assert notes(model) == [both]
    as_transformers(model)

    change(first, model__norm__weight=value + 1)
    index["weight_map"][NORM] = last.name
    (model / INDEX).write_text(json.dumps(index), "utf-8")
    assert norm(model) == value[0]
    assert notes(model) == [both]
    as_transformers(model)

    index["weight_map"][NORM] = first.name
    (model / INDEX).write_text(json.dumps(index), "utf-8")
    assert norm(model) == value[0] + 1
    assert notes(model) == [both, f"the copies of {NORM} differ, and transformers takes the one in {last.name}"]

    (model / INDEX).unlink()
    with pytest.raises(UserError, match=f"tensor {NORM} is in two files, .* and no index says which one"):
        open_model(model)


def test_the_head_is_compared_again_when_the_file_changes(model: Path) -> None:
    embedding = load_file(model / "model.safetensors")["model.embed_tokens.weight"]
    for value, tied in ((embedding, True), (embedding + 1, False), (embedding, True)):
        change(model / "model.safetensors", lm_head__weight=value)
        with open_model(model) as opened:
            assert opened.spec.tied == tied


def test_a_head_that_differs_in_its_last_value(model: Path) -> None:
    head = load_file(model / "model.safetensors")["model.embed_tokens.weight"].copy()
    head[-1, -1] += 1
    change(model / "model.safetensors", lm_head__weight=head)
    with open_model(model) as opened:
        assert not opened.spec.tied


# ---- the hub's cache -------------------------------------------------------------------------------------------------

REVISION = "12fd25f77366fa6b3b4b768ec3050bf629380bac"


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (f"models--HuggingFaceTB--SmolLM2-135M-Instruct/snapshots/{REVISION}", "SmolLM2-135M-Instruct"),
        (f"models--gpt2/snapshots/{REVISION}", "gpt2"),
        (f"models--a--b/snapshots/{REVISION}/small", "b-small"),
        (f"models--a--b/{REVISION}", REVISION),
        (f"snapshots/{REVISION}", REVISION),
    ],
)
def test_a_snapshot_has_its_repositorys_name(tiny: Path, tmp_path: Path, place: str, name: str) -> None:
    """Its files are links to blobs, as huggingface_hub lays them out."""
    snapshot, blobs = tmp_path / place, tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(tiny.iterdir())):
        shutil.copyfile(file, blobs / str(number))
        (snapshot / file.name).symlink_to(os.path.relpath(blobs / str(number), snapshot))
    with open_model(snapshot) as model:
        assert model.spec.name == name
    (tmp_path / "link").symlink_to(snapshot)
    with open_model(tmp_path / "link") as model:
        assert model.spec.name == name
    for file in ("model.safetensors", "config.json"):
        target = (snapshot / file).resolve()
        target.rename(tmp_path / "away")
        with pytest.raises(UserError, match=f"{file} is a link to a file that does not exist; download"):
            open_model(snapshot)
        (tmp_path / "away").rename(target)


# ---- headers ---------------------------------------------------------------------------------------------------------


def with_header(model: Path, change: Callable[[dict[str, Any], int], bytes | None]) -> None:
    """Writes the file with a header that was changed. change: gets it and the size of the data, may give bytes to add
    to the data."""
    path = model / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    extra = change(header, len(data) - 8 - length) or b""
    text = json.dumps(header).encode("utf-8")
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :] + extra)


def overlap(header: dict[str, Any], size: int) -> None:
    header["x"] = {"dtype": "U8", "shape": [8], "data_offsets": [4, 12]}


def gap(header: dict[str, Any], size: int) -> bytes:
    header["x"] = {"dtype": "U8", "shape": [8], "data_offsets": [size + 4, size + 12]}
    return bytes(12)


def trailing(header: dict[str, Any], size: int) -> bytes:
    return bytes(5)


def same_place(header: dict[str, Any], size: int) -> None:
    header["x"] = dict(header[NORM])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (overlap, "damaged: tensor .* lies over the one before it; download it again"),
        (gap, "damaged: tensor x does not follow the one before it"),
        (trailing, "damaged: 5 bytes do not belong to any tensor"),
        (same_place, "lies over the one before it"),
    ],
)
def test_headers_that_the_format_does_not_allow(
    model: Path, damage: Callable[[dict[str, Any], int], bytes | None], message: str
) -> None:
    """The safetensors library refuses them, too."""
    from safetensors import SafetensorError, safe_open

    with_header(model, damage)
    with pytest.raises(SafetensorError), safe_open(model / "model.safetensors", "np"):
        pass
    with pytest.raises(UserError, match=message):
        open_model(model)


def test_of_equal_keys_the_last_one_counts(model: Path) -> None:
    text = (model / "config.json").read_text("utf-8")
    (model / "config.json").write_text(text.replace("{", '{"num_hidden_layers": 7, "model_type": "gpt2",', 1), "utf-8")
    with open_model(model) as opened:
        assert opened.spec.layers == 3
    as_transformers(model)


def test_a_tensor_at_the_end_of_the_header_without_values(model: Path) -> None:
    def empty(header: dict[str, Any], size: int) -> None:
        header["x"] = {"dtype": "F32", "shape": [0, 4], "data_offsets": [size, size]}
        header["y"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}

    with_header(model, empty)
    assert notes(model) == ["2 tensors of the checkpoint are not part of LlamaForCausalLM and not used: x, y"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_without_the_right_to_read(model: Path) -> None:
    for path in (model / "config.json", model / "model.safetensors", model):
        mode = path.stat().st_mode
        path.chmod(0)
        try:
            with pytest.raises(UserError, match="Permission denied"):
                open_model(model)
        finally:
            path.chmod(mode)
