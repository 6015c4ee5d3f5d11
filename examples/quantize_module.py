"""Swaps the layers of a torch module for packed ones, and says what each became: quantize_module.py (needs torch)"""

import mobile_bundle as mb
import torch


def main() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.SiLU(), torch.nn.Linear(512, 256)).eval()
    x = torch.randn(1, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(x)
        for name, became in mb.quantize_(model, "affine-4bit").items():
            print(f"{name}: {became.codec}, {became.bits_per_weight:.2f} bits, error {became.relative_error:.1e}")
        print(f"the output changes by {float((model(x) - before).norm() / before.norm()):.3f}")


if __name__ == "__main__":
    main()
