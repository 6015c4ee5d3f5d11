"""The calibration text that a model writes itself, and what calibration reads when nobody gives a text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mobile_bundle as mb
import numpy as np
import pytest
from mobile_bundle.corpus import own_text as module
from mobile_bundle.corpus.calibration import calibration_windows
from mobile_bundle.corpus.own_text import LANGUAGES, OwnText, known_languages, own_text
from mobile_bundle.corpus.text import DEFAULT_TEXT
from mobile_bundle.errors import InputError
from mobile_bundle.native.engine import Model
from mobile_bundle.native.tokenizer import Tokenizer
from mobile_bundle.pipeline.calibration_text import SHIPPED, CalibrationText, calibration_text
from mobile_bundle.pipeline.pool import PartPool
from mobile_bundle.pipeline.request import DEFAULT, SELF, BuildRequest, Listener
from mobile_bundle.pipeline.source import open_source
from support.builds import bundle as build_of
from support.checkpoints import write_tiny
from support.paths import EXAMPLE

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """An eighth of the text is enough here."""
    monkeypatch.setattr(module, "TOKENS", 1024)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(EXAMPLE, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
    return folder


@contextmanager
def opened(bundle: Path) -> Iterator[tuple[Model, Tokenizer]]:
    with Model(bundle / "weights.ptd") as model:
        tokenizer = Tokenizer(bundle / "tokenizer.bin")
        try:
            yield model, tokenizer
        finally:
            tokenizer.close()


def written(bundle: Path, context: int = 256) -> OwnText:
    with opened(bundle) as (model, tokenizer):
        return own_text(model, tokenizer, context, lambda done, total, what: None)


def asked(kind: str, model: Path, folder: Path) -> CalibrationText:
    with (
        open_source(BuildRequest(model, folder / "x.mbundle")) as source,
        PartPool(source.model, folder / "parts") as pool,
    ):
        return calibration_text(kind, source, pool, Listener())


def test_the_text_is_the_same_on_any_number_of_processors(bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    for processors in (1, 3):
        monkeypatch.setattr(module, "default_jobs", lambda count=processors: count)
        texts.append(written(bundle("affine-8bit")).windows)
    assert texts[0].shape == (4, 256)
    assert np.array_equal(*texts)


def test_documents_begin_with_bos_and_differ(bundle) -> None:
    text = written(bundle("affine-8bit"))
    assert not text.conversations
    with opened(bundle("affine-8bit")) as (model, tokenizer):
        ids = text.windows.reshape(-1)
        starts = np.flatnonzero(ids == model.bos)
        assert starts[0] == 0
        assert len(starts) >= 4
        beginnings = {ids[start : start + 12].tobytes() for start in starts[:-1]}
        assert len(beginnings) == len(starts) - 1
        assert " the " in tokenizer.decode(ids)


def test_a_language_is_known_by_what_its_sentence_costs(bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example was trained on English alone. Of two sentences that cost the same, both are known."""
    with opened(bundle("affine-8bit")) as (model, tokenizer):
        assert known_languages(model, tokenizer) == ["English"]
        monkeypatch.setitem(LANGUAGES, "Swahili", LANGUAGES["English"])
        assert known_languages(model, tokenizer) == ["English", "Swahili"]
    longer = LANGUAGES["English"] + " The river is in the city."
    monkeypatch.setitem(LANGUAGES, "Swahili", longer)
    text = written(bundle("affine-8bit"))
    with opened(bundle("affine-8bit")) as (_, tokenizer):
        assert list(text.languages) == ["English", "Swahili"]
        assert longer in tokenizer.decode(text.windows.reshape(-1))


def test_a_chat_model_writes_the_question_too(chat_model: Path, tmp_path: Path) -> None:
    build_of(chat_model, tmp_path / "chat.mbundle", "affine-8bit")
    text = written(tmp_path / "chat.mbundle")
    assert text.conversations
    with opened(tmp_path / "chat.mbundle") as (_, tokenizer):
        written_text = tokenizer.decode(text.windows.reshape(-1))
        assert written_text.startswith("<user>")
        assert written_text.count("<user>") >= 2
        after = tokenizer.encode("<user>")
        assert not np.array_equal(text.windows[0][len(after) : len(after) + 8], after[:8])


@pytest.mark.slow
def test_a_model_that_only_repeats_itself_is_refused(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = write_tiny(tmp_path / "model", "llama-untied-biases")
    weights = load_file(folder / "model.safetensors")
    for name, values in weights.items():
        if "embed_tokens" in name or name.endswith("norm.weight"):
            values.fill_(1.0)
        elif "o_proj" in name or "down_proj" in name or "lm_head" in name:
            values.zero_()
    weights["lm_head.weight"][7] = torch.ones(64)  # whatever is read, token 7 comes next
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    build_of(folder, tmp_path / "x.mbundle", "raw")
    with pytest.raises(InputError, match=r"the model repeats itself.*give a text"):
        written(tmp_path / "x.mbundle")


def test_what_is_read_without_a_text(chat_model: Path, tmp_path: Path) -> None:
    """A model without a chat template reads the text that ships; a chat model reads its own by turns with that."""
    plain = asked(DEFAULT, EXAMPLE, tmp_path)
    assert plain.name == SHIPPED
    own = asked(SELF, chat_model, tmp_path)
    assert own.name == "2 windows of conversations and documents that the model wrote itself (English)"
    both = asked(DEFAULT, chat_model, tmp_path)
    assert both.name == f"{own.name}, and of {SHIPPED}"
    assert both.windows.shape == plain.windows.shape == (48, 512)
    assert np.array_equal(both.windows[[0, 2]], own.windows)
    assert np.array_equal(both.windows[[1, 3]], plain.windows[:2])
    assert np.array_equal(both.windows[4:], plain.windows[2:46])


def test_a_text_is_read_as_before(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("The town lies on the bank of the river. " * 200)
    given = asked(str(path), EXAMPLE, tmp_path)
    with open_source(BuildRequest(EXAMPLE, tmp_path / "x.mbundle")) as source:
        assert np.array_equal(given.windows, calibration_windows(source.tokenizer, path, 512))
    assert given.name == "mine.txt"
    assert DEFAULT_TEXT.exists()


@pytest.mark.slow
def test_a_build_is_calibrated_on_its_own_text(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    bundle = mb.build(EXAMPLE, tmp_path / "own.mbundle", recipe="affine-3bit", calibration="self")
    assert any("calibrated on 2 windows of 512 tokens of 2 windows" in note for note in bundle.manifest.notes)
