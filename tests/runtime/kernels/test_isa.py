"""The same tokens on every instruction set: the very runners that ship, natively and under QEMU."""

from __future__ import annotations

import pytest
from support.machines import MACHINES, PROMPTS, tokens


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.parametrize("machine", [name for name in MACHINES if name != "x86_64 avx2"])
@pytest.mark.parametrize(
    "recipe",
    ["affine-8bit", "affine-6bit", "affine-5bit", "affine-4bit", "affine-3bit", "affine-2bit", "bitnet", "raw"],
)
def test_golden_prompts_give_the_same_tokens(bundle, recipe, machine):
    directory = bundle(recipe)
    for prompt, kv_type in zip(PROMPTS, ("int8", "int8", "f16"), strict=True):
        assert tokens(directory, machine, prompt, kv_type) == tokens(directory, "x86_64 avx2", prompt, kv_type)


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.parametrize("machine", [name for name in MACHINES if name != "x86_64 avx2"])
@pytest.mark.parametrize("model", ["made", "trained"])
def test_a_bitnet_model_gives_the_same_tokens(bundle, bitnet, machine, model):
    directory = bundle(None, bitnet(model))
    prompt = PROMPTS[0]
    assert tokens(directory, machine, prompt, "int8") == tokens(directory, "x86_64 avx2", prompt, "int8")


@pytest.mark.full
@pytest.mark.parametrize("abi", ["x86_64", "arm64-v8a", "armeabi-v7a"])
def test_runners_are_static_and_ready_for_16_kib_pages(bundle, abi):
    """Read from the ELF headers: no interpreter, no dynamic section, segments aligned to 16 KiB."""
    data = (bundle("affine-4bit") / "bin" / abi / "mobile-run").read_bytes()
    assert data[:4] == b"\x7fELF"
    wide = data[4] == 2
    offset = int.from_bytes(data[32:40] if wide else data[28:32], "little")
    size, count = (int.from_bytes(data[at : at + 2], "little") for at in ((54, 56) if wide else (42, 44)))
    kinds = []
    for i in range(count):
        header = data[offset + i * size : offset + (i + 1) * size]
        kinds.append(int.from_bytes(header[:4], "little"))
        if kinds[-1] == 1:  # PT_LOAD
            alignment = int.from_bytes(header[48:56] if wide else header[28:32], "little")
            assert alignment % 16384 == 0
    assert 3 not in kinds  # PT_INTERP
    assert len(data) < 900_000
