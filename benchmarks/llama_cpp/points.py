"""llama.cpp's perplexity of GGUF files on the windows that `mobile-bundle eval` cuts, as `report --points` reads it.

    pip install llama-cpp-py-sync
    python points.py path/to/model --text val.txt --context 1024 --windows 16 -o points.json Q4_0.gguf Q3_K_M.gguf ...

The package brings llama.cpp's library (for glibc 2.38 or later: Debian 13, Ubuntu 24.04) and its C declarations;
LLAMA_CPP_LIB=.../libllama.so takes another build with the same interface. path/to/model: the checkpoint or GGUF file
whose tokenizer cuts the text. --against F16.gguf adds the mean KL divergence from that file and how often the best
token is the same.

The windows are not llama-perplexity's: it tokenises the text in one piece, puts BOS into each window, and scores the
second half only. Here every token but the first of a window is scored, after an empty KV cache (f16), which is
docs/RESULTS.md's protocol. Runs on the processor.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp_py_sync import __version__ as llama_version
from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib
from mobile_bundle.corpus.text import read_text
from mobile_bundle.corpus.windows import token_windows
from mobile_bundle.files.disk import write_file
from mobile_bundle.files.work_folder import scratch_folder
from mobile_bundle.models import open_model
from mobile_bundle.native.tokenizer import Tokenizer
from mobile_bundle.tokenizer import compile_tokenizer
from numpy.typing import NDArray

BATCH = 256
"""Tokens computed together."""

ffi, llama = get_ffi(), get_lib()


@ffi.callback("void(enum ggml_log_level, const char *, void *)")  # type: ignore[untyped-decorator]
def log(level: int, text: Any, data: Any) -> None:
    """llama.cpp's errors alone."""
    if level == llama.GGML_LOG_LEVEL_ERROR:
        sys.stderr.write(ffi.string(text).decode("utf-8", "replace"))


class File:
    """An open GGUF file with room for one window."""

    def __init__(self, path: Path, context: int, threads: int) -> None:
        self.path = path
        options = llama.llama_model_default_params()
        options.n_gpu_layers = 0
        self._model = llama.llama_model_load_from_file(os.fsencode(path), options)
        if self._model == ffi.NULL:
            sys.exit(f"points.py: llama.cpp cannot load {path}")
        self.vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model))
        room = llama.llama_context_default_params()
        room.n_ctx, room.n_batch, room.n_ubatch, room.n_seq_max = context, BATCH, BATCH, 1
        room.n_threads = room.n_threads_batch = threads
        self._context = llama.llama_init_from_model(self._model, room)
        if self._context == ffi.NULL:
            sys.exit(f"points.py: llama.cpp cannot make a context of {context} tokens for {path}")
        self._batch = llama.llama_batch_init(BATCH, 0, 1)

    def close(self) -> None:
        llama.llama_batch_free(self._batch)
        llama.llama_free(self._context)
        llama.llama_model_free(self._model)

    def forget(self) -> None:
        """Empties the KV cache."""
        llama.llama_memory_clear(llama.llama_get_memory(self._context), True)

    def read(self, tokens: NDArray[np.int32], position: int) -> NDArray[np.float64]:
        """Logarithms of the next token's probabilities, (tokens, vocabulary), after each of at most BATCH tokens."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for at, token in enumerate(tokens):
            batch.token[at], batch.pos[at], batch.logits[at] = int(token), position + at, 1
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, 0
        if status := llama.llama_decode(self._context, batch):
            sys.exit(f"points.py: llama_decode failed on {self.path} with status {status}")
        size = len(tokens) * self.vocabulary
        raw = np.frombuffer(ffi.buffer(llama.llama_get_logits(self._context), 4 * size), np.float32)
        logits = raw.reshape(len(tokens), self.vocabulary).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return logits


@contextmanager
def opened(path: Path, context: int, threads: int) -> Iterator[File]:
    file = File(path, context, threads)
    try:
        yield file
    finally:
        file.close()


def measure(file: File, against: File | None, windows: NDArray[np.int32]) -> dict[str, Any]:
    """The file's entry in the list of points."""
    losses: list[NDArray[np.float64]] = []
    divergences: list[NDArray[np.float64]] = []
    same: list[NDArray[np.bool_]] = []
    context = windows.shape[1]
    for number, window in enumerate(windows):
        for open_file in filter(None, (file, against)):
            open_file.forget()
        for begin in range(0, context - 1, BATCH):
            end = min(begin + BATCH, context - 1)
            q = file.read(window[begin:end], begin)
            losses.append(-q[np.arange(end - begin), window[begin + 1 : end + 1]])
            if against is not None:
                p = against.read(window[begin:end], begin)
                divergences.append((np.exp(p) * (p - q)).sum(axis=1))
                same.append(p.argmax(axis=1) == q.argmax(axis=1))
        print(f"{file.path.name}: window {number + 1} of {len(windows)}", file=sys.stderr)
    point: dict[str, Any] = {
        "name": file.path.stem,
        "bytes": file.path.stat().st_size,
        "perplexity": round(math.exp(np.concatenate(losses).mean()), 4),
    }
    if against is not None:
        kl = np.concatenate(divergences)
        point |= {"kl": round(float(kl.mean()), 5), "kl_99": round(float(np.quantile(kl, 0.99)), 4)}
        point["agreement"] = round(float(np.concatenate(same).mean()), 4)
    return point


def cut(model: Path, text: str, context: int, count: int) -> NDArray[np.int32]:
    """The windows of `mobile-bundle eval`, int32 (windows, context)."""
    with open_model(model) as checkpoint, scratch_folder() as folder:
        compiled = compile_tokenizer(model, checkpoint.checkpoint.config)
        write_file(folder / "tokenizer.bin", bytes(compiled.data))
        tokenizer = Tokenizer(folder / "tokenizer.bin")
        try:
            return token_windows(tokenizer, compiled.bos, text, context, count)
        finally:
            tokenizer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("gguf", type=Path, nargs="+")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--windows", type=int, default=0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--against", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    windows = cut(options.model, read_text(options.text), options.context, options.windows)
    llama.llama_log_set(log, ffi.NULL)
    llama.llama_backend_init()
    points = []
    with ExitStack() as stack:
        against = None
        if options.against:
            against = stack.enter_context(opened(options.against, options.context, options.threads))
        for path in options.gguf:
            with opened(path, options.context, options.threads) as file:
                if windows.max() >= file.vocabulary:
                    sys.exit(f"points.py: {path} has {file.vocabulary} tokens, fewer than the text needs")
                points.append(measure(file, against, windows))
                print(json.dumps(points[-1]))
    count, context = windows.shape
    result = {
        "origin": f"llama.cpp (llama-cpp-py-sync {llama_version})",
        "note": f"perplexity on the processor, {count} windows of {context} tokens of {options.text.name} "
        "(KV cache in f16); bytes of the file",
        "text": options.text.name,
        "context": context,
        "windows": count,
        "points": points,
    }
    options.output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")


main()
