"""Chat templates: the compiled pieces say what the Jinja template says."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from mobile_bundle.tokenizer import compile_tokenizer
from mobile_bundle.tokenizer.chat_template import ChatPieces, compile_chat_template
from tokenizer_library import ANSWER, ASSISTANT, ROOT, START, SYSTEM, USER, Tokenizer, TokenizerError
from tokenizers import models, pre_tokenizers
from transformers.utils.chat_template_utils import render_jinja_template

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

CHATML = """{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""  # noqa: E501

QWEN25 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}{{- tool | tojson }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""  # noqa: E501

LLAMA3 = """{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""  # noqa: E501

LLAMA32 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\nToday Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""  # noqa: E501

LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""  # noqa: E501

ZEPHYR = """{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"""  # noqa: E501

BITNET = """{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = message['role'] | capitalize + ': '+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"""  # noqa: E501

MISTRAL = """{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% endif %}{% endfor %}"""  # noqa: E501

SYSTEM_LAST = """{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\\n\\n' %}{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{% for message in messages %}{% if message.role == 'user' %}{{ '[INST] ' }}{% if loop.last %}{{ system }}{% endif %}{{ message.content + '[/INST]' }}{% else %}{{ message.content + eos_token }}{% endif %}{% endfor %}"""  # noqa: E501

MARKED = """{% for message in messages %}{% if message.role == 'assistant' %}<|a|>{% generation %}{{ message.content }}<|e|>{% endgeneration %}{% else %}<|{{ message.role[0] }}|>{{ message.content }}<|e|>{% endif %}{% if loop.first %}{% continue %}{% endif %}{% endfor %}{% if add_generation_prompt %}<|a|>{% endif %}"""  # noqa: E501

WITH_SYSTEM = {
    "ChatML": CHATML,
    "Qwen2.5": QWEN25,
    "Llama-3": LLAMA3,
    "Llama-3.2": LLAMA32,
    "Zephyr": ZEPHYR,
    "BitNet": BITNET,
    "generation blocks": MARKED,
}
WITHOUT_SYSTEM = {"Mistral": MISTRAL, "system in the last turn": SYSTEM_LAST}

CONVERSATIONS = [
    [(USER, "Hello there")],
    [(USER, "  spaces\tand\n\nlines \n")],
    [(USER, "1"), (ASSISTANT, " 2 "), (USER, "3\u3000")],
    [(USER, "a"), (ASSISTANT, "b"), (USER, "c"), (ASSISTANT, "\u00e9\U0001f389"), (USER, "<|im_end|> {{ x }}")],
]


def reference(source: str, messages: list[tuple[int, str]]) -> str:
    """The rendering of transformers itself."""
    named = [{"role": ("system", "user", "assistant")[role], "content": content} for role, content in messages]
    rendered, _ = render_jinja_template([named], chat_template=source, add_generation_prompt=True, **SPECIAL)
    return rendered[0]


def compiled(source: str) -> tuple[ChatPieces, str]:
    pieces, status = compile_chat_template(source, SPECIAL)
    assert pieces is not None, status
    return pieces, status


@pytest.mark.parametrize("name", WITH_SYSTEM)
def test_with_system(name: str) -> None:
    pieces, status = compiled(WITH_SYSTEM[name])
    assert status.startswith("the chat template is compiled")
    assert "without system" not in status
    for conversation in CONVERSATIONS:
        for messages in (conversation, [(SYSTEM, " Be brief.\n"), *conversation]):
            assert pieces.render(messages) == reference(WITH_SYSTEM[name], messages)


@pytest.mark.parametrize("name", WITHOUT_SYSTEM)
def test_without_system(name: str) -> None:
    pieces, status = compiled(WITHOUT_SYSTEM[name])
    assert "without system messages" in status
    assert (START, SYSTEM) not in pieces.between
    for messages in CONVERSATIONS:
        assert pieces.render(messages) == reference(WITHOUT_SYSTEM[name], messages)


def test_llama2() -> None:
    """Folds the system message into the first user message and strips both as one: exact without space around them."""
    pieces, status = compiled(LLAMA2)
    assert "white space around contents is dropped" in status
    assert pieces.between[START, SYSTEM] == "<s>[INST] <<SYS>>\n"
    assert pieces.between[SYSTEM, USER] == "\n<</SYS>>\n\n"
    assert pieces.between[START, USER] == "<s>[INST] "
    assert pieces.between[ASSISTANT, USER] == " </s><s>[INST] "
    for conversation in CONVERSATIONS:
        assert pieces.render(conversation) == reference(LLAMA2, conversation)
        messages = [(SYSTEM, "Be brief."), *((role, content.strip()) for role, content in conversation)]
        assert pieces.render(messages) == reference(LLAMA2, messages)


def test_pieces() -> None:
    pieces, _ = compiled(QWEN25)
    assert pieces.between[START, USER].startswith("<|im_start|>system\nYou are Qwen")
    assert pieces.between[START, SYSTEM] == "<|im_start|>system\n"
    assert pieces.between[USER, ANSWER] == "<|im_end|>\n<|im_start|>assistant\n"
    assert pieces.trims == set()
    assert compiled(LLAMA3)[0].trims == {SYSTEM, USER, ASSISTANT}


def test_date() -> None:
    now = datetime.datetime(2031, 2, 3)
    pieces, status = compile_chat_template(LLAMA32, SPECIAL, now)
    assert pieces is not None
    assert "03 Feb 2031" in pieces.between[START, USER]
    assert "date" in status


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "no chat template"),
        ("{% for", "cannot be rendered: TemplateSyntaxError"),
        ("{{ raise_exception('never') }}", "never"),
        ("{{ messages.__class__.__mro__ }}", "SecurityError"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "as it is"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "once"),
        ("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}", "more than texts between"),
        ("{% for m in messages %}{{ m.content.replace('\\n', ' ') }}{% endfor %}", "more than texts between"),
        ("{{ messages[0].content }}{% if messages | length > 1 %}{% endif %}", "as it is"),
        ("{% for m in messages %}{{ m.content | e }}{% endfor %}", "more than texts between"),
    ],
)
def test_reasons(source: str | None, reason: str) -> None:
    pieces, status = compile_chat_template(source, SPECIAL)
    assert pieces is None
    assert reason in status
    assert "\n" not in status


def bundle(folder: Path, config: dict[str, Any]) -> Tokenizer:
    """A small byte-level tokenizer with this tokenizer_config.json."""
    tokenizer = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    result = compile_tokenizer(folder, {})
    assert result.has_chat == bool(config.get("chat_template")) or (folder / "chat_template.jinja").exists()
    if "im_end" in (result.chat_template or ""):
        assert result.chat_end == tokenizer.token_to_id("<|im_end|>")
    return Tokenizer(result.data)


@pytest.mark.parametrize("name", [*WITH_SYSTEM, *WITHOUT_SYSTEM])
def test_in_c(tmp_path: Path, name: str) -> None:
    source = (WITH_SYSTEM | WITHOUT_SYSTEM)[name]
    ours = bundle(tmp_path, {"chat_template": source, **SPECIAL})
    assert ours.has_chat
    for messages in CONVERSATIONS:
        if name in WITH_SYSTEM:
            messages = [(SYSTEM, "\x1f\u2003Be\u2003brief.\u00a0\x85"), *messages]
        text, place = "", START
        for role, content in messages:
            text += ours.between(place, role) + ours.trim(role, content)
            place = role
        assert text + ours.between(place, ANSWER) == reference(source, messages)


def test_c_errors(tmp_path: Path) -> None:
    none = bundle(tmp_path / "none", {})
    assert not none.has_chat
    with pytest.raises(TokenizerError, match="no chat template"):
        none.between(START, USER)
    assert none.trim(USER, " a ") == " a "
    mistral = bundle(tmp_path / "mistral", {"chat_template": MISTRAL, **SPECIAL})
    for before, after, message in (
        (START, SYSTEM, "no system message"),
        (START, ASSISTANT, "do not begin with an? assistant"),
        (START, ANSWER, "needs a message"),
        (ASSISTANT, ANSWER, "answers a user message"),
        (USER, USER, "no user message after a user"),
        (4, 0, "no such place"),
    ):
        with pytest.raises(TokenizerError, match=message):
            mistral.between(before, after)


def test_where_templates_stand(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": MARKED}, {"name": "default", "template": CHATML}]
    assert bundle(tmp_path, {"chat_template": named}).between(START, USER) == "<|im_start|>user\n"
    (tmp_path / "chat_template.jinja").write_text(ZEPHYR)
    assert bundle(tmp_path, {"chat_template": CHATML, **SPECIAL}).between(START, USER) == "<|user|>\n"


def test_qwen_as_published() -> None:
    """The template beside the reference tokenizer, where there is one."""
    path = ROOT.parent / "shared" / "tokenizers" / "qwen2.5" / "tokenizer_config.json"
    source = json.loads(path.read_text()).get("chat_template") if path.exists() else None
    if source is None:
        pytest.skip(f"{path} has no chat template")
    for messages in CONVERSATIONS:
        assert compiled(source)[0].render(messages) == reference(source, messages)
