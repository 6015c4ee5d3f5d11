"""What guessing from the text gains: answers with and without `mobile-run serve --lookup`, one after the other.

    python benchmarks/lookup.py BUNDLE [--lookup 24] [--rounds 5] [--threads 2]

Of each task it prints the ratio of the times that the answers took (without the prompt): the median over the rounds, in
which both servers answer in turn. The answers must be the same. Tasks: corrections and summaries of a given text, which
repeat it, and questions, which do not. Needs a chat model."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ARTICLE = (
    "The town of Harrow lies on the eastern bank of the river Wend, some forty miles north of the capital. It was "
    "founded in 1312 by merchants who traded salt and wool, and it recieved its charter from the king in 1340. For "
    "three hundred years the salt works were the largest in the country. In 1652 a fire destroyed most of the "
    "wooden houses, and the town was rebuild in stone. The railway came in 1861, and with it the first factories, "
    "which made paper and glass. Today Harrow has about 24,000 inhabitants, a small university, and a museum that "
    "shows how salt was made."
)
TASKS = {
    "correct": f"Fix the errors in the text. Write only the corrected text.\n\nText: {ARTICLE}",
    "proofread": "Proofread the following paragraph and return it with the mistakes corrected.\n\n"
    f"{ARTICLE}\n\nCorrected paragraph:",
    "extract": f"Which sentences of this text are about salt? Quote them.\n\n{ARTICLE}",
    "shorten": f"Correct the spelling of this text, and write the whole text again:\n\n{ARTICLE}",
    "summary": f"Summarize this text by copying its most important sentences:\n\n{ARTICLE}",
    "question": "Explain in a few sentences why the sky is blue.",
    "story": "Tell a short story about a fox and a lighthouse.",
    "list": "Name ten animals that live in the sea, one a line.",
}


class Server:
    """`mobile-run serve` of the bundle."""

    def __init__(self, bundle: Path, runner: Path, *options: str) -> None:
        self._process = subprocess.Popen(
            [runner, "serve", bundle, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._event("load")

    def _event(self, *names: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        while True:
            event: dict[str, Any] = json.loads(self._process.stdout.readline())
            if event["event"] == "token":
                self.tokens.append(event["id"])
            if event["event"] == "error":
                sys.exit(event["message"])
            if event["event"] in names:
                return event

    def ask(self, text: str, tokens: int, temperature: float) -> dict[str, Any]:
        """The `done` of an answer, whose tokens are then in `tokens`."""
        request = {
            "messages": [{"role": "user", "content": text}],
            "max_new_tokens": tokens,
            "temperature": temperature,
        }
        self.tokens: list[int] = []
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request | {"seed": 1}) + "\n")
        self._process.stdin.flush()
        return self._event("done")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--lookup", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--runner", type=Path, help="default: the bundle's for x86_64")
    options = parser.parse_args()
    runner = options.runner or options.bundle / "bin/x86_64/mobile-run"
    common = ("--threads", str(options.threads))
    plain = Server(options.bundle, runner, *common)
    guessing = Server(options.bundle, runner, *common, "--lookup", str(options.lookup))
    for name, text in TASKS.items():
        ratios = []
        for _ in range(options.rounds + 1):
            before = plain.ask(text, options.tokens, options.temperature)
            after = guessing.ask(text, options.tokens, options.temperature)
            if plain.tokens != guessing.tokens:
                sys.exit(f"{name}: the answers differ")
            ratios.append(before["seconds"] / after["seconds"])
        print(
            f"{name}: {after['tokens']} tokens, {after['guessed_tokens']} guessed, {after['right_guesses']} right, "
            f"{before['tokens_per_second']:.0f} tokens/s without; {statistics.median(ratios[1:]):.2f} times as fast",
            flush=True,
        )


if __name__ == "__main__":
    main()
