"""model.onnx and the operator library: what is in the files, every weight format as an operator, hostile blobs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from mobile_bundle.codecs import ArraySource, Blob, Stats, codec_by_name, codec_for
from mobile_bundle.codecs.blob import HEADER_BYTES, BlobHeader, Format
from mobile_bundle.codecs.codebook import train_codebooks
from mobile_bundle.codecs.vector_blob import decode_vector, stack_codebooks
from mobile_bundle.codecs.vector_layout import VectorLayout
from mobile_bundle.codecs.vptq import VptqCodec
from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.export.onnx import export_onnx
from mobile_bundle.pipeline.weights import build_weights
from mobile_bundle.planning.recipe import Recipe
from numpy.typing import NDArray
from onnx import TensorProto, helper
from support.checkpoints import write_tiny
from support.onnx_programs import Decoder, onnx_library, open_session
from support.paths import EXAMPLE, ROOT

pytestmark = pytest.mark.full

PACKED = ["raw", "affine-8bit", "affine-5bit", "affine-4bit", "affine-3bit", "affine-2bit", "bitnet", "bitnet-1.25bit",
          "vptq-2bit"]  # fmt: skip
STORED = ["bitnet-1.6bit", "seedlm-4bit", "hyper", "affine-4bit+entropy", "bitnet+entropy", "vptq-2bit+entropy"]


def gaussian(rows: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * 0.02).astype(np.float32)


def encoded(recipe: str, rows: int, columns: int, seed: int = 0) -> tuple[bytes, NDArray[np.float32]]:
    """A blob, and the matrix that it holds."""
    codec = codec_by_name(recipe)
    weight = gaussian(rows, columns, seed)
    parts: list[bytes] = []
    codec.encode_stream(ArraySource(weight), lambda piece: parts.append(bytes(piece)))
    data = b"".join(parts)
    blob = Blob.parse(data)
    return data, codec_for(blob.header).decode(blob)


def one_node(
    operator: str,
    blobs: list[bytes],
    attributes: dict[str, list[int]],
    outputs: int = 1,
    external: tuple[str, int] | None = None,
) -> bytes:
    """A model of a single node. external: (file, offset) of the first blob instead of its bytes."""
    names = [f"w{i}" for i in range(len(blobs))]
    weights = [
        helper.make_tensor(n, TensorProto.UINT8, [len(b)], b, raw=True) for n, b in zip(names, blobs, strict=True)
    ]
    if external:
        place = {"location": external[0], "offset": str(external[1]), "length": str(len(blobs[0]))}
        weights[0].ClearField("raw_data")
        weights[0].data_location = TensorProto.EXTERNAL
        for key, value in place.items():
            weights[0].external_data.add(key=key, value=value)
    kind = TensorProto.INT64 if operator == "CompressedGather" else TensorProto.FLOAT
    results = [f"y{i}" for i in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", *names], results, domain="mobile_bundle", **attributes)],
        "one",
        [helper.make_tensor_value_info("x", kind, None)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results],
        weights,
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("mobile_bundle", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=11).SerializeToString()


def multiply(blobs: list[bytes], rows: list[int], x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    session = open_session(one_node("CompressedMatMul", blobs, {"rows": rows}, len(rows)))
    return session.run(None, {"x": x})


@pytest.fixture(scope="module")
def exported(bundle) -> Callable[..., Path]:
    """exported(recipe, model): a bundle with its model.onnx."""

    def build(recipe: str | Recipe | None = "affine-4bit", model: Path = EXAMPLE) -> Path:
        return bundle(recipe, model, ("native", "onnx"))

    return build


# ---- the files -------------------------------------------------------------------------------------------------------


def test_the_model_is_valid_small_and_the_same_every_time(exported, tmp_path):
    directory = exported()
    data = (directory / "model.onnx").read_bytes()
    onnx.checker.check_model(str(directory / "model.onnx"))
    assert len(data) < 2_000
    shutil.copy(directory / "weights.ptd", tmp_path)
    export_onnx(tmp_path, "affine-4bit")
    assert (tmp_path / "model.onnx").read_bytes() == data
    model = onnx.load_from_string(data)
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 21, "mobile_bundle": 1}
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["model"] == "wiki-6m"
    (node,) = model.graph.node
    assert (node.domain, node.op_type) == ("mobile_bundle", "Decoder")


def test_its_one_initializer_is_the_index_of_weights_ptd(exported):
    directory = exported()
    (tensor,) = onnx.load(directory / "model.onnx", load_external_data=False).graph.initializer
    place = {entry.key: entry.value for entry in tensor.external_data}
    with WeightsReader(directory / "weights.ptd") as weights:
        offset, size = weights.index_place
        assert place == {"location": "weights.ptd", "offset": str(offset), "length": str(size)}
        assert list(tensor.dims) == [size]
    assert (directory / "weights.ptd").read_bytes()[offset:][:8] == b"MBINDEX\0"


@pytest.mark.parametrize(
    ("model", "kind"), [("llama", "llama"), ("qwen2", "qwen2"), ("bitnet", "llama"), ("gemma3", "qwen3"),
                        ("mistral", "mistral"), ("lfm2", "llama")]
)  # fmt: skip
def test_inputs_outputs_and_settings_are_onnxruntime_genai_s(tmp_path, model, kind):
    write_tiny(tmp_path, model, dtype="bfloat16")
    build_weights(tmp_path, "raw", tmp_path / "weights.ptd")
    export_onnx(tmp_path, "raw")
    session = open_session(tmp_path / "model.onnx")
    settings = json.loads((tmp_path / "genai_config.json").read_text())["model"]
    decoder = settings["decoder"]
    inputs = {i.name: (i.type, i.shape) for i in session.get_inputs()}
    outputs = {o.name: (o.type, o.shape) for o in session.get_outputs()}
    assert inputs[decoder["inputs"]["input_ids"]] == ("tensor(int64)", [1, "sequence_length"])
    assert inputs[decoder["inputs"]["attention_mask"]] == ("tensor(int64)", [1, "total_sequence_length"])
    assert outputs[decoder["outputs"]["logits"]] == ("tensor(float)", [1, 1, settings["vocab_size"]])
    heads, size = decoder["num_key_value_heads"], decoder["head_size"]
    for layer in range(decoder["num_hidden_layers"]):
        for part in ("key", "value"):
            past = inputs[decoder["inputs"][f"past_{part}_names"] % layer]
            present = outputs[decoder["outputs"][f"present_{part}_names"] % layer]
            assert past == ("tensor(float)", [1, heads, "past_sequence_length", size])
            assert present == ("tensor(float)", [1, heads, "present_sequence_length", size])
    assert len(inputs) == 2 + 2 * decoder["num_hidden_layers"] == len(outputs) + 1
    assert settings["type"] == kind


def test_without_the_onnx_package_a_line_says_so(exported):
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "from pathlib import Path\n"
        "from mobile_bundle.errors import UserError\n"
        "from mobile_bundle.export.onnx import export_onnx\n"
        "try:\n    export_onnx(Path(sys.argv[1]), 'raw')\n"
        "except UserError as error:\n    print(error)\n"
    )
    process = subprocess.run([sys.executable, "-c", code, exported()], capture_output=True, text=True)
    assert process.stdout == "model.onnx needs the onnx package: pip install '.[onnx]' in a checkout of mobile-bundle\n"


def test_the_library_exports_one_function_and_needs_no_onnxruntime():
    symbols = subprocess.run(["nm", "-D", "--defined-only", onnx_library()], capture_output=True, text=True, check=True)
    assert [line.split()[-1] for line in symbols.stdout.splitlines()] == ["RegisterCustomOps"]
    needed = subprocess.run(["readelf", "-d", onnx_library()], capture_output=True, text=True, check=True).stdout
    assert "onnxruntime" not in needed


# ---- the operators ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [*PACKED, *STORED])
@pytest.mark.parametrize("columns", [128, 200])
def test_every_format_multiplies_and_gathers(recipe, columns):
    """1, 5 and 70 vectors (three chunks): products within the rounding of activations to int8, rows exactly."""
    blob, weight = encoded(recipe, 80, columns)
    for vectors in (1, 5, 70):
        x = np.random.default_rng(vectors).standard_normal((1, vectors, columns)).astype(np.float32)
        (y,) = multiply([blob], [80], x)
        expected = x @ weight.T
        limit = 1e-5 if recipe == "raw" else 2e-2
        assert np.linalg.norm(y - expected) < limit * np.linalg.norm(expected)
    ids = np.array([[0, 79, 3], [5, 5, 6]])
    session = open_session(one_node("CompressedGather", [blob], {"columns": [columns]}))
    rows = session.run(None, {"x": ids})[0]
    if recipe in ("seedlm-4bit", "hyper"):  # computed with as 8 bits
        assert np.linalg.norm(rows - weight[ids]) < 1e-2 * np.linalg.norm(weight[ids])
    else:
        assert np.array_equal(rows, weight[ids])


def test_three_weights_of_different_formats_share_an_input():
    blobs, weights = zip(
        *(encoded(r, n, 256, n) for r, n in (("affine-4bit", 96), ("bitnet", 33), ("raw", 16))), strict=True
    )
    x = np.random.default_rng(0).standard_normal((3, 256)).astype(np.float32)
    together = multiply(list(blobs), [96, 33, 16], x)
    for blob, weight, y in zip(blobs, weights, together, strict=True):
        assert np.array_equal(multiply([blob], [len(weight)], x)[0], y)


def test_round_input_rounds_what_unpacked_weights_see():
    blob, weight = encoded("raw", 32, 128)
    x = np.random.default_rng(0).standard_normal((2, 128)).astype(np.float32)
    session = open_session(one_node("CompressedMatMul", [blob], {"rows": [32], "round_input": 1}))
    scale = np.abs(x).max(-1, keepdims=True) / 127
    expected = (np.rint(x / scale) * scale) @ weight.T
    assert np.allclose(session.run(None, {"x": x})[0], expected, atol=1e-5)
    assert not np.allclose(x @ weight.T, expected, atol=1e-4)


def shared_codebook() -> tuple[list[bytes], NDArray[np.float32]]:
    """A vector blob and the codebook behind it, and the matrix."""
    layout = VectorLayout(4, 8, 0, 0, True)
    points = np.random.default_rng(1).standard_normal((20_000, 4)).astype(np.float32)
    books = train_codebooks(points, np.ones(len(points), np.float32), layout)
    stacked = stack_codebooks(layout, books.first)
    stats = Stats(None, None, stacked, np.array([books.step], np.float32))
    blob = VptqCodec(layout).encode(gaussian(64, 128), stats)
    header = BlobHeader(Format.INT8, layout.entries, layout.stride)
    return [blob.to_bytes(), header.pack() + stacked.tobytes()], decode_vector(blob, stacked)


def test_a_shared_codebook_follows_its_weight():
    blobs, weight = shared_codebook()
    x = np.random.default_rng(0).standard_normal((4, 128)).astype(np.float32)
    y = multiply(blobs, [64], x)[0]
    expected = x @ weight.T
    assert np.linalg.norm(y - expected) < 2e-2 * np.linalg.norm(expected)
    other, _ = encoded("affine-4bit", 16, 128)
    assert np.array_equal(multiply([*blobs, other], [64, 16], x)[0], y)
    for wrong, words in (
        (blobs[:1], "missing"),
        ([blobs[0], other], "codebook"),
        ([blobs[1]], "codebook"),
    ):
        with pytest.raises(Exception, match=words):
            multiply(wrong, [64], x)


def test_shapes_are_inferred():
    blob, _ = encoded("affine-4bit", 48, 128)
    model = onnx.load_from_string(one_node("CompressedMatMul", [blob, blob], {"rows": [48, 48]}, 2))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, "n", 128]))
    session = open_session(model.SerializeToString())
    assert [o.shape for o in session.get_outputs()] == [[2, "n", 48]] * 2
    model = onnx.load_from_string(one_node("CompressedGather", [blob], {"columns": [128]}))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.INT64, ["n"]))
    assert open_session(model.SerializeToString()).get_outputs()[0].shape == ["n", 128]


def test_an_unaligned_blob_of_another_file_is_copied(tmp_path):
    blob, weight = encoded("raw", 32, 128)
    (tmp_path / "other.bin").write_bytes(b"#" * 4097 + blob)
    (tmp_path / "m.onnx").write_bytes(
        one_node("CompressedMatMul", [blob], {"rows": [32]}, external=("other.bin", 4097))
    )
    x = np.random.default_rng(0).standard_normal((2, 128)).astype(np.float32)
    (y,) = open_session(tmp_path / "m.onnx").run(None, {"x": x})
    assert np.allclose(y, x @ weight.T, atol=1e-5)


def test_what_cannot_be_is_an_error():
    blob, _ = encoded("affine-4bit", 48, 128)
    narrow, _ = encoded("affine-4bit", 48, 64)
    for blobs, attributes, words in (
        ([blob], {"rows": [47]}, "48 rows"),
        ([blob], {"rows": [48, 48]}, "missing"),
        ([blob, blob], {"rows": [48]}, "inputs"),
        ([blob], {"rows": []}, "rows"),
        ([blob], {}, "rows"),
        ([blob] * 4, {"rows": [48] * 4}, "rows"),
        ([blob, narrow], {"rows": [48, 48]}, "columns"),
    ):
        with pytest.raises(Exception, match=words):
            open_session(one_node("CompressedMatMul", blobs, attributes, max(1, len(attributes.get("rows", [])))))
    session = open_session(one_node("CompressedMatMul", [blob], {"rows": [48]}))
    for shape in ((2, 127), (2, 256), (), (1,) * 9):
        with pytest.raises(Exception, match=r"dimension"):
            session.run(None, {"x": np.zeros(shape, np.float32)})
    assert session.run(None, {"x": np.zeros((0, 128), np.float32)})[0].shape == (0, 48)
    session = open_session(one_node("CompressedGather", [blob], {"columns": [128]}))
    for bad in (-1, 48, 1 << 40):
        with pytest.raises(Exception, match="not in the vocabulary of 48"):
            session.run(None, {"x": np.array([0, bad])})


@pytest.mark.parametrize("recipe", ["affine-4bit", "bitnet-1.25bit", "vptq-2bit", *STORED])
def test_hostile_blobs_are_refused_or_harmless(recipe):
    """Changed headers, changed bodies, missing ends: an error of one line, or numbers, never a crash."""
    blob, _ = encoded(recipe, 48, 128)
    random = np.random.default_rng(7)
    reasons: list[str] = []
    for attempt in range(60):
        data = bytearray(blob)
        if attempt % 3 == 0:
            data = data[: int(random.integers(0, len(data)))]
        elif attempt % 3 == 1:
            data[int(random.integers(0, HEADER_BYTES))] ^= int(random.integers(1, 256))
        else:
            for _ in range(4):
                data[int(random.integers(HEADER_BYTES, len(data)))] = int(random.integers(0, 256))
        try:
            session = open_session(one_node("CompressedMatMul", [bytes(data)], {"rows": [48]}))
            session.run(None, {"x": np.ones((1, 128), np.float32)})
        except Exception as error:
            reasons.append(str(error))
    assert len(reasons) >= 20
    assert all("w0: " in reason or "weight 0 has" in reason or "dimension of x" in reason for reason in reasons)


# ---- weights.ptd -----------------------------------------------------------------------------------------------------


def mapped(name: str) -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(name)]


def test_weights_are_the_engine_s_one_mapping_and_go_with_the_session(exported, tmp_path):
    directory = tmp_path / "b.mbundle"
    shutil.copytree(exported(), directory)
    weights = str(directory / "weights.ptd")
    first, second = open_session(directory / "model.onnx"), open_session(directory / "model.onnx")
    assert len([line for line in mapped(weights) if "r--s" in line]) == 1
    del first
    assert len([line for line in mapped(weights) if "r--s" in line]) == 1
    del second
    assert mapped(weights) == []


def test_a_bundle_built_again_under_an_open_one_is_another(exported, tmp_path):
    """Sessions opened before and after: each keeps its own weights."""
    directory, other = exported("affine-4bit"), exported("affine-8bit")
    place = tmp_path / "b.mbundle"
    shutil.copytree(directory, place)
    before = Decoder(place)
    shutil.rmtree(place)
    shutil.copytree(other, place)
    after = Decoder(place)
    assert np.array_equal(before.feed([1, 5, 9]), Decoder(directory).feed([1, 5, 9]))
    assert np.array_equal(after.feed([1, 5, 9]), Decoder(other).feed([1, 5, 9]))


def test_a_model_of_other_weights_is_refused(exported, tmp_path):
    shutil.copy(exported("affine-4bit") / "model.onnx", tmp_path)
    shutil.copy(exported("affine-8bit") / "weights.ptd", tmp_path)
    with pytest.raises(Exception, match="build it again"):
        open_session(tmp_path / "model.onnx")
    data = bytearray((exported("affine-4bit") / "weights.ptd").read_bytes())
    data[20_000] ^= 255
    (tmp_path / "weights.ptd").write_bytes(data)
    with pytest.raises(Exception, match=r"weights\.ptd"):
        open_session(tmp_path / "model.onnx")


@pytest.mark.parametrize("recipe", ["bitnet-1.6bit", "affine-4bit+entropy"])
def test_stored_forms_are_installed_and_give_the_packed_recipe_s_logits(exported, tmp_path, monkeypatch, recipe):
    directory = tmp_path / "b.mbundle"
    shutil.copytree(exported(recipe), directory, ignore=shutil.ignore_patterns("weights.cache"))
    packed = exported({"bitnet-1.6bit": "bitnet", "affine-4bit+entropy": "affine-4bit"}[recipe])
    monkeypatch.setenv("MOBILE_BUNDLE_CACHE_DIR", str(tmp_path))
    assert np.array_equal(Decoder(directory).feed([1, 5, 9]), Decoder(packed).feed([1, 5, 9]))
    assert not (directory / "weights.cache").exists()
    assert (tmp_path / "weights.cache").exists()


def test_the_example_of_the_documentation_runs(exported):
    """The code under "ONNX Runtime from Python", with a bundle and a prompt of this test."""
    page = (ROOT / "docs/RUNTIMES.md").read_text().split("### ONNX Runtime from Python")[1].split("| input |")[0]
    code = "\n".join(line[4:] for line in page.splitlines())
    assert "model.mbundle/model.onnx" in code
    names: dict[str, object] = {"prompt": [1, 2, 3]}
    exec(code.replace("model.mbundle", str(exported())).replace("count < 100", "count < 12"), names)
    expected = Decoder(exported()).feed([1, 2, 3])
    past = names["past"]
    assert isinstance(past, np.ndarray)
    assert past.reshape(-1).tolist()[:4] == [1, 2, 3, int(expected.argmax())]


def test_an_index_that_is_in_the_model_is_no_file(exported, tmp_path):
    onnx.save(onnx.load(exported() / "model.onnx"), tmp_path / "model.onnx", save_as_external_data=False)
    with pytest.raises(Exception, match=r"weights\.ptd was given from memory; the decoder maps it"):
        open_session(tmp_path / "model.onnx")


def changed(directory: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """The directory, its model.onnx changed."""
    model = onnx.load(directory / "model.onnx", load_external_data=False)
    change(model)
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    return directory / "model.onnx"


def test_a_graph_that_is_not_ours_is_refused(exported, tmp_path):
    """Attributes that are wrong or missing, an index that is none or no constant."""

    def attribute(model: onnx.ModelProto, name: str, value: int | None) -> None:
        (node,) = model.graph.node
        found = next(a for a in node.attribute if a.name == name)
        node.attribute.remove(found)
        if value is not None:
            node.attribute.append(helper.make_attribute(name, value))

    def place(model: onnx.ModelProto, key: str, value: int) -> None:
        (tensor,) = model.graph.initializer
        next(entry for entry in tensor.external_data if entry.key == key).value = str(value)
        if key == "length":
            tensor.dims[0] = value

    def feed_the_index(model: onnx.ModelProto) -> None:
        del model.graph.initializer[:]
        model.graph.input.append(helper.make_tensor_value_info(model.graph.node[0].input[3], TensorProto.UINT8, ["n"]))

    for change, words in (
        (lambda model: attribute(model, "index_crc32", 1), "does not belong to this model.onnx"),
        (lambda model: attribute(model, "index_crc32", None), "does not belong to this model.onnx"),
        (lambda model: attribute(model, "vocabulary", 4095), "different vocabularies"),
        (lambda model: attribute(model, "vocabulary", None), "different vocabularies"),
        (lambda model: place(model, "offset", 0), "does not belong to this model.onnx"),
        (lambda model: place(model, "length", 63), "not the index of a weights.ptd"),
        (lambda model: place(model, "length", 1 << 40), "."),
        (feed_the_index, "must be initializers"),
    ):
        shutil.rmtree(tmp_path)
        shutil.copytree(exported(), tmp_path)
        with pytest.raises(Exception, match=words):
            open_session(changed(tmp_path, change))


def test_runs_at_the_same_time_do_not_disturb_each_other(exported):
    directory = exported()
    decoder = Decoder(directory)
    expected = decoder.feed(list(range(40)))
    feed = {
        "input_ids": np.arange(40)[None],
        "attention_mask": np.ones((1, 40), np.int64),
    }
    shape = next(i.shape for i in decoder.session.get_inputs() if i.name == decoder.names[0])
    feed.update({name: np.zeros((1, shape[1], 0, shape[3]), np.float32) for name in decoder.names})
    wrong: list[int] = []

    def work() -> None:
        for _ in range(5):
            if not np.array_equal(decoder.session.run(["logits"], feed)[0][0, 0], expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
