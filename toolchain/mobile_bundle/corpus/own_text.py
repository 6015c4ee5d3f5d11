"""A calibration text that the model writes itself: conversations and documents, sampled by seed.

Conversations begin with the chat template up to an open user turn, and run on: the model writes the question, too.
Documents begin with BOS, some of them with a sentence of another language that the model knows. Text of the model's own
keeps what the model does on its own ground (Liu et al. 2023, arXiv:2305.17888, section 3.1: data-free distillation
from generations)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.corpus.openings import TEMPERATURE, open_turn
from mobile_bundle.corpus.windows import after_bos
from mobile_bundle.errors import InputError
from mobile_bundle.native.engine import Model
from mobile_bundle.native.sampler import Sampler, Sampling
from mobile_bundle.native.tokenizer import Tokenizer
from mobile_bundle.processors import default_jobs

Progress = Callable[[int, int, str], None]

TOKENS = 8192
"""How much it writes: a minute's work for a model of 135 million weights on two cores."""
TOP_P = 0.99
"""The last hundredth of the probability is hardly text, and ordering the whole vocabulary for it takes as long as the
model's own work."""
_DOCUMENT = 256
"""Tokens of a document or conversation, its opening included, at most."""
_SHINGLE = 8
_MOST_REPEATED = 0.3
"""Of a document's runs of _SHINGLE tokens, the share that may stand in it twice, or in an earlier one."""
_MOST_TRIED = 3
"""Documents are written until there are TOKENS of them, but not more than so many times as many."""
_EVERY = 4
"""One document in so many begins in another language."""
_MOST_THREADS = 8
_CHUNK = 64

LANGUAGES = {
    "English": "The town lies on the bank of the river, and most people who live there work on farms or in small "
    "shops.",
    "Swahili": "Mji huo uko kando ya mto, na watu wengi wanaoishi huko hufanya kazi mashambani au katika maduka "
    "madogo.",
    "French": "La ville se trouve au bord de la rivière, et la plupart des gens qui y vivent travaillent dans des "
    "fermes ou de petits magasins.",
    "Portuguese": "A cidade fica à beira do rio, e a maioria das pessoas que vivem lá trabalha em fazendas ou em "
    "pequenas lojas.",
    "Spanish": "La ciudad está a orillas del río, y la mayoría de la gente que vive allí trabaja en granjas o en "
    "tiendas pequeñas.",
    "Arabic": "تقع المدينة على ضفة النهر، ومعظم الناس الذين يعيشون هناك يعملون في المزارع أو في المتاجر الصغيرة.",
    "Hindi": "यह शहर नदी के किनारे बसा है, और वहाँ रहने वाले अधिकतर लोग खेतों में या छोटी दुकानों में काम करते हैं।",
    "Indonesian": "Kota itu terletak di tepi sungai, dan kebanyakan orang yang tinggal di sana bekerja di ladang atau "
    "di toko kecil.",
}
"""One sentence in several languages."""
_KNOWN = 2.25
"""A language counts as known if its sentence costs the model at most so many times the loss of the cheapest one. On
SmolLM2-135M-Instruct (English, some French) French has 2.0, Portuguese and Spanish 2.2, Indonesian 2.4, Swahili 3.5."""


@dataclass(frozen=True)
class OwnText:
    """windows: token ids int32 (count, tokens); languages: the known ones, the best first; conversations: whether the
    model has a chat template, so that half of the text is such."""

    windows: NDArray[np.int32]
    languages: Sequence[str]
    conversations: bool


def own_text(model: Model, tokenizer: Tokenizer, context: int, progress: Progress) -> OwnText:
    """TOKENS tokens in windows of `context`. The same model gives the same text, on any number of processors.

    progress: tokens written, tokens wanted. InputError if the model writes little but repetitions."""
    wanted = max(TOKENS // context, 1) * context
    languages = known_languages(model, tokenizer)
    openings = _openings(model, tokenizer, languages)
    length = min(_DOCUMENT, context)
    most = _MOST_TRIED * wanted // length
    kept: list[NDArray[np.int32]] = []
    seen: set[bytes] = set()
    total = 0
    for document in _documents(model, openings, length, most):
        if _is_new(document, seen):
            kept.append(document)
            total += len(document)
            progress(min(total, wanted), wanted, "")
        if total >= wanted:
            break
    count = total // context
    if not count:
        raise InputError(
            f"the model repeats itself: of {most} texts that it wrote, {len(kept)} are of use",
            "give a text (`calibration`)",
        )
    windows = np.concatenate(kept)[: count * context].reshape(count, context)
    return OwnText(windows, languages, tokenizer.has_chat)


def known_languages(model: Model, tokenizer: Tokenizer) -> list[str]:
    """Names out of LANGUAGES whose sentence the model finds about as likely as its best one, the best first. Those
    whose sentence is longer than the model's context are not known."""
    costs: dict[str, float] = {}
    for name, sentence in LANGUAGES.items():
        ids = after_bos(tokenizer.encode(sentence), model.bos)
        if len(ids) <= model.context:
            costs[name] = _loss(model, ids)
    if not costs:
        return [next(iter(LANGUAGES))]
    cheapest = min(costs.values())
    return sorted((name for name in costs if costs[name] <= _KNOWN * cheapest), key=costs.__getitem__)


def _loss(model: Model, ids: NDArray[np.int32]) -> float:
    """Nats, of all tokens but the first."""
    total = 0.0
    with model.session(len(ids), 1, _CHUNK, "f16", all_logits=True) as session:
        for begin in range(0, len(ids) - 1, _CHUNK):
            end = min(begin + _CHUNK, len(ids) - 1)
            logits = session.feed_all(ids[begin:end]).astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            chosen = logits[np.arange(end - begin), ids[begin + 1 : end + 1]]
            total += float((np.log(np.exp(logits).sum(axis=1)) - chosen).sum())
    return total


@dataclass(frozen=True)
class _Opening:
    """ids: what a text begins with; ends: whether an end token ends it."""

    ids: NDArray[np.int32]
    ends: bool


def _openings(model: Model, tokenizer: Tokenizer, languages: Sequence[str]) -> Callable[[int], _Opening]:
    """The opening of the text of that number."""
    sentences = [tokenizer.encode(LANGUAGES[name]) for name in languages[1:]]
    bare = after_bos(np.zeros(0, np.int32), model.bos)
    if not len(bare):  # a model without BOS needs something to start from
        bare = tokenizer.encode(LANGUAGES[languages[0]])
    chat = open_turn(tokenizer)

    def opening(number: int) -> _Opening:
        if chat is not None and number % 2 == 0:
            return _Opening(chat, False)
        number = number // 2 if chat is not None else number
        if sentences and number % _EVERY == _EVERY - 1:
            return _Opening(after_bos(sentences[number // _EVERY % len(sentences)], model.bos), True)
        return _Opening(bare, True)

    return opening


def _documents(model: Model, opening: Callable[[int], _Opening], length: int, most: int) -> Iterator[NDArray[np.int32]]:
    """Texts 0, 1, 2 ... in their order. Several are written at a time, each by one thread and its own seed."""
    threads = min(default_jobs(), _MOST_THREADS)
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, most, threads):
            numbers = range(first, min(first + threads, most))
            yield from pool.map(lambda number: _written(model, opening(number), number, length), numbers)


def _written(model: Model, opening: _Opening, number: int, length: int) -> NDArray[np.int32]:
    """int32 (at most length,)."""
    ids = [int(token) for token in opening.ids[: length - 1]]
    with (
        model.session(length, 1, 0, "f16") as session,
        Sampler(model.vocabulary, Sampling(temperature=TEMPERATURE, top_p=TOP_P, seed=number)) as sampler,
    ):
        logits = session.feed(ids)
        while len(ids) < length:
            token = sampler.sample(logits)
            ids.append(token)
            if opening.ends and token in model.end_tokens:
                break
            if len(ids) < length:
                logits = session.feed([token])
    return np.array(ids, np.int32)


def _is_new(document: NDArray[np.int32], seen: set[bytes]) -> bool:
    """Whether the document hardly repeats itself or an earlier one. `seen` then knows its runs of tokens."""
    runs = [document[at : at + _SHINGLE].tobytes() for at in range(len(document) - _SHINGLE + 1)]
    own = set(runs)
    repeated = len(runs) - len(own - seen)
    if not runs or repeated > _MOST_REPEATED * len(runs):
        return False
    seen |= own
    return True
