"""Chat templates: a bundle's prompt is what transformers' apply_chat_template gives, or it is refused."""

from __future__ import annotations

import datetime
import functools
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from mobile_bundle.chat_template import program
from mobile_bundle.chat_template.compile import ChatTemplate, compile_chat_template
from mobile_bundle.chat_template.find import find_chat_template
from mobile_bundle.errors import UserError
from mobile_bundle.tokenizer import CompiledTokenizer, compile_tokenizer
from support.chat_templates import (
    ADDED_TOKENS,
    CHATML,
    CONTROL_TOKENS,
    LLAMA32,
    MISTRAL,
    SPECIAL,
    TEMPLATES,
    ZEPHYR,
    conversation,
)
from support.conversations import expected_tokens, tokens
from support.paths import EXAMPLE, ROOT
from support.tokenizer_library import Tokenizer, TokenizerError

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

CONVERSATIONS = 200
REFUSES_ROLES = {"Llama-2", "Mistral", "Gemma"}


def tokenizer_files(folder: Path, source: str | None, **config: Any) -> Path:
    """The example's tokenizer with the tokens that templates write, and a chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizers.Tokenizer.from_file(str(EXAMPLE / "tokenizer.json"))
    tokenizer.add_special_tokens([tokenizers.AddedToken(t, normalized=False, special=True) for t in CONTROL_TOKENS])
    tokenizer.add_tokens([tokenizers.AddedToken(t, normalized=False, special=False) for t in ADDED_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **SPECIAL,
        **config,
    }
    if source is not None:
        settings["chat_template"] = source
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """compiled(name): the folder of a template's tokenizer and what it was compiled to."""

    @functools.cache
    def make(name: str) -> tuple[Path, CompiledTokenizer]:
        folder = tokenizer_files(tmp_path_factory.mktemp("templates"), TEMPLATES[name])
        return folder, compile_tokenizer(folder, {})

    return make


@pytest.mark.parametrize("name", TEMPLATES)
def test_token_ids_are_those_of_transformers(compiled: Any, name: str) -> None:
    folder, result = compiled(name)
    assert result.has_chat, result.chat_template_status
    ours, reference = Tokenizer(result.data), transformers.AutoTokenizer.from_pretrained(folder)
    choose = random.Random(name)
    refused = 0
    for _ in range(CONVERSATIONS):
        messages = conversation(choose)
        variable = "enable_thinking" if "enable_thinking" in TEMPLATES[name] else "thinking"
        for thinking in (None, True, False) if result.has_thinking else (None,):
            options = {} if thinking is None else {variable: thinking}
            now = datetime.datetime.now()
            expected = expected_tokens(reference, messages, **options)
            assert tokens(ours, messages, thinking=thinking, now=now) == expected, (messages, thinking)
            refused += expected is None
    assert refused < (0.8 if name in REFUSES_ROLES else 0.2) * CONVERSATIONS
    assert result.has_thinking == (name in ("qwen3", "modes", "granite-3.3", "smollm3"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_status_says_what_is_missing(compiled: Any, name: str) -> None:
    _, result = compiled(name)
    if name == "Mistral":
        assert result.chat_template_status.startswith(
            "the chat template is compiled, but without system messages (Conversation"
        )
    else:
        assert result.has_whole_chat


def test_the_end_of_an_answer(compiled: Any) -> None:
    for name, end in (
        ("ChatML", "<|im_end|>"),
        ("Llama-3.2", "<|eot_id|>"),
        ("Llama-2", "</s>"),
        ("qwen3", "<|im_end|>"),
    ):
        folder, result = compiled(name)
        assert result.chat_end == tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(end)


def test_reasoning_of_earlier_answers_is_left_out(compiled: Any) -> None:
    ours = Tokenizer(compiled("qwen3")[1].data)
    answer = "<think>\nThe user greets me.\n</think>\n\nHello!"
    messages = [("user", "Hi"), ("assistant", answer), ("user", "Bye")]
    assert ours.chat(messages) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ours.chat(messages, thinking=False).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    # the last answer keeps it, and goes on
    assert ours.chat(messages[:2]).endswith(f"<|im_start|>assistant\n{answer}")


def test_a_date_is_that_of_the_request(compiled: Any) -> None:
    ours = Tokenizer(compiled("Llama-3.2")[1].data)
    for day, said in ((datetime.datetime(2031, 2, 3), "03 Feb 2031"), (datetime.datetime(2024, 12, 31), "31 Dec 2024")):
        assert f"Today Date: {said}\n" in ours.chat([("user", "Hi")], now=day)


def test_options_are_fixed_by_the_build(tmp_path: Path) -> None:
    folder = tokenizer_files(tmp_path, TEMPLATES["qwen3"])
    result = compile_tokenizer(folder, {}, {"enable_thinking": False})
    assert (result.chat_options, result.has_thinking) == ({"enable_thinking": False}, False)
    ours = Tokenizer(result.data)
    assert ours.chat([("user", "Hi")]).endswith("<think>\n\n</think>\n\n")
    with pytest.raises(TokenizerError, match="leave thinking out"):
        ours.chat([("user", "Hi")], thinking=True)
    folder = tokenizer_files(tmp_path, LLAMA32)
    ours = Tokenizer(compile_tokenizer(folder, {}, {"date_string": "26 Jul 2024", "bos_token": "<|eot_id|>"}).data)
    assert ours.chat([("user", "Hi")]).startswith("<|eot_id|><|start_header_id|>system")
    assert "Today Date: 26 Jul 2024\n" in ours.chat([("user", "Hi")])


def test_options_that_there_are_not(tmp_path: Path) -> None:
    folder = tokenizer_files(tmp_path, TEMPLATES["qwen3"])
    for options, words in (
        ({"enable_thinkin": False}, "no variable enable_thinkin; its variables are content, enable_thinking,"),
        ({"messages": []}, "no variable messages"),
        ({"tools": []}, "no variable tools"),
    ):
        with pytest.raises(UserError, match=words):
            compile_tokenizer(folder, {}, options)
    with pytest.raises(UserError, match="no variable x; it has none at all"):
        compile_tokenizer(tokenizer_files(tmp_path, CHATML), {}, {"x": 1})
    with pytest.raises(UserError, match="options were given, and the model has no chat template"):
        compile_tokenizer(tokenizer_files(tmp_path, None), {}, {"x": 1})


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for", "TemplateSyntaxError"),
        ("{{ raise_exception('never') }}", "never"),
        ("{{ messages.__class__.__mro__ }}", "SecurityError"),
        ("{% for m in messages %}{{ m.content | e }}{% endfor %}", "the filter e"),
        ("{% for m in messages %}{{ m.content | indent }}{% endfor %}", "the filter indent"),
        ("{% for m in messages %}{{ m }}{% endfor %}", "writes out a list or an object"),
        ("{{ cycler('a', 'b').next() }}{{ messages[0].content }}", "the method next"),
        ("{{ '%s' | format(messages[0].content) }}", "the filter format"),
        ("{{ strftime_now('%c') }}{{ messages[0].content }}", "a date in the form %c"),
        ("{{ messages[0].content }}{% include 'x' %}", "no loader"),
        ("{% for a, b in [(1, 2)] %}{% endfor %}{{ messages[0].content }}", "a loop with more than one variable"),
        ("{% filter trim %}{{ messages[0].content }}{% endfilter %}", "a filter block"),
        ("{{ raise_exception('\\n\\nline') }}", "line"),
        ("{{ " + "(" * 3000 + ")" * 3000 + " }}", "nested too deep"),
        ("{{ " + "not " * 200 + "messages }}", "nested deeper"),
        ("{{ messages[0].content.foo.bar }}", "UndefinedError"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{{ messages[0].content }}",
            " s",
        ),
        ("{{ 'a' * 300000000 }}{% for m in messages %}{{ m.content }}{% endfor %}", "512 MB of memory"),
        ("{% for i in range(1000) %}{{ 'abcdefghij' * 10000 }}{% endfor %}", "more than a model can read"),
    ],
)
def test_what_is_refused_says_why(tmp_path: Path, source: str, reason: str) -> None:
    """In one line, and the tokenizer is compiled without it."""
    result = compile_tokenizer(tokenizer_files(tmp_path, source), {})
    assert not result.has_chat
    assert re.search(reason, result.chat_template_status)
    assert result.chat_template_status.startswith("the chat template cannot be compiled: ")
    assert len(result.chat_template_status) < 400
    assert result.chat_template_status.isprintable()
    ours = Tokenizer(result.data)
    assert not ours.has_chat
    with pytest.raises(TokenizerError, match="no chat template"):
        ours.chat([("user", "Hi")])


def test_halves_of_surrogate_pairs_are_refused() -> None:
    for source in ("{{ 'x\ud800' }}{{ messages[0].content }}", "{{ raise_exception('\udc00') }}", "\ud800"):
        result, status = compile_chat_template(source, SPECIAL)
        assert result is None
        assert "half a surrogate pair" in status
        assert status.isprintable()


def test_what_is_not_reached_stands_in_nobody_s_way() -> None:
    source = "{% if tools %}{{ tools | pprint }}{% endif %}" + MISTRAL.replace(
        "message['content']", "message.content | trim"
    )
    result, status = compile_chat_template(source, SPECIAL)
    assert isinstance(result, ChatTemplate)
    assert "pprint" not in status


def test_a_conversation_that_it_cannot_do_is_refused(tmp_path: Path) -> None:
    folder = tokenizer_files(tmp_path, "{% for m in messages %}{{ m.content | upper }}{% endfor %}")
    result = compile_tokenizer(folder, {})
    assert (
        "some conversations are refused (it changes the case of letters that are not ASCII)"
        in result.chat_template_status
    )
    ours = Tokenizer(result.data)
    assert ours.chat([("user", "abc")]) == "ABC"
    with pytest.raises(TokenizerError, match="cannot do exactly: it changes the case"):
        ours.chat([("user", "stra\u00dfe")])


def test_refusals_of_the_runtime(compiled: Any) -> None:
    mistral = Tokenizer(compiled("Mistral")[1].data)
    with pytest.raises(TokenizerError, match="refuses this conversation: Conversation roles must alternate"):
        mistral.chat([("system", "a"), ("user", "b")])
    with pytest.raises(TokenizerError, match="needs a message"):
        mistral.chat([])
    with pytest.raises(TokenizerError, match="leave thinking out"):
        mistral.chat([("user", "a")], thinking=False)
    qwen3 = Tokenizer(compiled("qwen3")[1].data)
    with pytest.raises(TokenizerError, match="cannot be continued"):
        qwen3.chat([("user", "a"), ("assistant", "b</think>c")])


def test_contents_that_are_not_utf8(compiled: Any) -> None:
    """Count as Python's errors="replace" makes them."""
    ours = Tokenizer(compiled("Llama-3.2")[1].data)
    broken = b" \xff\xe2\x82 a\xf0\x9f\x8e "
    assert ours.chat([("user", broken)]) == ours.chat([("user", broken.decode(errors="replace"))])


def test_a_long_conversation_takes_linear_work(compiled: Any) -> None:
    ours = Tokenizer(compiled("qwen3")[1].data)
    messages = [("user", "Hi"), ("assistant", "<think>x</think>Hello")] * 20_000 + [("user", "x" * 2_000_000)]
    text = ours.chat(messages)
    assert text.count("<|im_start|>") == 40_002
    assert "<think>" not in text


def test_bundles_of_before_are_read(tmp_path: Path) -> None:
    """tests/data/tokenizer_with_chat_pieces.bin: written before templates were programs, with Llama 3's."""
    data = (ROOT / "tests/data/tokenizer_with_chat_pieces.bin").read_bytes()
    ours = Tokenizer(data)
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    start = "<s>" + head.format("system") + "Be brief.<|eot_id|>" + head.format("user") + "Hi<|eot_id|>"
    assert ours.chat([("system", " Be brief.\n"), ("user", "\u3000Hi ")]) == start + head.format("assistant")
    assert (
        ours.chat([("system", "Be brief."), ("user", "Hi"), ("assistant", "He ")])
        == start + head.format("assistant") + "He "
    )
    for messages, words in (
        ([("user", "a"), ("user", "b")], "no user message after a user"),
        ([("assistant", "a"), ("user", "b")], "do not begin with a assistant"),
        ([], "needs a message"),
    ):
        with pytest.raises(TokenizerError, match=words):
            ours.chat(messages)
    with pytest.raises(TokenizerError, match="leave thinking out"):
        ours.chat([("user", "a")], thinking=True)


def test_readers_of_before_refuse_what_they_do_not_know(compiled: Any) -> None:
    """A flag that they do not know: they said "use a newer program" to that from the beginning."""
    flags = int.from_bytes(compiled("ChatML")[1].data[24:28], "little")
    assert flags & ~((1 << 15) - 1)
    known = json.loads(json.dumps(flags | 1 << 30))
    changed = bytearray(compiled("ChatML")[1].data)
    changed[24:28] = known.to_bytes(4, "little")
    with pytest.raises(TokenizerError, match="use a newer program"):
        Tokenizer(bytes(changed), check_crc=False)


def test_the_format_is_that_of_the_header() -> None:
    header = (ROOT / "runtime/include/mobile_bundle/chat_format.h").read_text()
    for last, prefix, names in (
        ("MB_CHAT_OPS", "MB_CHAT_", program.OPS),
        ("MB_CHAT_COMPARISONS", "MB_CHAT_", program.COMPARISONS),
        ("MB_CHAT_METHODS", "MB_CHAT_METHOD_", program.METHODS),
        ("MB_CHAT_FILTERS", "MB_CHAT_FILTER_", program.FILTERS),
        ("MB_CHAT_TESTS", "MB_CHAT_TEST_", program.TESTS),
    ):
        body = re.search(r"typedef enum \{([^{}]*)\b" + last + r"\b", header)
        assert body
        text = re.sub(r"/\*.*?\*/", "", body[1], flags=re.DOTALL)
        assert [name.strip() for name in text.split(",") if name.strip()] == [prefix + name for name in names]
    assert f"MB_CHAT_MAX_DEPTH {program.MAX_DEPTH}u" in header


def test_damaged_programs_are_refused_or_harmless(compiled: Any) -> None:
    """Every byte of a program, changed: opening it fails or running it ends."""
    data = compiled("modes")[1].data
    start, size = (int.from_bytes(data[88 + 8 * 9 + 4 * i :][:4], "little") for i in range(2))
    choose = random.Random(3)
    opened = 0
    for _ in range(3000):
        changed = bytearray(data)
        for _ in range(choose.randint(1, 3)):
            changed[start + choose.randrange(size)] = choose.choice((0, 1, 2, 255, choose.randrange(256)))
        try:
            tokenizer = Tokenizer(bytes(changed), check_crc=False)
            opened += 1
            tokenizer.chat([("system", "a /think"), ("user", "b</think>c"), ("assistant", "d"), ("user", "e")])
        except (TokenizerError, UnicodeDecodeError):
            continue
    assert opened > 100


def test_where_templates_stand(tmp_path: Path) -> None:
    """Where transformers looks, in its order."""

    def found(config: dict[str, Any]) -> str:
        folder = tokenizer_files(tmp_path / "model", None, **config)
        source, reason = find_chat_template(folder, json.loads((folder / "tokenizer_config.json").read_text()))
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        try:
            expected = tokenizer.get_chat_template()
        except ValueError:
            expected = None
        if not (folder / "chat_template.json").exists():
            assert source == expected
        return source or reason

    named = [{"name": "tool_use", "template": ZEPHYR}, {"name": "default", "template": CHATML}]
    assert found({}) == ""
    assert found({"chat_template": named}) == CHATML
    assert "none that is named default" in found({"chat_template": named[:1]})
    (tmp_path / "model/chat_template.json").write_text(json.dumps({"chat_template": ZEPHYR}))
    assert found({"chat_template": CHATML}) == CHATML
    assert found({}) == ZEPHYR
    (tmp_path / "model/chat_template.json").unlink()
    (tmp_path / "model/additional_chat_templates").mkdir()
    (tmp_path / "model/additional_chat_templates/rag.jinja").write_text(ZEPHYR)
    assert "additional_chat_templates" in found({})
    (tmp_path / "model/chat_template.jinja").write_text(MISTRAL)
    assert found({"chat_template": CHATML}) == MISTRAL
    shutil.rmtree(tmp_path / "model")


@pytest.mark.parametrize(
    ("files", "config", "words"),
    [
        ({"chat_template.jinja": b"\xff{{}}"}, {}, r"chat_template.jinja: not UTF-8"),
        ({"chat_template.json": b"{bad"}, {}, "chat_template.json cannot be read"),
        ({"chat_template.json": b"[" * 100_000}, {}, "chat_template.json cannot be read"),
        ({"chat_template.json": b"7"}, {}, "neither a text nor"),
        ({}, {"chat_template": ["a"]}, "neither a text nor"),
        ({}, {"chat_template": 5}, "neither a text nor"),
        ({}, {"chat_template": [{"name": "x"}]}, "none that is named default"),
    ],
)
def test_templates_that_cannot_be_read(tmp_path: Path, files: dict[str, bytes], config: Any, words: str) -> None:
    folder = tokenizer_files(tmp_path, None, **config)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    result = compile_tokenizer(folder, {})
    assert not result.has_chat
    assert words in result.chat_template_status
    assert result.chat_template_status.isprintable()
