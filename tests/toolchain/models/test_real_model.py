"""A real chat model out of its GGUF file: the bytes' own quality, tokens, and answers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from gguf import GGUFReader
from mobile_bundle.container import WeightsReader
from mobile_bundle.corpus.text import read_text
from mobile_bundle.corpus.windows import token_windows
from mobile_bundle.evaluate.perplexity import measure
from mobile_bundle.models import open_model
from mobile_bundle.native.engine import Model
from mobile_bundle.native.tokenizer import Tokenizer
from mobile_bundle.report.errors import decoded_chunks
from numpy.typing import NDArray
from support.builds import build
from support.gguf_files import dequantised, inverse
from support.paths import ROOT, VALIDATION_TEXT
from support.real_model import BYTES, QUESTIONS, real_gguf
from support.texts import random_texts
from tokenizers import AddedToken, decoders, models, pre_tokenizers

pytestmark = pytest.mark.slow

CHAT = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
NEAR_TIE = 0.5
"""Logits between the two best tokens: int8 activations change a logit by some 0.3."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The default build, and one of the dequantised weights in bfloat16."""
    directory = tmp_path_factory.mktemp("smollm2")
    for recipe, name in ((None, "keep"), ("raw", "raw")):
        build(real_gguf(), directory / name, recipe)
    return {name: directory / name for name in ("keep", "raw")}


def test_every_weight_is_the_files_own(bundles: dict[str, Path]) -> None:
    reader = GGUFReader(real_gguf())
    stored = {tensor.name: tensor for tensor in reader.tensors}
    checked = 0
    with open_model(real_gguf()) as model, WeightsReader(bundles["keep"] / "weights.ptd") as weights:
        for name, source in (
            ("embedding.weight", "token_embd.weight"),
            ("layers.0.attention.query.weight", "blk.0.attn_q.weight"),
            ("layers.29.attention.key.weight", "blk.29.attn_k.weight"),
            ("layers.7.attention.value.weight", "blk.7.attn_v.weight"),
            ("layers.12.mlp.down.weight", "blk.12.ffn_down.weight"),
            ("norm.weight", "output_norm.weight"),
        ):
            tensor = next(tensor for tensor in model.tensors if tensor.name == name)
            shape = (tensor.rows, tensor.columns)
            values = dequantised(stored[source].data, stored[source].tensor_type, shape)
            if "attn_q" in source or "attn_k" in source:
                values = inverse(values, 9 if "attn_q" in source else 3)
            chunks = decoded_chunks(weights, name)
            assert chunks is not None
            found = np.concatenate(list(chunks))
            assert np.array_equal(found.view(np.uint32), np.ascontiguousarray(values).view(np.uint32)), name
            checked += 1
    manifest = json.loads((bundles["keep"] / "manifest.json").read_text("utf-8"))
    assert checked == 6
    assert all(tensor["relative_error"] == 0 for tensor in manifest["tensors"])
    assert manifest["recipe"] == "keep"
    assert manifest["licence"] == "apache-2.0"
    assert manifest["chat_template"] is True
    assert (manifest["model"]["bos"], manifest["model"]["eos"]) == (1, [2])


def test_it_is_no_larger_than_the_file(bundles: dict[str, Path]) -> None:
    assert sum((bundles["keep"] / name).stat().st_size for name in ("weights.ptd", "tokenizer.bin")) <= BYTES


@pytest.fixture(scope="module")
def theirs() -> Any:
    """The tokenizer of the checkpoint: the tokenizers library, put together from the metadata by SmolLM's rule."""
    fields = GGUFReader(real_gguf()).fields
    texts, kinds, merges = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type", "merges"))
    vocabulary = {text: number for number, text in enumerate(texts)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(line.split(" ")) for line in merges]))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = [text for text, kind in zip(texts, kinds, strict=True) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    return tokenizer


def test_tokens(bundles: dict[str, Path], theirs: Any) -> None:
    texts = [*random_texts(11, 4000), CHAT + TURN.format("Hi"), *map(TURN.format, QUESTIONS)]
    texts += read_text(VALIDATION_TEXT).splitlines(keepends=True)
    ours = Tokenizer(bundles["keep"] / "tokenizer.bin")
    try:
        for text, encoding in zip(texts, theirs.encode_batch_fast(texts), strict=True):
            assert ours.encode(text, True).tolist() == encoding.ids, repr(text[:80])
    finally:
        ours.close()


@pytest.mark.slow
def test_perplexity(bundles: dict[str, Path]) -> None:
    """Within 0.5 % of the dequantised weights: the first four of the windows of real_model.md."""
    text = read_text(VALIDATION_TEXT)
    found = {}
    for name, bundle in bundles.items():
        tokenizer = Tokenizer(bundle / "tokenizer.bin")
        windows = token_windows(tokenizer, 1, text, 1024, 4)
        tokenizer.close()
        with Model(bundle / "weights.ptd") as model:
            found[name] = measure(model, windows, "int8", threads=1).perplexity
    assert found["raw"] == pytest.approx(22.95, rel=0.003)
    assert found["keep"] < 1.005 * found["raw"]


@pytest.mark.slow
def test_answers(bundles: dict[str, Path], theirs: Any) -> None:
    """Greedy answers are those of the dequantised model in float32, as transformers computes it. What is left, int8
    activations, may only decide where two tokens are nearly as good."""
    torch = pytest.importorskip("torch")
    prompts = [theirs.encode(CHAT + TURN.format(question)).ids for question in QUESTIONS]
    answers = {name: [_greedy(bundle, prompt) for prompt in prompts] for name, bundle in bundles.items()}
    model = _transformers_model()
    for place, prompt in enumerate(prompts):
        for name, kept in answers.items():
            whole = torch.tensor([prompt + kept[place]])
            with torch.no_grad():
                logits = model(whole).logits[0, len(prompt) - 1 : -1].numpy()
            chosen = logits[np.arange(len(logits)), kept[place]]
            gaps = logits.max(axis=1) - chosen  # 0 where it is the best token
            first = int(np.argmax(gaps > 0)) if (gaps > 0).any() else -1
            if name == "raw":
                assert first < 0, (QUESTIONS[place], first, gaps[first])
            elif first >= 0:
                assert gaps[first] < NEAR_TIE, (QUESTIONS[place], first, gaps[first])
    decoded = theirs.decode(answers["keep"][0], skip_special_tokens=True)
    assert decoded == "The capital of Kenya is Nairobi."


def _greedy(bundle: Path, prompt: list[int]) -> list[int]:
    """Up to 64 tokens. The bfloat16 weights with a KV cache in half precision: then nothing is rounded to int8."""
    kv_type = "f16" if bundle.name == "raw" else "int8"
    with Model(bundle / "weights.ptd") as model, model.session(context=512, kv_type=kv_type) as session:
        token = int(session.feed(prompt).argmax())
        found = [token]
        while token != 2 and len(found) < 64:
            token = int(session.feed([token]).argmax())
            found.append(token)
    return found


def _transformers_model() -> Any:
    """The GGUF's weights in transformers' LlamaForCausalLM, float32."""
    import torch
    import transformers

    with open_model(real_gguf()) as opened:
        config = transformers.LlamaConfig(
            **{key: value for key, value in opened.checkpoint.config.items() if key != "architectures"}
        )
        model = transformers.LlamaForCausalLM(config).float().eval()
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for tensor in opened.tensors:
                if tensor.source:
                    values: NDArray[np.float32] = np.concatenate(list(opened.source(tensor).chunks(4096)))
                    parameters[tensor.source].copy_(torch.from_numpy(values).reshape(parameters[tensor.source].shape))
    return model


def test_the_demo_answers(tmp_path: Path) -> None:
    """`make demo-chat` asks by this script, which fails unless the answer names Nairobi."""
    build(real_gguf(), tmp_path / "demo.mbundle", formats=("native",))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = [ROOT / "scripts/demo_chat.sh", tmp_path / "demo.mbundle"]
    process = subprocess.run(script, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert re.search(r"The capital of Kenya is Nairobi\.\n\d+ prompt tokens", process.stdout)  # answer, then figures
    assert process.stdout.count("tokens/s") == 6
    assert process.stdout.count("peak memory") == 3
