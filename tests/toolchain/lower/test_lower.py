"""mobile_bundle.lower: operators on packed weights, eager and in ExecuTorch's Python runtime, and quantize_.

A model of one's own is swapped, exported with dynamic shapes, lowered with XNNPACK beside it, and gives in the runtime
what it gives in eager torch."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mobile_bundle.codecs import Blob, codec_by_name, codec_for
from mobile_bundle.codecs.blob import Format
from mobile_bundle.errors import UserError
from mobile_bundle.lower import CompressedEmbedding, CompressedLinear, load_operators, quantize_
from mobile_bundle.lower.ops import LINEAR
from mobile_bundle.native import linear as native_linear
from support.packed_weights import CODECS, packed, random_weight
from torch import nn
from torch.nn import functional as F

SHAPES = ((1, 5), (16, 64), (33, 131), (70, 200))


def random_input(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def decoded(blob: torch.Tensor) -> np.ndarray:
    """float32 (rows, columns), by the codecs' NumPy reference."""
    parsed = Blob.parse(blob.numpy().tobytes())
    return codec_for(parsed.header).decode(parsed)


def rounded_input(x: np.ndarray, blob: torch.Tensor) -> np.ndarray:
    """x (count, columns) as the kernels see it (kernels.h, mb_activations)."""
    header = Blob.parse(blob.numpy().tobytes()).header
    if header.format is Format.BF16:
        return x
    group = header.group or x.shape[1]
    padded = np.pad(x, ((0, 0), (0, -x.shape[1] % group))).reshape(len(x), -1, group)
    largest = np.abs(padded).max(axis=-1, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    codes = np.rint(padded * inverse)
    return (codes * (largest / np.float32(127))).reshape(len(x), -1)[:, : x.shape[1]]


def moved(blob: torch.Tensor, offset: int) -> torch.Tensor:
    """The same bytes, `offset` bytes behind a multiple of 64."""
    room = torch.zeros(blob.numel() + 64 + offset, dtype=torch.uint8)
    start = -room.data_ptr() % 64 + offset
    room[start : start + blob.numel()] = blob
    view = room[start : start + blob.numel()]
    assert view.data_ptr() % 64 == offset
    return view


# ---- eager ----


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_eager_products_equal_the_decoded_weight(codec, shape):
    rows, columns = shape
    layer = CompressedLinear(packed(codec, rows, columns))
    weight = decoded(layer.blob)
    for count in (1, 2, 33, 70):
        x = random_input(count, columns)
        reference = rounded_input(x.numpy(), layer.blob).astype(np.float64) @ weight.T.astype(np.float64)
        size = np.abs(rounded_input(x.numpy(), layer.blob)) @ np.abs(weight.T)
        assert (np.abs(layer(x).numpy() - reference) <= 2e-6 * size + 1e-12).all()


def test_sparse_ternary_beyond_one_tile_of_columns():
    layer = CompressedLinear(packed("bitnet-1.25bit", 40, 1700))
    x = random_input(3, 1700)
    reference = rounded_input(x.numpy(), layer.blob).astype(np.float64) @ decoded(layer.blob).T
    np.testing.assert_allclose(layer(x).numpy(), reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("codec", CODECS)
def test_a_vector_does_not_depend_on_the_others(codec):
    layer = CompressedLinear(packed(codec, 50, 150))
    x = random_input(67, 150)
    assert torch.equal(layer(x), torch.cat([layer(x[n : n + 1]) for n in range(67)]))


def test_leading_dimensions_bias_and_strides():
    blob = packed("affine-4bit", 24, 64)
    bias = random_input(24, seed=2)
    plain, layer = CompressedLinear(blob), CompressedLinear(blob, bias)
    x = random_input(2, 3, 64)
    assert torch.equal(layer(x), plain(x) + bias)
    assert torch.equal(plain(x), plain(x.reshape(6, 64)).reshape(2, 3, 24))
    assert plain(x[0, 0]).shape == (24,)
    assert plain(torch.zeros(0, 5, 64)).shape == (0, 5, 24)
    assert torch.equal(plain(x.transpose(0, 1)), plain(x).transpose(0, 1))
    out = torch.empty(2, 3, 24)
    torch.ops.mobile_bundle.linear_affine4.out(x, blob, 24, bias, out=out)
    assert torch.equal(out, layer(x))


@pytest.mark.parametrize("codec", CODECS)
def test_embedding_gives_the_decoded_rows(codec):
    layer = CompressedEmbedding(packed(codec, 33, 72))
    indices = torch.tensor([[0, 32, 5], [5, 16, 1]])
    assert torch.equal(layer(indices), torch.from_numpy(decoded(layer.blob))[indices])


@pytest.mark.parametrize("codec", CODECS)
def test_blobs_need_four_bytes_of_alignment(codec):
    blob = packed(codec, 70, 200)
    x, indices = random_input(5, 200), torch.arange(70)
    expected, rows = CompressedLinear(blob)(x), CompressedEmbedding(blob)(indices)
    for offset in (4, 16, 36, 48):
        assert torch.equal(CompressedLinear(moved(blob, offset))(x), expected)
        assert torch.equal(CompressedLinear(moved(blob, offset))(x[:1]), expected[:1])
        assert torch.equal(CompressedEmbedding(moved(blob, offset))(indices), rows)
    with pytest.raises(UserError, match="not aligned"):
        CompressedLinear(moved(blob, 2))(x)


def test_wrong_arguments_are_explained():
    blob, x = packed("affine-4bit", 24, 64), random_input(2, 64)
    ops = torch.ops.mobile_bundle
    for call, message in (
        (lambda: ops.linear_affine4(x[:, :63], blob, 24), "the weight is 24 x 64, yet x has 63 columns"),
        (lambda: ops.linear_affine4(x, blob, 25), "the weight is 24 x 64, yet x has 64 columns and the result 25"),
        (lambda: ops.linear_affine2(x, blob, 24), "linear_affine2 got a weight of format AFFINE4"),
        (lambda: ops.linear_affine4(x.half(), blob, 24), "x is float32 .* use model.float"),
        (lambda: ops.linear_affine4(x, blob, 24, torch.zeros(23)), r"the bias is float32 \(24,\)"),
        (lambda: ops.linear_affine4(x, blob.float(), 24), "a weight is a blob, uint8"),
        (lambda: ops.linear_affine4(x, blob[:-1], 24), "weight blob is cut off"),
        (lambda: ops.linear_affine4(x, torch.cat([blob, blob[:4]]), 24), "bytes behind its end"),
        (lambda: ops.linear_affine4(x, blob[:40], 24), "a blob header has 64 bytes"),
        (lambda: ops.embedding(blob, torch.tensor([24]), 64), "index 24 is out of range: the weight has 24 rows"),
        (lambda: ops.embedding(blob, torch.tensor([-1]), 64), "index -1 is out of range: the weight has 24 rows"),
        (lambda: ops.embedding(blob, torch.tensor([1]), 65), "the weight has 64 columns, not 65"),
        (lambda: ops.embedding(blob, torch.tensor([1], dtype=torch.int32), 64), "indices are int64"),
    ):
        with pytest.raises(UserError, match=message):
            call()


def hostile_blobs(blob: torch.Tensor, count: int) -> list[np.ndarray]:
    """Copies with damaged headers (bits flipped, fields overwritten) and sometimes a damaged payload."""
    random = np.random.default_rng(20261129)
    result = []
    for n in range(count):
        bad = blob.numpy().copy()
        where = int(random.integers(0, 40))
        if n % 3 == 0:
            bad[where] ^= 1 << int(random.integers(0, 8))
        elif n % 3 == 1:
            value = int(random.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1]))
            bad[where // 4 * 4 : where // 4 * 4 + 4] = np.frombuffer(struct.pack("<I", value), np.uint8)
        else:
            bad[64:] = random.integers(0, 256, len(bad) - 64)
        result.append(bad)
    return result


@pytest.mark.parametrize("codec", CODECS)
def test_hostile_blobs_are_refused_or_computed_but_never_crash(codec):
    blob, x = packed(codec, 40, 136), random_input(3, 136).numpy()
    refused = 0
    for bad in hostile_blobs(blob, 300):
        try:
            assert native_linear.linear(bad, x, 40).shape == (3, 40)
            assert native_linear.embedding(bad, np.arange(40), 136).shape == (40, 136)
        except UserError:
            refused += 1
    assert refused > 100


def test_blobs_that_are_no_matrix_by_themselves_are_refused():
    shared = bytearray(packed("vptq-2bit", 16, 64).numpy().tobytes())
    flags = struct.unpack_from("<I", shared, 20)[0] | 4
    struct.pack_into("<I", shared, 20, flags)
    payload = len(shared) - 64 - 256 * 4  # without its codebook
    struct.pack_into("<Q", shared, 32, payload)
    with pytest.raises(UserError, match="codebook of the weight blob is another tensor"):
        native_linear.linear(np.frombuffer(bytes(shared[: 64 + payload]), np.uint8), np.ones((1, 64), np.float32), 16)
    stored = codec_by_name("bitnet-1.6bit").encode(random_weight(16, 64).numpy()).to_bytes()
    with pytest.raises(UserError, match="stored form"):
        native_linear.linear(np.frombuffer(stored, np.uint8), np.ones((1, 64), np.float32), 16)


# ---- quantize_ ----


class Mlp(nn.Module):
    """Embedding, two linear layers, a head."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(90, 64)
        self.up = nn.Linear(64, 200)
        self.down = nn.Linear(200, 64, bias=False)
        self.head = nn.Linear(64, 90, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        return self.head(x + self.down(F.silu(self.up(x))))


def test_quantize_reports_what_each_module_became():
    torch.manual_seed(0)
    model = Mlp()
    original = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = quantize_(model, "affine-2bit+affine-8bit", lambda _, name: name != "head")
    assert set(report) == {"embedding", "up", "down"}
    assert type(model.head) is nn.Linear
    assert isinstance(model.up, CompressedLinear)
    assert isinstance(model.embedding, CompressedEmbedding)
    assert report["embedding"].codec == "affine-8bit"
    assert report["up"].codec == "affine-2bit-g64-asym"  # of two with little padding, as build-mobile-bundle chooses
    for name, swapped in report.items():
        module, weight = model.get_submodule(name), original[f"{name}.weight"].numpy()
        difference = decoded(module.blob) - weight
        assert swapped.relative_error == pytest.approx((difference**2).sum() / (weight**2).sum(), rel=1e-3)
        assert swapped.blob_bytes == module.blob.numel()
        assert swapped.bits_per_weight == pytest.approx(8 * module.blob.numel() / weight.size)
    assert torch.equal(model.up.bias, original["up.bias"])
    assert "in_features=64, out_features=200, bias=True, format=affine2" in repr(model)
    assert "(embedding): CompressedEmbedding(90, 64, format=affine8, bits_per_weight=" in repr(model)


@pytest.mark.parametrize("recipe", ["affine-4bit", "bitnet"])
def test_tied_embeddings_stay_tied(recipe):
    model = Mlp(tied=True)
    report = quantize_(model, recipe)
    assert model.head.blob is model.embedding.blob
    assert report["head"] == report["embedding"]
    assert report["head"].codec.startswith("affine-4bit")


def test_a_mapping_takes_patterns():
    model = Mlp()
    report = quantize_(model, {"up": "vptq-2bit", "*d*": "raw"})
    assert {name: swapped.codec for name, swapped in report.items()} == {
        "embedding": "raw", "up": "vptq-2bit", "down": "raw", "head": "raw",
    }  # fmt: skip
    report = quantize_(model_of_two := Mlp(), {"up": "bitnet-1.25bit-row"})
    assert set(report) == {"up"}
    assert type(model_of_two.down) is nn.Linear


def test_a_layer_that_hangs_in_two_places_is_swapped_in_both():
    layer = nn.Linear(32, 32)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert set(quantize_(model, "affine-8bit")) == {"0", "2"}
    assert model[0] is model[2]
    assert isinstance(model[0], CompressedLinear)


def test_subclasses_are_left_alone():
    class Scaled(nn.Embedding):
        def forward(self, indices: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(indices)

    model = nn.ModuleDict({"scaled": Scaled(10, 32), "attention": nn.MultiheadAttention(32, 2), "x": nn.Linear(32, 8)})
    assert set(quantize_(model, "affine-8bit")) == {"x"}


def test_state_dicts_and_other_types():
    model = Mlp().to(torch.bfloat16)
    quantize_(model, "bitnet")
    assert model.up.bias.dtype == torch.float32
    other = Mlp()
    quantize_(other, "bitnet")
    other.load_state_dict(model.state_dict())
    tokens = torch.arange(12).reshape(3, 4)
    assert torch.equal(other(tokens), model(tokens))


def test_quantize_explains_what_it_refuses():
    damaged = Mlp()
    with torch.no_grad():
        damaged.down.weight[0, 0] = float("nan")
    normed = nn.ModuleDict({"e": nn.Embedding(8, 32, max_norm=1.0)})
    with torch.device("meta"):
        unloaded = Mlp()
    for model, recipe, message in (
        (Mlp(), "affine-7bit", "unknown recipe 'affine-7bit'"),
        (Mlp(), {"up": "affine-7bit"}, "up: unknown codec 'affine-7bit'"),
        (Mlp(), "seedlm-4bit", "seedlm-4bit is a stored form.*: use affine-8bit"),
        (Mlp(), "hyper", "hyper is a stored form.*: use affine-8bit"),
        (Mlp(), "bitnet-1.6bit", "bitnet-1.6bit is a stored form.*: use bitnet"),
        (Mlp(), "affine-4bit+entropy", r"affine-4bit\+entropy is a stored form.*: drop '\+entropy'"),
        (Mlp(), {"up": "affine-4bit+entropy"}, r"drop '\+entropy'"),
        (Mlp(), {"up": "f32"}, "no operator for f32: leave the module out"),
        (Mlp(), {"up": "vptq-v4-b8-shared"}, "drop '-shared'"),
        (Mlp(), {"upp": "raw"}, "pattern 'upp' matches no"),
        (nn.Sequential(nn.ReLU()), "raw", "has no nn.Linear or nn.Embedding"),
        (nn.Linear(3, 4), "raw", "put it into a module"),
        (damaged, "affine-4bit", "down: the weights hold NaN"),
        (normed, "affine-4bit", "e: an embedding with max_norm"),
        (unloaded, "affine-4bit", "meta device"),
    ):
        before = dict(model.named_modules())
        with pytest.raises(UserError, match=message):
            quantize_(model, recipe)
        assert dict(model.named_modules()) == before


def test_a_hugging_face_llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    tokens = torch.randint(0, 128, (2, 9))
    with torch.no_grad():
        before = model(tokens, use_cache=False).logits
        report = quantize_(model, "affine-8bit")
        after = model(tokens, use_cache=False).logits
    assert len(report) == 2 * 7 + 2
    assert model.lm_head.blob is model.model.embed_tokens.blob
    assert ((after - before).norm() / before.norm()) < 0.03
    untied = LlamaForCausalLM(LlamaConfig(**{**config.to_dict(), "tie_word_embeddings": False}))
    assert quantize_(untied, "bitnet")["lm_head"].codec.startswith("affine-4bit")  # the head, by get_output_embeddings


# ---- ExecuTorch ----


@pytest.fixture(scope="session")
def operators() -> None:
    """The operators in this process's ExecuTorch runtime."""
    load_operators()
    load_operators()  # a second time it does nothing, where registering twice would end the process


def lower(model: nn.Module, inputs: tuple[torch.Tensor, ...], dynamic: object = None, **config: object):
    """(edge program, ExecuTorch program)."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower

    program = torch.export.export(model, inputs, dynamic_shapes=dynamic)
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    return edge, edge.to_executorch(ExecutorchBackendConfig(**config))


def load(program: object, directory: Path, data: Path | None = None):
    """The program in the runtime, from files: what is loaded from a buffer needs the buffer to stay."""
    from executorch.extension.pybindings import portable_lib

    path = directory / f"{len(list(directory.iterdir()))}.pte"
    path.write_bytes(program.buffer)
    return portable_lib._load_for_executorch(str(path), *([str(data)] if data else []))


def contents(program: object) -> tuple[list[str], list[str]]:
    """Names of the operators and of the delegates of `forward`."""
    plan = program.executorch_program.execution_plan[0]
    return [f"{op.name}.{op.overload}" for op in plan.operators], [delegate.id for delegate in plan.delegates]


class EveryFormat(nn.Module):
    """One layer per codec, all of the same input; biases on every other one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            CompressedLinear(packed(codec, 45, 150), random_input(45, seed=n) if n % 2 else None)
            for n, codec in enumerate(CODECS)
        )
        self.embeddings = nn.ModuleList(CompressedEmbedding(packed(codec, 45, 150)) for codec in CODECS)

    def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (*(layer(x) for layer in self.layers), *(layer(tokens) for layer in self.embeddings))


@pytest.mark.full
@pytest.mark.slow
def test_every_operator_gives_eager_s_bits(operators, tmp_path):
    model = EveryFormat().eval()
    count = torch.export.Dim("count", min=1, max=100)
    _, program = lower(model, (random_input(7, 150), torch.arange(7)), {"x": {0: count}, "tokens": {0: count}})
    names, delegates = contents(program)
    assert set(names) == {f"mobile_bundle::{name}.out" for name in (*LINEAR.values(), "embedding")}
    assert not delegates
    # Layer and embedding of a codec are the same bytes, and are there once.
    assert len(program.buffer) < 1.2 * sum(layer.blob.numel() for layer in model.layers) + 60_000
    runtime = load(program, tmp_path)
    for n in (1, 2, 7, 32, 33, 100):
        inputs = random_input(n, 150, seed=n), torch.arange(n) % 45
        for result, expected in zip(runtime.forward(list(inputs)), model(*inputs), strict=True):
            assert torch.equal(result, expected)


class Block(nn.Module):
    """A small transformer: what XNNPACK and the portable operators take is between the compressed layers."""

    def __init__(self, vocabulary: int = 120, size: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embedding = nn.Embedding(vocabulary, size)
        self.query, self.key, self.value, self.out = (nn.Linear(size, size) for _ in range(4))
        self.norms = nn.ModuleList(nn.RMSNorm(size) for _ in range(2))
        self.gate, self.up = nn.Linear(size, 176, bias=False), nn.Linear(size, 176, bias=False)
        self.down = nn.Linear(176, size, bias=False)
        self.head = nn.Linear(size, vocabulary)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        # separate projections: torch.split of one would lose the dynamic shape on its way through to_edge
        h = self.norms[0](x)
        q, k, v = (
            layer(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        h = self.norms[1](x)
        x = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return self.head(x)


MIXED = {"[qkvo]*": "affine-4bit", "embedding": "affine-8bit", "gate": "bitnet", "up": "bitnet", "down": "vptq-2bit"}
UNCOMPRESSED = {"[!h]*": "raw"}


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.parametrize("recipe", [MIXED, UNCOMPRESSED], ids=["mixed", "raw"])
@pytest.mark.parametrize("external", [False, True], ids=["pte", "pte+ptd"])
def test_a_block_of_ones_own_beside_xnnpack(operators, tmp_path, recipe, external):
    torch.manual_seed(0)
    model = Block().eval()
    assert len(quantize_(model, recipe)) == 8  # all but the head, which is XNNPACK's
    batch, length = torch.export.Dim("batch", min=1, max=4), torch.export.Dim("length", min=2, max=70)
    inputs, dynamic = (torch.randint(0, 120, (2, 5)),), {"tokens": {0: batch, 1: length}}
    edge, program = lower(model, inputs, dynamic, external_constants=external)
    ours = [node for node in edge.exported_program().graph.nodes if node.name.startswith("mobile_bundle")]
    assert len(ours) == 8
    for node in ours:
        sizes = node.meta["val"].shape[:2]
        assert all(isinstance(size, torch.SymInt) for size in sizes), "the exporter lost a dynamic shape"
    names, delegates = contents(program)
    formats = {module._operator for module in model.modules() if isinstance(module, CompressedLinear)}
    assert {name for name in names if name.startswith("mobile_bundle::")} == {
        f"mobile_bundle::{name}.out" for name in (*formats, "embedding")
    }
    assert set(delegates) == {"XnnpackBackend"}
    taken = ("addmm", "linear", "bmm", "mm.out", "sigmoid", "softmax")  # by XNNPACK; none is left to other operators
    assert not [name for name in names if name.startswith("aten::") and any(each in name for each in taken)]
    data = None
    if external:
        program.write_tensor_data_to_file(str(tmp_path))
        (data,) = tmp_path.glob("*.ptd")
        blobs = sum(module.blob.numel() for module in model.modules() if hasattr(module, "blob"))
        assert data.stat().st_size > blobs
        assert model.embedding.blob.numpy().tobytes() not in program.buffer
    runtime = load(program, tmp_path, data)
    for shape in ((1, 2), (2, 5), (1, 33), (4, 70), (3, 7)):
        tokens = torch.randint(0, 120, shape)
        (result,) = runtime.forward([tokens])
        with torch.no_grad():
            expected = model(tokens)
        assert result.shape == expected.shape
        difference = (result - expected).abs()
        if recipe is UNCOMPRESSED:
            assert difference.max() < 1e-5
        else:
            # XNNPACK's last bits differ from eager's, and then an input may be rounded to the next of its 8-bit codes.
            assert difference.max() < 1e-2
            assert difference.median() < 1e-5


class Given(nn.Module):
    """An operator whose weight is an input, so that a test can hand it anything."""

    def __init__(self, operator: str, width: int) -> None:
        super().__init__()
        self.operator, self.width = operator, width

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        operator = getattr(torch.ops.mobile_bundle, self.operator)
        return operator(weight, x, self.width) if self.operator == "embedding" else operator(x, weight, self.width)


def given(directory: Path, operator: str, width: int, x: torch.Tensor, blob: torch.Tensor):
    """That operator in the runtime; inputs are used where they lie."""
    from executorch.exir.passes import MemoryPlanningPass

    planning = MemoryPlanningPass(alloc_graph_input=False)
    return load(lower(Given(operator, width).eval(), (x, blob), memory_planning_pass=planning)[1], directory)


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.parametrize(
    "codec", ["raw", "affine-3bit", "affine-8bit", "bitnet-row", "bitnet-1.25bit", "vptq-v8-b8-r8-o3"]
)
def test_the_runtime_survives_hostile_blobs_and_takes_unaligned_ones(operators, tmp_path, codec):
    blob, x, tokens = packed(codec, 40, 136), random_input(3, 136), torch.arange(3)
    layer, rows = CompressedLinear(blob), CompressedEmbedding(blob)
    linear, embedding = given(tmp_path, layer._operator, 40, x, blob), given(tmp_path, "embedding", 136, tokens, blob)
    for offset in (0, 4, 16, 48):
        assert torch.equal(linear.forward([x, moved(blob, offset)])[0], layer(x))
        assert torch.equal(embedding.forward([tokens, moved(blob, offset)])[0], rows(tokens))
    with pytest.raises(RuntimeError):
        linear.forward([x, moved(blob, 2)])
    with pytest.raises(RuntimeError):
        embedding.forward([torch.tensor([0, 40, 1]), blob])
    refused = 0
    for bad in hostile_blobs(blob, 150):
        for runtime, value in ((linear, x), (embedding, tokens)):
            try:
                runtime.forward([value, torch.from_numpy(bad)])
            except RuntimeError:
                refused += 1
    assert refused > 100
    assert torch.equal(linear.forward([x, blob])[0], layer(x))  # and goes on afterwards


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.parametrize(
    ("operator", "width", "reason"),
    [("linear_affine2", 40, "another operator's format"), ("linear_affine4", 41, "rows are not out_features"),
     ("embedding", 137, "columns are not embedding_dim")],
)  # fmt: skip
def test_the_runtime_logs_why_it_refuses(operators, tmp_path, capfd, operator, width, reason):
    blob = packed("affine-4bit", 40, 136)
    x = torch.arange(3) if operator == "embedding" else random_input(3, 136)
    runtime = given(tmp_path, operator, width, x, blob)
    with pytest.raises(RuntimeError):
        runtime.forward([x, blob])
    assert reason in capfd.readouterr().err


def test_the_package_itself_does_not_import_torch():
    code = "import sys, mobile_bundle, mobile_bundle.cli.build; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.slow
def test_a_missing_library_is_explained(monkeypatch, tmp_path):
    code = "from mobile_bundle.lower import load_operators; load_operators()"
    environment = {**os.environ, "MOBILE_BUNDLE_EXECUTORCH_LIBRARY": str(tmp_path / "none.so")}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "none.so cannot be loaded" in process.stderr
