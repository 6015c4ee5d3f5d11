"""Builds a bundle and continues a text: build_and_generate.py MODEL NAME.mbundle PROMPT"""

import sys

import mobile_bundle as mb


def main(model: str, output: str, prompt: str) -> None:
    bundle = mb.build(model, output, recipe="affine-4bit", progress=print)
    print(f"{bundle.manifest.bits_per_weight:.2f} bits per weight, {bundle.manifest.predicted.peak_bytes / 1e6:.1f} MB")
    with bundle.load(context=256) as loaded:
        for piece in loaded.stream(prompt, max_new_tokens=32):
            print(piece.text, end="", flush=True)
        print(f"\n({piece.ended})")


if __name__ == "__main__":
    main(*sys.argv[1:])
