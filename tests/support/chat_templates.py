"""Chat templates and conversations for the tests: templates as models have them, and conversations that are hard."""

from __future__ import annotations

import random

from support.paths import DATA

FOLDER = DATA / "chat_templates"

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
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {{- message.tool_calls[0].function.arguments | tojson(indent=4) }}
    {%- endif %}
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

# As DeepSeek-R1's: only what follows the reasoning of earlier answers is kept, and an answer begins with reasoning.
R1 = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_tool=false, system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<\uff5cUser\uff5c>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is none %}{%- for tool in message['tool_calls'] %}{{ tool['type'] }}{%- endfor %}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is not none %}{%- if ns.is_tool %}{%- set ns.is_tool = false -%}{%- else %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<\uff5cAssistant\uff5c>' + content + '</s>'}}{%- endif %}{%- endif %}{%- endfor -%}{% if add_generation_prompt and not ns.is_tool %}{{'<\uff5cAssistant\uff5c><think>\\n'}}{% endif %}"""  # noqa: E501

# As Gemma 3's: the system message stands before the first user message, contents may be lists of parts.
GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\n'}}
{%- endif -%}
"""  # noqa: E501

# Much of what the language has: macros, selections, blocks that are caught, modes in the system message, a switch.
MODES = """{%- macro turn(role, text, end='<|im_end|>') -%}<|im_start|>{{ role }}{{ '\n' ~ text ~ end ~ '\n' }}{%- endmacro -%}
{%- set systems = messages | selectattr('role', 'equalto', 'system') | list -%}
{%- set rest = messages | rejectattr('role', 'equalto', 'system') | list -%}
{%- set mode = 'think' if thinking is not defined or thinking else 'no_think' -%}
{%- if systems | length > 0 -%}
    {%- set text = systems[0].content -%}
    {%- if '/no_think' in text -%}{%- set mode = 'no_think' -%}{%- elif '/think' in text -%}{%- set mode = 'think' -%}{%- endif -%}
    {%- set text = text.replace('/no_think', '').replace('/think', '').rstrip() -%}
{%- else -%}
    {%- set text = 'Today is ' + strftime_now('%A, %-d %B %Y') + '.' -%}
{%- endif -%}
{%- set head %}## Mode: {{ mode | upper }}, {{ rest | length }} messages
{{ text | default('none', true) }}{% endset -%}
{{- turn('system', head) -}}
{%- for message in rest if message.content -%}
    {%- if message.role == 'assistant' and '</think>' in message.content and not loop.last -%}
        {{- turn(message.role, message.content.rpartition('</think>')[2].lstrip()) -}}
    {%- else -%}
        {{- turn(message.role, text=message.content, end='' if loop.last and message.role == 'assistant' else '<|im_end|>') -}}
    {%- endif -%}
{%- else -%}
    {{- turn('user', 'nothing') -}}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant{{ '\n' }}{% if mode == 'no_think' %}<think>\n\n</think>\n{% endif %}{%- endif -%}
"""  # noqa: E501

TEMPLATES = {
    "ChatML": CHATML,
    "Qwen2.5": QWEN25,
    "Llama-3.2": LLAMA32,
    "Llama-2": LLAMA2,
    "Zephyr": ZEPHYR,
    "BitNet": BITNET,
    "Mistral": MISTRAL,
    "system in the last turn": SYSTEM_LAST,
    "generation blocks": MARKED,
    "R1": R1,
    "Gemma": GEMMA,
    "modes": MODES,
    **{path.stem: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.jinja"))},
}

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

CONTROL_TOKENS = (
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<\uff5cUser\uff5c>",
    "<\uff5cAssistant\uff5c>",
)
ADDED_TOKENS = ("<think>", "</think>", "<tool_response>", "</tool_response>")
"""Tokens that are not special, as Qwen3 has them."""

_WORDS = (
    "What is water?",
    "Water is wet.",
    "it's 13",
    "na\u00efve \u6f22\u5b57 \U0001f389 e\u0301",
    "<b>&amp;</b>",
    '"quoted" \\ back\\nslash',
    "{{ messages }} {% raw %} {# x #}",
    "user",
    "assistant\n",
    "/think",
    "/no_think ",
    "[INST] [/INST] <<SYS>>",
    "CONTINUE_FINAL_MESSAGE_TAG ",
    "</think",
    "think>",
    "0",
    "\x00\x7f",
)
_SPACE = (" ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", "\u2028", "\x1c\x1f", "\x85", "\u200b")


def content(choose: random.Random) -> str:
    """A message's content: words, white space, markers, reasoning; or nothing."""
    kind = choose.random()
    if kind < 0.1:
        return choose.choice(("", *_SPACE, *ADDED_TOKENS, *CONTROL_TOKENS))
    if kind < 0.3:
        inner = "".join(choose.choice((*_WORDS, *_SPACE)) for _ in range(choose.randrange(4)))
        gap = "".join(choose.choice(_SPACE) for _ in range(choose.randrange(3)))
        return f"<think>{inner}</think>{gap}{choose.choice(_WORDS)}"
    if kind < 0.36:
        return f"<tool_response>{choose.choice(_WORDS)}</tool_response>"
    parts = (_WORDS, _SPACE, ADDED_TOKENS, CONTROL_TOKENS)
    weights = (5, 3, 2, 1)
    return "".join(choose.choice(choose.choices(parts, weights)[0]) for _ in range(choose.randrange(1, 8)))


def conversation(choose: random.Random) -> list[tuple[str, str]]:
    """(role, content) of every message: mostly in turns, sometimes not; often with reasoning in it."""
    roles = ["system"] if choose.random() < 0.4 else []
    for _ in range(choose.randrange(4)):
        roles += ["user", "assistant"]
    if choose.random() < 0.8 or not roles:
        roles.append("user")
    while choose.random() < 0.25:
        roles.insert(choose.randint(0, len(roles)), choose.choice(("user", "assistant", "assistant", "system")))
    return [(role, content(choose)) for role in roles]


CHAT_TEMPLATE = (
    "{% for message in messages %}<|endoftext|>{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|endoftext|>assistant:{% endif %}"
)
"""One that writes roles and contents one after another."""
