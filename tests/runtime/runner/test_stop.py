"""Stop strings: where an answer ends does not depend on where its tokens do."""

from __future__ import annotations

from typing import Any

import pytest
from mobile_bundle.api.bundle import Bundle
from mobile_bundle.errors import ArgumentError
from support.serve import serving

PROMPT = "The history of the city"


def text(events: list[dict[str, Any]]) -> str:
    return "".join(event["text"] for event in events if event["event"] == "token")


def ends_before(answer: str, stops: list[str]) -> str | None:
    """The answer up to the longest stop string that is complete with the first byte that completes any."""
    data = answer.encode()
    for end in range(1, len(data) + 1):
        found = [stop.encode() for stop in stops if data[:end].endswith(stop.encode())]
        if found:
            return data[: end - len(max(found, key=len))].decode()
    return None


def test_an_answer_ends_before_the_first_of_them(bundle):
    with serving(bundle("affine-4bit")) as server:
        for temperature in (0, 1.2):
            options = {"prompt": PROMPT, "max_new_tokens": 60, "ignore_eos": True, "temperature": temperature}
            plain = server.ask(**options)
            whole = text(plain)
            # within tokens and across them: every text of the answer, of a few lengths, and pairs of them
            cuts = [whole[i : i + n] for n in (1, 2, 5, 13) for i in range(3, min(len(whole) - n, 120), 11)]
            for stops in [*([cut] for cut in cuts), *zip(cuts, cuts[::-1], strict=True)]:
                answer = server.ask(**options, stop=list(stops))
                assert text(answer) == ends_before(whole, list(stops)), stops
                assert answer[-1]["reason"] == "stop"
                assert answer[-1]["tokens"] <= plain[-1]["tokens"]
                assert answer[-1]["tokens"] == sum(event["event"] == "token" and event["id"] >= 0 for event in answer)


def test_what_might_have_become_one_is_not_lost(bundle):
    with serving(bundle("affine-4bit")) as server:
        options = {"prompt": PROMPT, "max_new_tokens": 20, "ignore_eos": True}
        whole = text(server.ask(**options))
        for i in range(len(whole)):
            answer = server.ask(**options, stop=[whole[i:] + "never", "zzzz"])
            assert text(answer) == whole
            assert answer[-1]["reason"] == "length"


def test_the_next_request_goes_on_as_ever(bundle):
    with serving(bundle("affine-4bit"), "--lookup", "8") as server:
        whole = text(server.ask(prompt=PROMPT, max_new_tokens=30, ignore_eos=True))
        cut = text(server.ask(prompt=PROMPT, max_new_tokens=30, ignore_eos=True, stop=[whole[20:26]]))
        assert cut == whole[:20]
        assert text(server.ask(prompt=PROMPT, max_new_tokens=30, ignore_eos=True)) == whole


def test_python_ends_where_serve_does(bundle):
    directory = bundle("affine-4bit")
    with Bundle(directory).load() as model:

        def ask(*stops: str) -> tuple[str, str | None]:
            pieces = list(model.stream(PROMPT, max_new_tokens=40, ignore_eos=True, stop=stops))
            assert all(piece.ended is None and piece.token is not None for piece in pieces[:-1])
            return "".join(piece.text for piece in pieces), pieces[-1].ended

        whole, ended = ask()
        assert ended == "length"
        for i in range(3, len(whole) - 8, 7):
            for stops in ([whole[i : i + 6]], [whole[i : i + 9], whole[i + 2 : i + 5]], [whole[i : i + 3] + "never"]):
                expected = ends_before(whole, stops)
                assert ask(*stops) == ((whole, "length") if expected is None else (expected, "stop"))
        for wrong in ("text", [""], ["a"] * 9, ["é" * 129], [5]):
            with pytest.raises(ArgumentError, match="`stop`"):
                next(model.stream(PROMPT, stop=wrong))
