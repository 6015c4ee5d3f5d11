"""How long a planned build takes, and how much memory of a GPU: a model of a published shape with random weights.

    python benchmarks/planned_build.py WORK [--device cuda] [--layers 28] [--max-size 480MB] [--calibration FILE]
        [--profile FILE]

The shape is Qwen2.5-1.5B's, the tokenizer that of examples/models/wiki-6m, whose tokens are the first of the
vocabulary. Time and memory depend on shapes alone, but for the codes that the plan has; quality is not what this is
for. The checkpoint is kept in WORK for the next run. The tokenizer has no chat template, so the calibration text is the
one that ships: a chat model writes a part of it itself, on the processor, which this does not time. Printed: seconds
of every stage by the clock and of processor time (of this process) as it ends, every 15 s how far it is and in which
functions the threads were, the plan, and the peaks of memory. A run that is stopped has told where its time went."""

from __future__ import annotations

import argparse
import json
import logging
import re
import resource
import shutil
import sys
import threading
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import FrameType

import mobile_bundle as mb
import torch
from mobile_bundle.pipeline.request import Step
from safetensors.torch import save_file
from torch import profiler

EXAMPLE = Path(__file__).parents[1] / "examples/models/wiki-6m"
HIDDEN, INNER, HEADS, KV_HEADS, VOCABULARY = 1536, 8960, 12, 2, 151936
_SAMPLE_SECONDS = 0.1
_TELL_SECONDS = 15


def write_checkpoint(path: Path, layers: int, device: str) -> None:
    """A Llama of that shape in bfloat16, a file per layer."""
    path.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(EXAMPLE / name, path)
    config = json.loads((EXAMPLE / "config.json").read_text())
    config |= {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": INNER}
    config |= {"num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS}
    config |= {"max_position_embeddings": 32768, "rope_theta": 1e6}
    torch.manual_seed(0)
    files: dict[str, str] = {}

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return (0.02 * torch.randn(rows, columns, device=device)).bfloat16().cpu()

    def save(name: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, path / name)
        files.update(dict.fromkeys(tensors, name))

    ones = torch.ones(HIDDEN, dtype=torch.bfloat16)
    save("outside.safetensors", {"model.embed_tokens.weight": matrix(VOCABULARY, HIDDEN), "model.norm.weight": ones})
    key = HIDDEN // HEADS * KV_HEADS
    for layer in range(layers):
        shapes = {"q": (HIDDEN, HIDDEN), "k": (key, HIDDEN), "v": (key, HIDDEN), "o": (HIDDEN, HIDDEN)}
        tensors = {f"self_attn.{name}_proj.weight": matrix(*shape) for name, shape in shapes.items()}
        shapes = {"gate": (INNER, HIDDEN), "up": (INNER, HIDDEN), "down": (HIDDEN, INNER)}
        tensors |= {f"mlp.{name}_proj.weight": matrix(*shape) for name, shape in shapes.items()}
        tensors |= {f"{name}_layernorm.weight": ones.clone() for name in ("input", "post_attention")}
        save(f"layer-{layer}.safetensors", {f"model.layers.{layer}.{name}": each for name, each in tensors.items()})
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    (path / "config.json").write_text(json.dumps(config))


class Stages:
    """Takes a build's steps. Prints how long each stage took as it ends, and every few seconds how far it is, and in
    which functions the threads are: so a run that is stopped says where its time went."""

    def __init__(self) -> None:
        self._stage, self._step, self._begin = "opening", "", self._now()
        self._first, self._told = self._begin, self._begin[0]
        self._main, self._seen = threading.get_ident(), (Counter[str](), Counter[str]())
        self._counting = threading.Lock()
        threading.Thread(target=self._watch, daemon=True).start()

    def __call__(self, step: Step) -> None:
        part = re.sub(r"\d+", "N", step.tensor) if step.stage == "calibrating" else ""
        stage = f"{step.stage} {part}".strip()
        self._step = f"{step.done} of {step.total}, {step.tensor}"
        if stage != self._stage:
            self.end(stage)

    def end(self, following: str = "") -> None:
        """Of the stage under way. Its last step is counted to the one that follows: a step is told when it is done."""
        self._print(self._stage, self._begin)
        self._tell_functions()
        self._stage, self._begin = following, self._now()

    def whole(self) -> None:
        self._print("all", self._first)

    def _watch(self) -> None:
        while True:
            time.sleep(_SAMPLE_SECONDS)
            for thread, frame in sys._current_frames().items():
                if place := _place(frame):
                    with self._counting:
                        self._seen[thread != self._main][place] += 1
            if time.perf_counter() - self._told > _TELL_SECONDS:
                self._told = time.perf_counter()
                self._print(f"... {self._stage} ({self._step})", self._begin)
                self._tell_functions()

    def _tell_functions(self) -> None:
        for who, seen in zip(("main thread", "other threads"), self._seen, strict=True):
            with self._counting:
                most = ", ".join(f"{name} {_SAMPLE_SECONDS * count:.1f}" for name, count in seen.most_common(6))
                seen.clear()
            if most:
                print(f"        {who}, s: {most}", flush=True)

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def _print(self, stage: str, begin: tuple[float, float]) -> None:
        wall, processor = (now - then for now, then in zip(self._now(), begin, strict=True))
        at = time.perf_counter() - self._first[0]
        print(f"{at:7.1f} {stage:48} {wall:8.1f} s, {processor:8.1f} s of processor time", flush=True)


def _place(frame: FrameType | None) -> str:
    """The innermost function of mobile_bundle that a thread is in, and its line; "": in none, as a thread that waits
    for work."""
    while frame is not None:
        if "mobile_bundle" in frame.f_code.co_filename:
            return f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def main() -> None:
    """Builds once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--max-size", default="480MB")
    parser.add_argument("--calibration", default=True, help="a text; default: the one that ships")
    parser.add_argument("--profile", type=Path, help="a file for a table of torch's operations (for few layers)")
    options = parser.parse_args()
    model = options.work / f"random-{options.layers}"
    if not (model / "config.json").exists():
        begin = time.perf_counter()
        shutil.rmtree(model, ignore_errors=True)
        write_checkpoint(model, options.layers, options.device)
        print(f"{'writing the checkpoint':40} {time.perf_counter() - begin:8.1f} s", flush=True)
    if options.device == "cuda":
        torch.zeros(1, device=options.device)  # the GPU's start counts to nothing
    logging.basicConfig(format="%(relativeCreated)8.0f ms %(message)s")
    logging.getLogger("mobile_bundle").setLevel(logging.INFO)
    stages = Stages()
    activities = [profiler.ProfilerActivity.CPU, profiler.ProfilerActivity.CUDA]
    with profiler.profile(activities=activities) if options.profile else nullcontext() as profiled:
        mb.build(
            model,
            options.work / "planned.mbundle",
            max_size=options.max_size,
            calibration=options.calibration,
            device=options.device,
            progress=stages,
        )
    stages.end()
    stages.whole()
    if profiled:
        order = "self_device_time_total" if options.device == "cuda" else "self_cpu_time_total"
        options.profile.write_text(profiled.key_averages().table(sort_by=order, row_limit=60))
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")
    if options.device == "cuda":
        kinds = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        print(
            "peak memory of the GPU: {:.1f} GB of tensors, {:.1f} GB reserved".format(*(each / 1e9 for each in kinds))
        )


if __name__ == "__main__":
    main()
