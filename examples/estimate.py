"""What bundles of a model would take, without building them: estimate.py MODEL RECIPE ..."""

import sys

import mobile_bundle as mb


def main(model: str, *recipes: str) -> None:
    for recipe in recipes:
        found = mb.estimate(model, recipe=recipe, context=256)
        print(f"{found.recipe:<16} {found.bytes / 1e6:8.1f} MB, peak {found.predicted.peak_bytes / 1e6:8.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
