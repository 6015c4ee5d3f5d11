"""What answers in a given form cost: the share of an answer's time that finding the allowed tokens takes.

python benchmarks/forms.py BUNDLE [--rounds N]

Each answer is made by `mobile-run serve`, which says how long it took; its tokens are then given to the same constraint
again, alone, and only that is timed, as the runner does it: cold (just compiled, as at a first request; each token's
least of the rounds, since another process may come between) and warm (as at the next request of the same form). The
share is that of the cold ones in the answer's time, which contains them."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from mobile_bundle.native.constraint import JSON_SCHEMA, REGEX, Constraint, Vocabulary
from mobile_bundle.native.engine import Model
from mobile_bundle.native.programs import machine_abi, runner_paths
from mobile_bundle.native.tokenizer import Tokenizer

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "born": {"type": "integer", "minimum": 1, "maximum": 2100},
        "country": {"enum": ["England", "France", "Germany", "Italy"]},
        "known_for": {"type": "array", "items": {"type": "string", "maxLength": 60}, "minItems": 2, "maxItems": 4},
    },
    "required": ["name", "born", "known_for"],
}
FORMS: dict[str, tuple[int, str]] = {
    "an object": (JSON_SCHEMA, json.dumps(PERSON)),
    "a list of objects": (JSON_SCHEMA, json.dumps({"type": "array", "items": PERSON, "minItems": 3, "maxItems": 6})),
    "a text of any length": (JSON_SCHEMA, '{"type": "string", "minLength": 300}'),
    "a text that is counted": (JSON_SCHEMA, '{"type": "string", "minLength": 300, "maxLength": 600}'),
    "words": (REGEX, "([a-z]{1,12} ){20,60}"),
    "lines": (REGEX, "(- [^\\n]{10,80}\\n){5}"),
}
PROMPT = "Tell me about Ada Lovelace."
WORDS = {JSON_SCHEMA: "json_schema", REGEX: "regex"}


def answers(bundle: Path, runner: Path, threads: int) -> dict[str, tuple[list[int], float]]:
    """By form: the answer's tokens and the seconds that it took."""
    command = [str(runner), "serve", str(bundle), "--threads", str(threads)]
    out = {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for name, (kind, text) in FORMS.items():
            request: dict[str, Any] = {"messages": [{"role": "user", "content": PROMPT}], "max_new_tokens": 300}
            request[WORDS[kind]] = json.loads(text) if kind == JSON_SCHEMA else text
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            tokens: list[int] = []
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "token" and event["id"] >= 0:
                    tokens.append(event["id"])
                elif event["event"] == "done":
                    out[name] = tokens, event["seconds"]
                    break
                elif event["event"] == "error":
                    raise SystemExit(f"{name}: {event['message']}")
    return out


def again(constraint: Constraint, tokens: list[int]) -> list[float]:
    """Seconds that each token took."""
    out = []
    constraint.begin()
    for token in tokens:
        begin = time.perf_counter()
        constraint.allowed()
        constraint.accept(token)
        out.append(time.perf_counter() - begin)
    return out


def main() -> None:
    """Prints a line per form and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runner", type=Path, help="default: the installed package's, not the bundle's own")
    options = parser.parse_args()
    runner = options.runner or runner_paths()[machine_abi()]
    tokenizer = Tokenizer(options.bundle / "tokenizer.bin")
    with Model(options.bundle) as model:
        size, ends = model.vocabulary, model.end_tokens
    begin = time.perf_counter()
    with Vocabulary(tokenizer, size, ends) as vocabulary:
        print(f"trie of {size} tokens: {1e3 * (time.perf_counter() - begin):.1f} ms, {vocabulary.bytes / 1e6:.2f} MB")
        print(f"{'form':<24} threads tokens  ms/token  compile ms  cold us/token  worst us  warm us/token  share")
        for threads in (1, 2):
            rounds = [answers(options.bundle, runner, threads) for _ in range(options.rounds)]
            for name, (kind, text) in FORMS.items():
                tokens = rounds[0][name][0]
                seconds = statistics.median(each[name][1] for each in rounds)
                colds, warms, compiles = [], [], []
                for _ in range(options.rounds):
                    begin = time.perf_counter()
                    with Constraint(vocabulary, kind, text) as constraint:
                        compiles.append(time.perf_counter() - begin)
                        colds.append(again(constraint, tokens))
                        warms.append(sum(again(constraint, tokens)))
                cold = [min(each) for each in zip(*colds, strict=True)]
                print(
                    f"{name:<24} {threads:>7} {len(tokens):>6} {1e3 * seconds / len(tokens):>9.3f} "
                    f"{1e3 * statistics.median(compiles):>11.2f} {1e6 * sum(cold) / len(tokens):>14.1f} "
                    f"{1e6 * max(cold):>9.0f} {1e6 * statistics.median(warms) / len(tokens):>14.1f} "
                    f"{100 * sum(cold) / seconds:>5.1f}%"
                )


if __name__ == "__main__":
    main()
