"""Perplexity by the protocol of ../shared/README.md, against the figures that transformers gave there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.corpus.windows import token_windows
from mobile_bundle.errors import UserError
from mobile_bundle.evaluate.perplexity import negative_log_likelihood
from mobile_bundle.native.tokenizer import Tokenizer
from support.paths import EXAMPLE, VALIDATION_TEXT


def evaluate(model: Path, text: Path, context: int, windows: int, *options: str) -> dict:
    """`eval`; in one thread, because another process runs other tests, and the figures are the same in any number."""
    process = subprocess.run(
        [sys.executable, "-m", "mobile_bundle.cli.main", "eval", str(model), "--text", str(text), "--json",
         "--context", str(context), "--windows", str(windows), "--threads", "1", *options],
        capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "kv_type", "limit"),
    [("raw", "f16", 0.002), ("raw", "int8", 0.002), ("affine-8bit", "int8", 0.01)],
)
def test_wiki_6m(bundle, recipe, kv_type, limit):
    result = evaluate(bundle(recipe), VALIDATION_TEXT, 512, 64, "--kv", kv_type)
    assert result["windows"] == 64
    assert result["tokens"] == 64 * 511
    assert result["perplexity"] == pytest.approx(19.309, rel=limit)


@pytest.mark.slow
def test_base(shared):
    """The checkpoint directory itself, in three shards."""
    result = evaluate(shared / "models/base", shared / "text/val.txt", 1024, 24)
    assert result["perplexity"] == pytest.approx(25.978, rel=0.002)


@pytest.mark.slow
def test_packed_bitnet_checkpoint(bundle, shared):
    """Stored losslessly as 2-bit ternary with an 8-bit embedding: the default for a BitNet checkpoint."""
    directory = bundle(None, shared / "models/ternary")
    tensors = json.loads((directory / "manifest.json").read_text())["tensors"]
    assert {t["format"] for t in tensors if "layers" in t["name"] and t["rows"] > 1} == {"ternary2"}
    assert all(t["relative_error"] == 0 for t in tensors if t["format"] == "ternary2")
    result = evaluate(directory, shared / "text/val.txt", 1024, 24)
    assert result["perplexity"] == pytest.approx(29.904, rel=0.01)


def test_a_checkpoint_and_its_raw_bundle_agree(bundle, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The city lies on the river. " * 60 + "\n\x1e\n" + "He was born in 1920 in the north. " * 60)
    a, b = (evaluate(model, text, 64, 5) for model in (EXAMPLE, bundle("raw")))
    assert a == b
    assert a["windows"] == 5


def test_windows_follow_the_protocol(bundle):
    tokenizer = Tokenizer(bundle("raw") / "tokenizer.bin")
    text = "one two three\n\x1e\n \n\x1e\nfour five six seven eight nine ten"
    first, second = (tokenizer.encode(part) for part in ("one two three", "four five six seven eight nine ten"))
    whole = np.concatenate([[0], first, [0], second])
    windows = token_windows(tokenizer, 0, text, 4, 0)
    np.testing.assert_array_equal(windows.ravel(), whole[: len(whole) // 4 * 4])
    assert len(token_windows(tokenizer, 0, text, 4, 2)) == 2
    np.testing.assert_array_equal(token_windows(tokenizer, None, text, 4, 1)[0], np.concatenate([first, second])[:4])
    with pytest.raises(UserError, match="less than one window"):
        token_windows(tokenizer, 0, "short", 100, 1)


def test_negative_log_likelihood_is_cross_entropy():
    random = np.random.default_rng(0)
    logits = random.normal(0, 20, (7, 50)).astype(np.float32)
    targets = random.integers(0, 50, 7).astype(np.int32)
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    expected = -np.log(probabilities[np.arange(7), targets]).sum()
    assert negative_log_likelihood(logits, targets) == pytest.approx(expected, rel=1e-6)
