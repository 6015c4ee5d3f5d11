"""Writes a GGUF file of a published shape with random weights.

    python synthetic_gguf.py OUT.gguf [--type TQ2_0]                        (needs the packages gguf and numpy)
    python synthetic_gguf.py OUT.gguf --gemma path/to/gemma-3/tokenizer.json

Qwen2.5-1.5B: body TQ2_0 (ternary) or another type, tied embedding and head Q4_0, tokens made up. In these types any
codes are valid, so none needs llama-quantize or an importance matrix. Gemma-3-1B: all matrices Q4_0, so that
`build-mobile-bundle OUT.gguf` keeps every code and the bundle's weights have the file's bytes; with the published
tokenizer, of which a made-up one would not have the size. Speed depends on the shape and the types only, so random
weights serve; quality is not what these files are for.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

SCALE = np.array([0.01], np.float16).view(np.uint8)
BODIES = ("TQ2_0", "IQ2_XXS", "IQ1_S", "Q2_K", "Q4_0")


def random_blocks(random: np.random.Generator, rows: int, columns: int, kind: Type) -> np.ndarray:
    """Bytes (rows, bytes per row) of valid blocks: any codes, a scale of 0.01."""
    values, size = gguf.GGML_QUANT_SIZES[kind]
    data = random.integers(0, 256, (rows, columns // values, size), dtype=np.uint8)
    if kind == Type.TQ2_0:
        data &= 0xAA  # codes 0 and 2: no code 3, which ternary does not have
        data[:, :, -2:] = SCALE
    elif kind == Type.Q2_K:
        data[:, :, -4:] = np.tile(SCALE, 2)  # of the codes and of their least value
    else:
        data[:, :, :2] = SCALE
    return data.reshape(rows, -1)


class Shape:
    """A file being written: shape and metadata of the decoder, then its tensors."""

    def __init__(self, path: Path, architecture: str, **sizes: int) -> None:
        self.writer = gguf.GGUFWriter(path, architecture)
        self.sizes, self.random = sizes, np.random.default_rng(0)
        self.writer.add_context_length(32768)
        self.writer.add_embedding_length(sizes["hidden"])
        self.writer.add_block_count(sizes["layers"])
        self.writer.add_feed_forward_length(sizes["feed_forward"])
        self.writer.add_head_count(sizes["heads"])
        self.writer.add_head_count_kv(sizes["kv_heads"])
        self.writer.add_rope_freq_base(1e6)
        self.writer.add_layer_norm_rms_eps(1e-6)

    def vector(self, name: str, size: int, value: float) -> None:
        self.writer.add_tensor(name, np.full(size, value, np.float32))

    def matrix(self, name: str, rows: int, columns: int, kind: Type) -> None:
        self.writer.add_tensor(name, random_blocks(self.random, rows, columns, kind), raw_dtype=kind)

    def finish(
        self, kind: Type, norms: tuple[str, ...], head_norms: tuple[str, ...] = (), biases: bool = False
    ) -> None:
        """kind: of the body's matrices."""
        hidden, feed_forward, head_dim = (self.sizes[key] for key in ("hidden", "feed_forward", "head_dim"))
        heads = {"q": self.sizes["heads"], "k": self.sizes["kv_heads"], "v": self.sizes["kv_heads"]}
        self.matrix("token_embd.weight", self.sizes["vocabulary"], hidden, Type.Q4_0)
        self.vector("output_norm.weight", hidden, 1)
        for layer in range(self.sizes["layers"]):
            prefix = f"blk.{layer}."
            for norm in norms:
                self.vector(f"{prefix}{norm}.weight", hidden, 1)
            for norm in head_norms:
                self.vector(f"{prefix}{norm}.weight", head_dim, 1)
            for name, count in heads.items():
                self.matrix(f"{prefix}attn_{name}.weight", count * head_dim, hidden, kind)
                if biases:
                    self.vector(f"{prefix}attn_{name}.bias", count * head_dim, 0)
            self.matrix(f"{prefix}attn_output.weight", hidden, heads["q"] * head_dim, kind)
            self.matrix(f"{prefix}ffn_gate.weight", feed_forward, hidden, kind)
            self.matrix(f"{prefix}ffn_up.weight", feed_forward, hidden, kind)
            self.matrix(f"{prefix}ffn_down.weight", hidden, feed_forward, kind)
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()


def write_qwen(path: Path, body: str) -> None:
    vocabulary = 151936
    shape = Shape(path, "qwen2", vocabulary=vocabulary, hidden=1536, feed_forward=8960, layers=28, heads=12, kv_heads=2,
                  head_dim=128)  # fmt: skip
    writer = shape.writer
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{body}"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(code) for code in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    tokens = letters + [f"t{i}" for i in range(vocabulary - len(letters))]
    writer.add_token_list(tokens)
    writer.add_token_types([1] * vocabulary)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(1000)
    writer.add_bos_token_id(1001)
    shape.finish(Type[body], ("attn_norm", "ffn_norm"), biases=True)


def write_gemma(path: Path, tokenizer: Path) -> None:
    vocabulary = 262144
    shape = Shape(path, "gemma3", vocabulary=vocabulary, hidden=1152, feed_forward=6912, layers=26, heads=4, kv_heads=1,
                  head_dim=256)  # fmt: skip
    writer = shape.writer
    writer.add_key_length(256)
    writer.add_value_length(256)
    writer.add_sliding_window(512)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    add_sentencepiece(writer, json.loads(tokenizer.read_text("utf-8")), vocabulary)
    norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
    shape.finish(Type.Q4_0, norms, ("attn_q_norm", "attn_k_norm"))


def add_sentencepiece(writer: gguf.GGUFWriter, description: dict, vocabulary: int) -> None:
    """The tokens of a tokenizer.json as llama.cpp's converter has them; in Gemma's model scores fall with the ids."""
    added = {token["id"]: token for token in description["added_tokens"] if token["id"] < vocabulary}
    texts = {number: text for text, number in description["model"]["vocab"].items() if number < vocabulary}
    texts |= {number: token["content"] for number, token in added.items()}
    kinds, scores = [], []
    for number in range(vocabulary):
        text = texts.setdefault(number, f"[PAD{number}]")
        if number in added:
            special = gguf.TokenType.UNKNOWN if text == "<unk>" else gguf.TokenType.CONTROL
            kinds.append(special if added[number]["special"] else gguf.TokenType.USER_DEFINED)
        elif text.startswith("<0x"):
            kinds.append(gguf.TokenType.BYTE)
        else:
            kinds.append(gguf.TokenType.UNUSED if text.startswith("[PAD") else gguf.TokenType.NORMAL)
        scores.append(-float(number) if kinds[-1] == gguf.TokenType.NORMAL else 0.0)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([texts[number] for number in range(vocabulary)])
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_add_space_prefix(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", choices=BODIES, default="TQ2_0", help="of the body of Qwen2.5-1.5B (default TQ2_0)")
    parser.add_argument("--gemma", type=Path, metavar="TOKENIZER_JSON", help="Gemma-3-1B's shape, with this tokenizer")
    options = parser.parse_args()
    if options.gemma:
        write_gemma(options.out, options.gemma)
    else:
        write_qwen(options.out, options.type)


main()
