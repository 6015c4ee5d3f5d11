"""What codecs' files declare is whole, and nothing outside of codecs/ asks for a particular codec or format."""

from __future__ import annotations

import ast

import pytest
from mobile_bundle.codecs import Format, StreamCodec, codec_by_name, codec_names
from mobile_bundle.codecs.blob import BlobHeader
from mobile_bundle.codecs.codec import codec_for
from mobile_bundle.codecs.declaration import FormatRules, Installed, all_rules, declare, rules_of
from mobile_bundle.codecs.entropy import EntropyCodec
from mobile_bundle.codecs.formats import FIRST_STORED_FORMAT, WITHDRAWN_FORMATS, BlobError
from mobile_bundle.codecs.installed import installed_header
from mobile_bundle.codecs.registry import GAUSSIAN_ERROR, RECIPE_EMBEDDINGS
from support.paths import ROOT

PACKAGE = ROOT / "toolchain/mobile_bundle"
# What is trained is a format's own grid: one file of healing/ says it for each kind of codec.
ALLOWED = PACKAGE / "healing/grids.py"
SOURCES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "codecs" and path != ALLOWED
)


def codec_classes() -> set[str]:
    found, waiting = set(), [StreamCodec]
    while waiting:
        for each in waiting.pop().__subclasses__():
            found.add(each.__name__)
            waiting.append(each)
    return found


def offences(source: str) -> list[str]:
    """Names of codec classes, members of Format, and numbers compared with a format, in a file's code."""
    classes = codec_classes()
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name | ast.alias):
            name = node.id if isinstance(node, ast.Name) else node.name
            if name in classes:
                found.append(name)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Format":
            found.append(f"Format.{node.attr}")
        if isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            if name in ("FIRST_STORED_FORMAT", "FLAG_SHARED_CODEBOOK", "VectorLayout"):
                found.append(name)
    return found


def test_nothing_outside_of_codecs_asks_for_a_particular_codec_or_format() -> None:
    assert len(SOURCES) > 100
    assert {str(path.relative_to(PACKAGE)): bad for path in SOURCES if (bad := offences(path.read_text("utf-8")))} == {}


@pytest.mark.parametrize(
    "code",
    [
        "if isinstance(codec, AffineCodec):\n    pass",
        "from mobile_bundle.codecs.vptq import VptqCodec",
        "if header.format is Format.VECTOR:\n    pass",
        "stored = header.format >= FIRST_STORED_FORMAT",
    ],
)
def test_such_a_question_is_found(code: str) -> None:
    assert offences(code)


def test_every_format_is_declared_and_has_a_codec_that_decodes_it() -> None:
    assert {rules.format for rules in all_rules()} == set(Format)
    assert [rules.format for rules in all_rules() if rules.decoder is None] == [Format.INT8]
    with pytest.raises(BlobError, match="no decoder in Python for format INT8"):
        codec_for(BlobHeader(Format.INT8, 16, 4))
    for name in codec_names():
        codec = codec_by_name(name)
        header = codec.planned_header(48, 40)
        again = codec_for(header)
        assert (again.format, again.group, again.flags) == (codec.format, codec.group, codec.flags)
        assert header.blob_bytes == codec.blob_bytes(48, 40)


def test_stored_forms_name_the_codec_whose_format_they_become() -> None:
    stored = [rules for rules in all_rules() if rules.stored]
    assert {rules.format for rules in stored} == {format for format in Format if format >= FIRST_STORED_FORMAT}
    for rules in stored:
        if rules.installed:
            packed = codec_by_name(rules.installed.codec)
            header = BlobHeader(rules.format, 32, 24, rules.groups[0], scale=0.5)
            into = installed_header(header)
            assert (into.format, into.group) == (packed.format, packed.group)
            assert into.scale == (0.5 if rules.installed.keeps_scale else 1.0)
            assert not rules_of(into.format).stored


def test_costs_are_of_the_formats_that_kernels_multiply_by() -> None:
    for rules in all_rules():
        assert (rules.decode_cost is not None) == (rules.matrix and not rules.stored), rules.format
        assert rules.decode_cost is None or rules.decode_cost > 0
        assert rules.operator == (rules.decode_cost is not None)
    assert rules_of(Format.AFFINE4).decode_cost == 1


def test_a_withdrawn_format_asks_for_a_new_build() -> None:
    assert not set(WITHDRAWN_FORMATS) & set(Format)
    for number in WITHDRAWN_FORMATS:
        with pytest.raises(BlobError, match="earlier version: build the bundle again"):
            rules_of(number)
    with pytest.raises(BlobError, match="made by a newer version"):
        rules_of(99)


def test_recipes_and_planned_codecs_have_codecs() -> None:
    for recipe, embedding in RECIPE_EMBEDDINGS.items():
        assert recipe in codec_names()
        assert codec_by_name(embedding).name == embedding
    for name in GAUSSIAN_ERROR:
        assert codec_by_name(name).name == name


def test_a_format_is_declared_once_and_a_stored_form_says_what_it_becomes() -> None:
    known = rules_of(Format.SIGN1)
    with pytest.raises(ValueError, match="SIGN1 is declared twice"):
        declare(known)

    def size(rows: int, columns: int, group: int, flags: int) -> int:
        return rows * columns

    for broken in (
        FormatRules(Format.BASE3, size, None),
        FormatRules(Format.INT8, size, None, installed=Installed(Format.TERNARY2, "bitnet")),
    ):
        with pytest.raises(ValueError, match=r"declared twice|says what it becomes"):
            declare(broken)


def test_the_entropy_stage_passes_on_what_the_codec_inside_says() -> None:
    shared = codec_by_name("vptq-v4-b8-shared")
    stage = EntropyCodec(shared)
    assert stage.packed is shared
    assert shared.packed is shared
    assert stage.shared_codebook is not None
    assert stage.shared_codebook.key == "v4.b8.r0"
    assert codec_by_name("vptq-v4-b8+entropy").shared_codebook is None
    kept = codec_by_name("kept-affine-4bit-g32-sym+entropy")
    assert kept.carries_codes
    assert codec_by_name(kept.name).name == kept.name
    assert not codec_by_name("affine-4bit").carries_codes
