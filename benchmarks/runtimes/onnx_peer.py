"""The peer: the same decoder with ONNX Runtime's own MatMulNBits, and GatherBlockQuantized for the embedding.

    python onnx_peer.py RAW.mbundle OUT --bits 4 --block-size 32

RAW.mbundle: the model built with `--recipe raw`. OUT becomes a directory that mobile-run-onnx runs like a bundle: the
graph of float_decoder.py with every CompressedMatMul replaced by MatMulNBits nodes (symmetric, rounded
to nearest, accuracy_level 4: int8 activations) and the embedding at 4 bits. Output head included; its weights are
the embedding's where the model is tied, at `--bits` too.
"""

import argparse
from pathlib import Path

import numpy as np
from float_decoder import float_model
from mobile_bundle.codecs import codec_for
from mobile_bundle.container.weights import WeightsReader
from numpy.typing import NDArray
from onnx import TensorProto, helper

PAGE = 4096


class Data:
    """model.onnx.data: tensors of a model, each at a multiple of a page."""

    def __init__(self, path: Path) -> None:
        self.path, self._file, self.initializers = path, path.open("wb"), []

    def add(self, name: str, kind: int, dims: list[int], data: bytes) -> str:
        self._file.write(bytes(-self._file.tell() % PAGE))
        tensor = TensorProto(name=name, data_type=kind, dims=dims, data_location=TensorProto.EXTERNAL)
        places = (("location", self.path.name), ("offset", str(self._file.tell())), ("length", str(len(data))))
        for key, value in places:
            tensor.external_data.add(key=key, value=value)
        self._file.write(data)
        self.initializers.append(tensor)
        return name

    def close(self) -> None:
        self._file.close()


def decoded(weights: WeightsReader, name: str) -> NDArray[np.float32]:
    blob = weights.blob(name)
    return codec_for(blob.header).decode(blob)


def quantise(weight: NDArray[np.float32], bits: int, block: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Codes uint8 (rows, blocks, block) in 0..2^bits - 1 around 2^(bits-1), and scales (rows, blocks)."""
    rows, columns = weight.shape
    blocks = np.zeros((rows, -(-columns // block), block), np.float32)
    blocks.reshape(rows, -1)[:, :columns] = weight
    middle = 1 << (bits - 1)
    # The value of largest magnitude gets the code -2^(bits-1), as ONNX Runtime's and llama.cpp's quantisers do.
    at = np.abs(blocks).argmax(2, keepdims=True)
    scales = np.take_along_axis(blocks, at, 2) / -middle
    inverse = np.divide(1.0, scales, where=scales != 0, out=np.zeros_like(scales))
    codes = np.clip(np.round(blocks * inverse) + middle, 0, 2 * middle - 1).astype(np.uint8)
    return codes, scales[:, :, 0]


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Lowest bits first, 8 / bits codes a byte, along the last axis."""
    each = 8 // bits
    parts = codes.reshape(*codes.shape[:-1], -1, each)
    packed = np.zeros(parts.shape[:-1], np.uint8)
    for i in range(each):
        packed |= parts[..., i] << (bits * i)
    return packed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bits", type=int, choices=(2, 4), default=4)
    parser.add_argument("--block-size", type=int, default=32)
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    for name in ("weights.ptd", "tokenizer.bin", "manifest.json"):
        (options.out / name).hardlink_to(options.raw / name)  # the runtime refuses links out of the folder
    weights, data = WeightsReader(options.raw / "weights.ptd"), Data(options.out / "model.onnx.data")
    model = float_model(weights)
    done: dict[str, tuple[str, str, list[int]]] = {}

    def quantised(name: str) -> tuple[str, str, list[int]]:
        if name not in done:
            matrix = decoded(weights, name)
            codes, scales = quantise(matrix, options.bits, options.block_size)
            packed = pack(codes, options.bits)
            kinds = TensorProto.UINT8, TensorProto.FLOAT
            done[name] = (
                data.add(f"{name}.codes", kinds[0], list(packed.shape), packed.tobytes()),
                data.add(f"{name}.scales", kinds[1], [scales.size], scales.tobytes()),
                list(matrix.shape),
            )
        return done[name]

    nodes = []
    for node in model.graph.node:
        if node.op_type == "CompressedGather":
            matrix = decoded(weights, node.input[1])
            codes, scales = quantise(matrix, 4, 32)
            packed = pack(codes, 4).reshape(matrix.shape[0], -1)
            inputs = [
                data.add("embedding.codes", TensorProto.UINT4, list(matrix.shape), packed.tobytes()),
                node.input[0],
                data.add("embedding.scales", TensorProto.FLOAT, list(scales.shape), scales.tobytes()),
            ]
            inputs.append(
                data.add("embedding.zeros", TensorProto.UINT4, list(scales.shape), b"\x88" * (scales.size // 2))
            )
            nodes.append(
                helper.make_node("GatherBlockQuantized", inputs, list(node.output), node.name, domain="com.microsoft",
                                 gather_axis=0, quantize_axis=1, block_size=32)
            )  # fmt: skip
        elif node.op_type == "CompressedMatMul":
            for name, output in zip(node.input[1:], node.output, strict=True):
                codes_name, scales_name, (rows, columns) = quantised(name)
                nodes.append(
                    helper.make_node("MatMulNBits", [node.input[0], codes_name, scales_name], [output],
                                     f"{node.name}/{output}", domain="com.microsoft", K=columns, N=rows,
                                     bits=options.bits, block_size=options.block_size, accuracy_level=4)
                )  # fmt: skip
        else:
            nodes.append(node)
    data.close()
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend([*kept, *data.initializers])
    (options.out / "model.onnx").write_bytes(model.SerializeToString())


main()
