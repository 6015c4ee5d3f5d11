"""The report: its figures against what eval, inspect and NumPy say, and its page in headless Chromium."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mobile_bundle.cli.main import main
from mobile_bundle.codecs import codec_for
from mobile_bundle.codecs.blob import Blob, BlobHeader, Format
from mobile_bundle.codecs.entropy import compress
from mobile_bundle.codecs.vector_blob import VectorParts, pack_vector, stack_codebooks
from mobile_bundle.codecs.vector_layout import VectorLayout
from mobile_bundle.container.manifest import read_manifest, write_manifest
from mobile_bundle.container.weights import PlannedTensor, WeightsReader, WeightsWriter
from mobile_bundle.models import open_model
from mobile_bundle.report.errors import decoded_chunks
from mobile_bundle.report.labels import Box, Wish, place_labels
from mobile_bundle.report.page import report_page
from mobile_bundle.report.pareto import Point, pareto_front
from mobile_bundle.report.results import ModelResults, results_markdown
from mobile_bundle.report.roles import part_of
from mobile_bundle.report.schema import Report, read_report
from support.browser import Browser
from support.builds import build
from support.paths import EXAMPLE

HOSTILE = "\"><img src=x onerror=console.log(1)><script>console.log(2)<!-- &amp; 'é|`"
"""A name that a file system takes and a careless page would run."""
PROTOCOL = ("--context", "64", "--windows", "3")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> list[Path]:
    """Bundles of the example: two recipes, and the first again with a hostile name and recipe."""
    directory = tmp_path_factory.mktemp("reported")
    out = [directory / f"{name}.mbundle" for name in ("four", "two", HOSTILE)]
    for path, recipe in zip(out[:2], ("affine-4bit", "affine-2bit"), strict=True):
        build(EXAMPLE, path, recipe)
    shutil.copytree(out[0], out[2])
    write_manifest(out[2], {**read_manifest(out[0]), "recipe": HOSTILE})
    return out


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("The city lies on the river. " * 30 + "\n\x1e\n" + "He was born in 1920 in the north. " * 30)
    return path


@pytest.fixture(scope="module")
def points(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("points") / "points.json"
    listed = [
        {"name": "<b>theirs</b>", "bytes": 3_000_000, "perplexity": 30, "kl": 0.1234},
        {"name": "Q9", "bytes": 10, "perplexity": 9},
    ]
    path.write_text(json.dumps({"origin": "<i>others</i>", "context": 64, "windows": 3, "points": listed}))
    return path


@pytest.fixture(scope="module")
def page(bundles, text, points, tmp_path_factory) -> Path:
    """The page of all bundles, its JSON beside it."""
    path = tmp_path_factory.mktemp("report") / "page.html"
    arguments = ["report", *bundles, "--against", EXAMPLE, "--text", text, *PROTOCOL, "--points", points, "-o", path]
    assert main(list(map(str, arguments))) == 0
    assert sorted(file.name for file in path.parent.iterdir()) == ["page.html", "page.json"]
    return path


@pytest.fixture(scope="module")
def report(page) -> Report:
    return read_report(page.with_suffix(".json"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def fails(capsys, words: str, *arguments: object) -> None:
    """The command ends with status 1 and one line."""
    assert main(["report", *map(str, arguments)]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if " %" not in line]
    assert len(lines) == 1
    assert words in lines[0]


def test_figures_are_those_of_eval(report, bundles, text, capsys):
    for subject, found in (
        (EXAMPLE, report.original.perplexity),
        (bundles[1], next(b.perplexity for b in report.bundles if b.name == "two")),
    ):
        assert main(["eval", str(subject), "--text", str(text), *PROTOCOL, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["perplexity"] == pytest.approx(found, rel=1e-6)
    assert main(["eval", str(bundles[1]), "--against", str(EXAMPLE), "--text", str(text), *PROTOCOL, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    close = next(bundle.closeness for bundle in report.bundles if bundle.name == "two")
    assert figures.items() >= asdict(close).items()
    assert close.kl > 0.01


def test_sizes_add_up(report, bundles):
    by_name = {bundle.name: bundle for bundle in report.bundles}
    for path in bundles:
        bundle = by_name[path.name.removesuffix(".mbundle")]
        assert bundle.bundle_bytes == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        assert sum(bundle.split.values()) == bundle.bundle_bytes
        assert min(bundle.split.values()) >= 0
        assert bundle.split["tokenizer"] == (path / "tokenizer.bin").stat().st_size
        blobs = {tensor["name"]: tensor["bytes"] for tensor in read_manifest(path)["tensors"]}
        assert bundle.split["embedding"] == blobs["embedding.weight"]
        assert bundle.split["attention"] == sum(
            blobs[f"layers.{layer}.attention.{name}.weight"]
            for layer in range(6)
            for name in ("query", "key", "value", "output")
        )
        assert bundle.model_bytes == sum((path / name).stat().st_size for name in ("weights.ptd", "tokenizer.bin"))
    assert by_name["four"].bits_per_weight["body"] == pytest.approx(4.25, abs=0.03)
    assert report.bundles[0].name == "two"


def test_errors_are_exact(report, bundles):
    """Against whole matrices in float64, and the sum over several."""
    bundle = next(bundle for bundle in report.bundles if bundle.name == "two")
    errors = {tensor.name: tensor for tensor in bundle.tensors}
    error = total = 0.0
    with open_model(EXAMPLE) as model, WeightsReader(bundles[1] / "weights.ptd") as weights:
        for tensor in model.tensors:
            blob = weights.blob(tensor.name)
            ours = codec_for(blob.header).decode(blob).astype(np.float64)
            theirs = np.concatenate(list(model.source(tensor).chunks(1 << 20))).astype(np.float64)
            here, whole = ((ours - theirs) ** 2).sum(), (theirs**2).sum()
            assert errors[tensor.name].error == pytest.approx(here / whole, rel=1e-5)
            assert not errors[tensor.name].disagrees
            if tensor.layer == 2 and tensor.role == "body":
                error, total = error + here, total + whole
    assert bundle.layers[2] == pytest.approx(error / total, rel=1e-5)
    assert 0 < bundle.relative_error["embedding"] < bundle.relative_error["all"] < bundle.relative_error["body"]


def test_a_manifest_that_records_another_error_is_noticed(bundles, text, tmp_path):
    changed = tmp_path / "changed.mbundle"
    shutil.copytree(bundles[0], changed)
    manifest = read_manifest(changed)
    tensor = next(t for t in manifest["tensors"] if t["name"] == "layers.1.mlp.up.weight")
    tensor["relative_error"] /= 2
    write_manifest(changed, manifest)
    out = tmp_path / "page.html"
    assert (
        main(["report", str(changed), "--against", str(EXAMPLE), "--text", str(text), *PROTOCOL, "-o", str(out)]) == 0
    )
    assert "another error for 1 tensor: layers.1.mlp.up.weight" in out.read_text()


def test_reuse_measures_only_what_is_new(report, page, bundles, text, points, tmp_path, capsys):
    def again(*extra: object) -> tuple[Report, str]:
        out = tmp_path / "again.html"
        arguments = ["report", *bundles, "--against", EXAMPLE, "--text", text, "--points", points, "-o", out, *extra]
        assert main(list(map(str, arguments))) == 0
        return read_report(out.with_suffix(".json")), capsys.readouterr().err

    capsys.readouterr()
    same, said = again(*PROTOCOL, "--reuse", page.with_suffix(".json"))
    assert same == report
    assert said == ""  # no progress: nothing was measured
    known = json.loads(page.with_suffix(".json").read_text())
    known["bundles"] = [bundle for bundle in known["bundles"] if bundle["name"] != "two"]
    interrupted = tmp_path / "interrupted.json"
    interrupted.write_text(json.dumps(known))
    whole, said = again(*PROTOCOL, "--reuse", interrupted)
    assert whole == report
    assert "two: perplexity" in said
    assert "four" not in said
    points.with_name("other.json").write_text('[{"name": "x", "bytes": 5, "perplexity": 7.5}]')
    other, said = again(
        "--context",
        "32",
        "--windows",
        "3",
        "--reuse",
        page.with_suffix(".json"),
        "--points",
        points.with_name("other.json"),
    )
    assert "four, two, " in said  # another protocol: nothing can be taken over
    assert other.original.perplexity != report.original.perplexity


def test_what_cannot_be_compared_is_refused(bundles, text, points, tmp_path, capsys):
    common = ("--against", EXAMPLE, "--text", text, "-o", tmp_path / "x.html")
    fails(capsys, "cannot be compared (give --context 64 --windows 3", bundles[0], *common, "--windows", 1,
          "--context", 64, "--points", points)  # fmt: skip
    fails(capsys, "is given twice", bundles[0], bundles[0], *common)
    fails(capsys, "cannot be the same file", bundles[0], *common, "--json", tmp_path / "x.html")
    fails(capsys, "cannot be written", bundles[0], *common, "-o", tmp_path / "none" / "x.html")
    fails(capsys, "is not a report of version", bundles[0], *common, "--reuse", points)
    fails(capsys, "is not a bundle", EXAMPLE, *common)
    damaged = tmp_path / "damaged.mbundle"
    shutil.copytree(bundles[0], damaged)
    data = bytearray((damaged / "weights.ptd").read_bytes())
    data[-1000] ^= 1
    (damaged / "weights.ptd").write_bytes(data)
    fails(capsys, "its sha256 differs from the manifest", damaged, *common)
    other = tmp_path / "other.mbundle"
    shutil.copytree(bundles[0], other)
    manifest = read_manifest(other)
    manifest["tensors"][2]["rows"] += 16
    write_manifest(other, manifest)
    fails(capsys, "has another shape; give the checkpoint", other, *common)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged.mbundle", "other.mbundle"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "must hold a list"),
        ("{", "not JSON"),
        ('[{"name": "a", "bytes": 0, "perplexity": 9}]', "bytes must be"),
        ('[{"name": "a", "bytes": 9, "perplexity": NaN}]', "NaN is not a JSON number"),
        ('[{"name": "a", "bytes": 9, "perplexity": "9"}]', "perplexity must be"),
        ('[{"name": "a", "bytes": 9, "perplexity": 9, "kl": -1}]', "kl must be"),
        ('[{"bytes": 9, "perplexity": 9}]', "has no name"),
        ("[3]", "is not an object"),
    ],
)
def test_points_are_checked(bundles, text, tmp_path, capsys, content, words):
    (tmp_path / "points.json").write_text(content)
    fails(capsys, words, bundles[0], "--against", EXAMPLE, "--text", text, *PROTOCOL,
          "--points", tmp_path / "points.json", "-o", tmp_path / "x.html")  # fmt: skip


@pytest.mark.parametrize(("width", "height"), [(1100, 900), (360, 740)])
def test_the_page_in_chromium(browser, page, report, width, height):
    pictures = {}
    for scheme in ("light", "dark"):
        browser.open(page, width, height, scheme)
        assert browser.problems == []
        assert browser.requests == [page.resolve().as_uri()]
        assert browser.evaluate("document.documentElement.scrollWidth") == width
        assert browser.evaluate("document.querySelectorAll('table.bundles tbody tr').length") == len(report.bundles)
        assert browser.evaluate("[...document.querySelectorAll('svg.plot')].filter(e => e.clientWidth).length") == 1
        pictures[scheme] = browser.screenshot()
    assert pictures["light"] != pictures["dark"]
    assert all(picture.startswith(b"\x89PNG") and len(picture) > 10_000 for picture in pictures.values())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser, page, scheme):
    """WCAG's contrast of at least 4.5 for every text outside the drawings, grounds blended as they lie."""
    browser.open(page, 1100, 900, scheme)
    worst = browser.evaluate(
        """(() => {
          const parse = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return [...m.slice(0, 3), m[3] ?? 1]; };
          const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
          const light = (c) => c.slice(0, 3).map((v) => v / 255)
            .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
          const ground = (e) =>
            e ? over(parse(getComputedStyle(e).backgroundColor), ground(e.parentElement)) : [255, 255, 255, 1];
          let worst = [99, ""];
          for (const e of document.querySelectorAll("main *:not(svg):not(svg *)")) {
            if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
            const back = ground(e), front = over(parse(getComputedStyle(e).color), back);
            const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
            const contrast = (a + 0.05) / (b + 0.05);
            if (contrast < worst[0]) worst = [contrast, e.outerHTML.slice(0, 80)];
          }
          return worst;
        })()"""
    )
    assert worst[0] >= 4.5, worst


def test_the_page_is_accessible_and_sorts(browser, page):
    browser.open(page, 1100, 900, "light")
    assert browser.evaluate("document.querySelectorAll('th:not([scope])').length") == 0
    assert browser.evaluate(
        "[...document.querySelectorAll('svg.plot')].every(e => e.querySelector('title').textContent)"
    )
    names = "[...document.querySelectorAll('table.bundles tbody th')].map(e => e.dataset.value)"
    first = browser.evaluate(names)
    button = "document.querySelectorAll('table.bundles button.sort')[6]"  # perplexity
    browser.evaluate(f"{button}.click()")
    assert browser.evaluate(names)[-1] == "two"
    browser.evaluate(f"{button}.click()")
    assert browser.evaluate(names)[0] == "two"
    assert sorted(browser.evaluate(names)) == sorted(first)


def test_hostile_names_stay_text(browser, page, report):
    """They are shown letter by letter, and nothing of them becomes an element."""
    browser.open(page, 1100, 900, "light")
    assert browser.problems == []
    assert browser.evaluate("document.querySelectorAll('img, b:not(td b), i').length") == 0
    assert browser.evaluate("document.scripts.length") == 1
    text = browser.evaluate("document.body.textContent")
    assert text.count(HOSTILE) >= 3
    assert "<i>others</i>" in text
    source = page.read_text()
    assert html.escape(HOSTILE) in source
    assert "<script>console" not in source


def test_results_name_everything_they_must(report):
    missing = {"planned": "no such recipe\n| yet"}
    subject = ModelResults(report, "models/m", "val.txt", {"four": "--recipe affine-4bit"}, missing)
    page = results_markdown([subject], "make-it")
    table = [line for line in page.splitlines() if line.startswith("| ")]
    assert all(line.replace("\\|", "").count("|") in (6, 8, 14) for line in table)  # no name breaks out of its cell
    for bundle in report.bundles:
        assert sum(f"{bundle.perplexity:.3f}" in line for line in table) >= 2
    known = ("`--recipe affine-4bit`", "--context 64 --windows 3", report.protocol.machine, "mobile-bundle eval NAME")
    for words in (*known, "text.txt", "no such recipe \\| yet", "\\<b\\>theirs"):
        assert words in page
    theirs = next(line for line in table if line.startswith("| Q9"))
    assert "none so small" in theirs
    assert any("theirs" in line and line.endswith("| 0.1234 |") for line in table)


def test_a_report_from_before_points_had_a_kl_is_read(page, report, tmp_path):
    data = json.loads(page.with_suffix(".json").read_text())
    for point in data["others"]["points"]:
        del point["kl"]
    (tmp_path / "old.json").write_text(json.dumps(data))
    found = read_report(tmp_path / "old.json")
    assert [point.kl for point in found.others.points] == [None, None]
    assert found.bundles == report.bundles


def test_a_page_of_one_bundle_and_no_points(report):
    one = Report(report.tool_version, report.protocol, report.original, report.bundles[:1], None)
    assert "Size against quality" in report_page(one)


def test_what_is_not_known_is_not_made_up(report):
    """A tensor that could not be decoded, and a model whose logits were not finite."""
    bundle = report.bundles[0]
    tensor = next(tensor for tensor in bundle.tensors if tensor.name == "layers.0.mlp.up.weight")
    unknown = replace(tensor, squared_error=None, recorded_error=0.5)
    tensors = [unknown if each is tensor else each for each in bundle.tensors]
    page = report_page(replace(report, bundles=[replace(bundle, tensors=tensors, perplexity=None)]))
    assert unknown.error == 0.5
    assert not unknown.disagrees
    assert "1 tensor could not be decoded here; shown is what the manifest records: layers.0.mlp.up.weight" in page
    assert "not finite" in page
    assert "Size against quality" not in page  # nothing to draw


@pytest.mark.parametrize("entropy_coded", [False, True])
def test_matrices_with_a_shared_codebook_are_decoded(tmp_path, entropy_coded):
    layout = VectorLayout(length=4, index_bits=8, shared=True)
    random = np.random.default_rng(1)
    codebook = random.integers(-127, 128, (256, 4)).astype(np.int8)
    parts = VectorParts(
        layout, 20, 0.25, random.random(48).astype(np.float16), codebook, None,
        random.integers(0, 256, (48, 5)).astype(np.uint16), None, np.empty(0, np.uint32), np.empty((48, 0), np.int8),
    )  # fmt: skip
    books = Blob(BlobHeader(Format.INT8, layout.entries, layout.stride), stack_codebooks(layout, codebook).tobytes())
    matrix = compress(pack_vector(parts)).blob if entropy_coded else pack_vector(parts)
    assert (matrix.header.format is Format.ENTROPY) == entropy_coded
    blobs = {"layers.0.mlp.up.weight": matrix, "shared.v4.b8.r0.mlp.up.weight": books}
    planned = [PlannedTensor("layers.0", name, replace(blob.header, scale=1.0)) for name, blob in blobs.items()]
    with WeightsWriter(tmp_path / "weights.ptd", bytes(256), planned) as writer:
        for name, blob in blobs.items():
            place = writer.blob(name)
            place.write(blob.header.pack() + bytes(blob.payload))
            place.close()
        writer.finish()
    with WeightsReader(tmp_path / "weights.ptd") as weights:
        decoded = np.concatenate(list(decoded_chunks(weights, "layers.0.mlp.up.weight")))
    np.testing.assert_array_equal(decoded, parts.weights())


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=12))
def test_pareto_front(values):
    points = [Point(str(number), size, float(loss)) for number, (size, loss) in enumerate(values)]

    def beaten(p: Point) -> bool:
        return any(
            q.bytes <= p.bytes and q.perplexity <= p.perplexity and (q.bytes, q.perplexity) != (p.bytes, p.perplexity)
            for q in points
        )

    front = pareto_front(points)
    assert sorted(front) == [number for number, point in enumerate(points) if not beaten(point)]
    assert [points[index].bytes for index in front] == sorted(points[index].bytes for index in front)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(20, 380), st.integers(20, 280), st.booleans()), min_size=1, max_size=25))
def test_labels_do_not_cover_each_other(wanted):
    frame = Box(0, 0, 400, 300)
    wishes = [Wish(f"name {number}", x, y, must) for number, (x, y, must) in enumerate(wanted)]
    markers = [Box(wish.x - 5, wish.y - 5, wish.x + 5, wish.y + 5) for wish in wishes]
    places = place_labels(wishes, markers, [(0, 0, 400, 300)], frame, 6.0, 13.0)
    assert places[0] is not None
    shown = [(wish, place.box) for wish, place in zip(wishes, places, strict=True) if place is not None]
    assert all(box.inside(frame) for _, box in shown)
    for number, (wish, box) in enumerate(shown):
        if not wish.must:
            assert not any(box.overlaps(other) for other in markers)
            assert not any(box.overlaps(other) for _, other in shown[:number])
    assert all(place is not None for wish, place in zip(wishes, places, strict=True) if wish.must)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("embedding.weight", "embedding"),
        ("output.weight", "output"),
        ("layers.11.attention.output.weight", "attention"),
        ("layers.0.mlp.down.weight", "mlp"),
        ("shared.v4.b10.r0.mlp.down.weight", "mlp"),
        ("layers.0.attention.query.bias", "vectors"),
        ("layers.0.attention.query.norm.weight", "vectors"),
        ("layers.0.mlp.sub_norm.weight", "vectors"),
        ("norm.weight", "vectors"),
    ],
)
def test_part_of(name, part):
    assert part_of(name) == part
