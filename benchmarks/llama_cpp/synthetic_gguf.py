"""Writes a GGUF file of Qwen2.5-1.5B's shape with random weights: body TQ2_0 (ternary), tied embedding and head Q4_0.

    python synthetic_gguf.py OUT.gguf            (needs the packages gguf and numpy)

Speed depends on the shape and the types only, so random weights serve; quality is not what this file is for.
"""

import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

VOCABULARY, HIDDEN, FEED_FORWARD, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 151936, 1536, 8960, 28, 12, 2, 128
SCALE = np.array([0.01], np.float16).view(np.uint8)


def random_blocks(random: np.random.Generator, rows: int, columns: int, kind: Type) -> np.ndarray:
    """Bytes (rows, bytes per row) of valid blocks: any codes, a scale of 0.01."""
    values, size = gguf.GGML_QUANT_SIZES[kind]
    data = random.integers(0, 256, (rows, columns // values, size), dtype=np.uint8)
    if kind == Type.TQ2_0:
        data &= 0xAA  # codes 0 and 2: no code 3, which ternary does not have
        data[:, :, -2:] = SCALE
    else:
        data[:, :, :2] = SCALE
    return data.reshape(rows, -1)


def main() -> None:
    writer = gguf.GGUFWriter(sys.argv[1], "qwen2")
    writer.add_context_length(32768)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_TQ2_0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(code) for code in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    tokens = letters + [f"t{i}" for i in range(VOCABULARY - len(letters))]
    writer.add_token_list(tokens)
    writer.add_token_types([1] * VOCABULARY)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(1000)
    writer.add_bos_token_id(1001)

    random = np.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int, kind: Type = Type.TQ2_0) -> None:
        writer.add_tensor(name, random_blocks(random, rows, columns, kind), raw_dtype=kind)

    matrix("token_embd.weight", VOCABULARY, HIDDEN, Type.Q4_0)
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    for layer in range(LAYERS):
        prefix = f"blk.{layer}."
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{prefix}{norm}.weight", np.ones(HIDDEN, np.float32))
        for name, rows in (("q", HEADS * HEAD_DIM), ("k", KV_HEADS * HEAD_DIM), ("v", KV_HEADS * HEAD_DIM)):
            matrix(f"{prefix}attn_{name}.weight", rows, HIDDEN)
            writer.add_tensor(f"{prefix}attn_{name}.bias", np.zeros(rows, np.float32))
        matrix(f"{prefix}attn_output.weight", HIDDEN, HEADS * HEAD_DIM)
        matrix(f"{prefix}ffn_gate.weight", FEED_FORWARD, HIDDEN)
        matrix(f"{prefix}ffn_up.weight", FEED_FORWARD, HIDDEN)
        matrix(f"{prefix}ffn_down.weight", HIDDEN, FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
