"""The peer: ExecuTorch's own export of the same checkpoint (export_llm, XNNPACK, 8da4w), in its Python runtime.

    python executorch_peer.py export MODEL_DIR OUT.pte [--context 1024] [--group-size 128]
    python executorch_peer.py bench OUT.pte [-p 512] [-n 128] [-r 3] [-t 2]

export_llm takes Meta's names for weights, so they are renamed first; Llama and Qwen2 checkpoints. Its attention
operator (llama::sdpa_with_kv_cache) is only in the Python package, not in the C++ libraries of the wheel, so this
peer runs in Python: `bench` prints what the process takes, and its floor, which is what it takes with all imports
done and no program. The export takes minutes for 60 million parameters.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAMES = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "model.layers": "layers",
    "lm_head": "output",
}


def export(model: Path, out: Path, context: int, group_size: int) -> None:
    import torch
    from safetensors.torch import load_file

    config = json.loads((model / "config.json").read_text())
    weights = {}
    for shard in sorted(model.glob("*.safetensors")):
        for name, tensor in load_file(shard).items():
            for theirs, metas in NAMES.items():
                name = name.replace(theirs, metas)
            weights[name] = tensor
    weights.setdefault("output.weight", weights["tok_embeddings.weight"])
    heads = config["num_attention_heads"]
    rope = config.get("rope_parameters") or config
    parameters = {
        "dim": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "n_heads": heads,
        "n_kv_heads": config.get("num_key_value_heads", heads),
        "head_dim": config.get("head_dim") or config["hidden_size"] // heads,
        "vocab_size": config["vocab_size"],
        "hidden_dim": config["intermediate_size"],
        "norm_eps": config["rms_norm_eps"],
        "rope_theta": rope["rope_theta"],
        "use_hf_rope": True,
        "use_scaled_rope": False,
        "attention_qkv_bias": config["model_type"] == "qwen2",
    }
    with tempfile.TemporaryDirectory() as directory:
        torch.save(weights, Path(directory, "weights.pth"))
        del weights
        Path(directory, "parameters.json").write_text(json.dumps(parameters))
        subprocess.run(
            [sys.executable, "-m", "executorch.extension.llm.export.export_llm",
             f"base.checkpoint={directory}/weights.pth", f"base.params={directory}/parameters.json",
             "model.use_kv_cache=true", "model.use_sdpa_with_kv_cache=true", "model.dtype_override=fp32",
             "quantization.qmode=8da4w", f"quantization.group_size={group_size}",
             "quantization.embedding_quantize='4,32'", f"export.max_seq_length={context}",
             f"export.max_context_length={context}", f"export.output_name={out.resolve()}",
             "backend.xnnpack.enabled=true", "backend.xnnpack.extended_ops=true"],
            check=True, cwd=directory,
        )  # fmt: skip


def memory() -> dict[str, int]:
    """Bytes of this process: VmHWM, RssAnon + VmSwap, RssFile."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    bytes_of = {key: int(fields[key].split()[0]) * 1024 for key in ("VmHWM", "RssAnon", "VmSwap", "RssFile")}
    return {
        "peak_rss_bytes": bytes_of["VmHWM"],
        "peak_anon_bytes": bytes_of["RssAnon"] + bytes_of["VmSwap"],
        "file_bytes": bytes_of["RssFile"],
    }


def load_runtime(threads: int):
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401
    from executorch.extension.pybindings import portable_lib
    from executorch.kernels import quantized  # noqa: F401

    portable_lib._unsafe_reset_threadpool(threads)
    return portable_lib


def bench(program: Path, prompt: int, new: int, repetitions: int, threads: int) -> None:
    import torch

    runtime = load_runtime(threads)
    before = memory()
    begin = time.monotonic()
    module = runtime._load_for_executorch(str(program))
    vocabulary = module.run_method("get_vocab_size")[0]
    module.forward((torch.tensor([[1]]), torch.tensor([0])))
    load = time.monotonic() - begin
    tokens = torch.randint(vocabulary, (1, max(prompt, new)), generator=torch.Generator().manual_seed(1))
    results = []
    for test, count in (("pp", prompt), ("tg", new)):
        if count == 0:
            continue
        rates = []
        for repetition in range(repetitions + 1):
            begin = time.monotonic()
            if test == "pp":
                module.forward((tokens[:, :count].contiguous(), torch.tensor([0])))
            else:
                for i in range(count):
                    module.forward((tokens[:, i : i + 1].contiguous(), torch.tensor([i])))
            if repetition:  # the first warms up
                rates.append(count / (time.monotonic() - begin))
        results.append(
            {"test": f"{test}{count}", "threads": threads,
             "tokens_per_second": {"mean": statistics.mean(rates), "all": rates},
             "load_seconds": load, "floor": before, "memory": memory()}
        )  # fmt: skip
    print(json.dumps(results, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    exporting = commands.add_parser("export")
    exporting.add_argument("model", type=Path)
    exporting.add_argument("out", type=Path)
    exporting.add_argument("--context", type=int, default=1024)
    exporting.add_argument("--group-size", type=int, default=128)
    benching = commands.add_parser("bench")
    benching.add_argument("program", type=Path)
    benching.add_argument("-p", type=int, default=512)
    benching.add_argument("-n", type=int, default=128)
    benching.add_argument("-r", type=int, default=3)
    benching.add_argument("-t", type=int, default=2)
    options = parser.parse_args()
    if options.command == "export":
        export(options.model, options.out, options.context, options.group_size)
    else:
        bench(options.program, options.p, options.n, options.r, options.t)


main()
