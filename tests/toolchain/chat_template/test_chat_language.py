"""The language of chat templates: what the runtime makes of an expression is what Jinja makes of it, or it refuses."""
# ruff: noqa: E501 (templates are read better in one line)

from __future__ import annotations

import ctypes
import datetime
import random

import jinja2
import jinja2.meta
import pytest
from mobile_bundle.chat_template.compiler import compile_tree
from mobile_bundle.chat_template.environment import make_environment, render
from mobile_bundle.chat_template.program import TooLarge
from mobile_bundle.native import chat as runtime
from support.tokenizer_library import ChatOptions, Message, library

NOW = datetime.datetime(2026, 11, 3, 14, 5, 9)
CANNOT = "CANNOT"
FAILS = "FAILS"


def in_jinja(source: str, messages: list[tuple[str, str]], now: datetime.datetime = NOW) -> str:
    """What the template says; FAILS when it raises."""
    try:
        return render(make_environment(now).from_string(source), messages, {"tools": None, "documents": None})
    except Exception:  # whatever it may raise
        return FAILS


def compiled_sections(source: str, now: datetime.datetime) -> tuple[bytes, bytes]:
    """A template's program and texts."""
    environment = make_environment(now)
    tree = environment.parse(source)
    variables = jinja2.meta.find_undeclared_variables(tree)
    return compile_tree(tree, variables, {"tools": None, "documents": None}).sections()


class Compiled:
    """A template as the runtime has it, without the proof."""

    def __init__(self, source: str, now: datetime.datetime = NOW) -> None:
        self._section, self._texts = compiled_sections(source, now)
        self._now = now

    def __call__(self, messages: list[tuple[str, str]]) -> str:
        """What it says; FAILS or CANNOT when it refuses."""
        said = runtime.render(self._section, self._texts, messages, None, self._now)
        if said.text is not None:
            return said.text
        return FAILS if said.error.startswith("refuses: ") else CANNOT


SAME = [
    # values and their truth
    "{{ 1 }} {{ true }} {{ false }} {{ none }} {{ nothing }} {{ -5 }} {{ 'a' }}",
    "{{ 'y' if 0 else 'n' }}{{ 'y' if '' else 'n' }}{{ 'y' if [] else 'n' }}{{ 'y' if {} else 'n' }}{{ 'y' if x else 'n' }}",
    "{{ 'y' if messages }}{{ 'y' if namespace() }}{{ 'y' if raise_exception }}[{{ 'y' if none }}]",
    "{{ '' or 'b' }}{{ 'a' and 0 }}{{ none or false }}{{ not x }}{{ x or 'd' }}{{ 1 and 2 and 3 }}",
    # comparisons
    "{{ 1 == true }}{{ 1 == '1' }}{{ none == false }}{{ x == y }}{{ x == none }}{{ 'a' == 'a' }}{{ 'a' != 'b' }}{{ [] == 1 }}",
    "{{ 1 < 2 }}{{ 2 <= 1 }}{{ 1 < 2 < 3 }}{{ 3 > 2 > 2 }}{{ 'a' < 'b' }}{{ '\u00e9' > 'z' }}{{ '\U0001f389' > '\uffff' }}",
    "{{ 'a' in 'abc' }}{{ '' in 'abc' }}{{ 'x' not in 'abc' }}{{ 1 in [1, 2] }}{{ true in [1] }}{{ 'a' in ('a',) }}{{ 'a' in x }}",
    "{{ 'role' in messages[0] }}{{ 'tool_calls' in messages[0] }}{{ 'a' in {'a': 1} }}{{ messages[0].role in ['user', 'tool'] }}",
    # numbers
    "{{ 7 + 3 }} {{ 7 - 10 }} {{ 7 * 3 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ true + 1 }}",
    "{{ 1 // 0 }}", "{{ 1 % 0 }}", "{{ 'a' + 1 }}", "{{ x + 'a' }}", "{{ none + 'a' }}", "{{ [1] + 'a' }}",
    "{{ 'a' ~ 1 ~ none ~ true ~ x }}{{ 'a' + 'b' }}{{ ([1] + [2]) | length }}{{ (messages + messages) | length }}",
    "{{ 1 in 'a' }}", "{{ 'a' in 1 }}",
    # items, attributes and slices
    "{{ messages[0].role }}{{ messages[0]['role'] }}{{ messages[-1].role }}[{{ messages[99] }}][{{ messages[0].foo }}]",
    "{{ messages[99].role }}", "{{ x.y }}", "{{ x['y'] }}", "{{ x.y is defined }}", "{{ x[1:] }}",
    "[{{ none.foo }}][{{ none['foo'] }}][{{ 'abc'.foo }}][{{ messages.foo }}][{{ messages['foo'] }}][{{ 'abc'[none] }}]",
    "{{ 'h\u00e9llo'[1] }}{{ 'h\u00e9llo'[-1] }}[{{ 'abc'[3] }}]{{ 'abc'[true] }}{{ messages[0].role[0] }}",
    "{{ messages[1:] | length }}{{ messages[::-1][0].role }}{{ messages[:-1] | length }}{{ messages[::2] | length }}"
    "{{ messages[5:1] | length }}{{ messages[-100:100] | length }}{{ messages[3:0:-1] | length }}{{ messages[::-7] | length }}",
    "{{ 'h\u00e9llo w\u00f6rld'[1:4] }}{{ 'abc'[:-1] }}{{ 'abc'[-2:] }}{{ 'abc'[5:] }}{{ 'abc'[2:1] }}{{ 'abc'[:] }}",
    "{{ {'a': 1, 'b': {'c': 'd'}}.b.c }}{{ {'a': 1}['a'] }}[{{ {'a': 1}.b }}]{{ {'a': 1}.get('a') }}{{ {'a': 1}.get('b', 'c') }}{{ {}.get('x') }}",
    "{{ messages[0].get('content') }}{{ messages[0].get('tool_calls') }}{{ dict(a=1, b='x').b }}",
    # names and scopes
    "{% set a = 1 %}{% for m in messages %}{{ a }}{% set a = a + 1 %}{{ a }}{% endfor %}{{ a }}",
    "{% set ns = namespace(n=0, t='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.t = ns.t + m.role %}{% endfor %}{{ ns.n }}{{ ns.t }}[{{ ns.zzz }}]",
    "{% if true %}{% set a = 1 %}{% endif %}{{ a }}{% if false %}{% set b = 1 %}{% endif %}[{{ b }}]",
    "{% set messages = messages[1:] %}{{ messages | length }}{% for m in messages %}{% set messages = [] %}{{ messages | length }}{% endfor %}{{ messages | length }}",
    "{% for m in messages %}{% for n in messages %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% set x.y = 1 %}", "{% set q = {} %}{% set q.y = 1 %}",
    "{% with a = 5 %}{{ a }}{% set b = 6 %}{{ b }}{% endwith %}[{{ a }}{{ b }}]",
    "{% set t %}a{% set inner = 1 %}{{ 1 }}\n{% endset %}[{{ t }}][{{ inner }}]{{ t | length }}",
    # loops
    "{% for m in messages %}{{ loop.index0 }}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }};{% endfor %}",
    "{% for m in messages %}{{ loop.previtem.role if not loop.first }}{{ loop.nextitem.role if loop.nextitem is defined }}{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content }}{% else %}none{% endfor %}",
    "{% for m in messages if m.role == 'nobody' %}x{% else %}none{% set z = 1 %}{% endfor %}{{ z }}",
    "{% for m in [] %}x{% else %}e{% endfor %}{% for m in x %}x{% else %}u{% endfor %}{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %}",
    "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{{ loop.index }}{% if loop.index == 3 %}{% break %}{% endif %}{% endfor %}",
    "{% for m in messages %}{% for n in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ n.role }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% for i in range(3) %}{{ i }}{% endfor %}{% for i in range(5, 1, -2) %}{{ i }}{% endfor %}{{ range(2, 9, 3) | list | length }}{{ range(0) | list | length }}",
    "{% for i in 5 %}{% endfor %}", "{{ range(1000000) | list | length }}", "{{ range(1, 5, 0) | list }}",
    # macros
    "{% macro f(a, b='B') %}<{{ a }}{{ b }}{{ c }}>{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(b=3, a=4) }}{{ f() }}{% set c = 'C' %}{{ f('x') }}",
    "{% macro f(a) %}{{ messages | length }}{{ loop is defined }}{{ m is defined }}{% endmacro %}{% for m in messages %}{{ f(m) }}{% endfor %}",
    "{% macro g(x) %}({{ x }}){% endmacro %}{% macro f(a) %}{{ g(a) + g(a ~ '!') }}{% endmacro %}{{ f('q') | upper }}",
    "{% macro f() %}{% set inner = 1 %}{{ inner }}{% endmacro %}{{ f() }}[{{ inner }}]",
    # tests
    "{{ x is defined }}{{ x is undefined }}{{ none is none }}{{ 'a' is string }}{{ {} is mapping }}{{ [] is iterable }}{{ x is iterable }}{{ 1 is iterable }}",
    "{{ [] is sequence }}{{ 'a' is sequence }}{{ 1 is number }}{{ true is number }}{{ true is integer }}{{ 1 is integer }}{{ true is boolean }}{{ 1 is boolean }}",
    "{{ true is true }}{{ 1 is true }}{{ false is false }}{{ none is false }}{{ 3 is odd }}{{ 3 is even }}{{ 4 is divisibleby(2) }}{{ 1 is eq(1) }}{{ 1 is ne 2 }}{{ 'a' is in 'abc' }}",
    "{{ raise_exception is defined }}{{ strftime_now is defined }}{{ range is defined }}{{ messages is string }}{{ messages[0].content is string }}",
    # filters
    "{{ messages | length }}{{ 'h\u00e9' | length }}{{ x | length }}{{ {'a': 1} | count }}[{{ x | trim }}][{{ '  a ' | trim }}][{{ 'xxaxx' | trim('x') }}]",
    "{{ x | default('d') }}{{ '' | default('d') }}{{ '' | default('d', true) }}{{ none | d('d') }}{{ none | d('d', boolean=true) }}{{ x | d }}",
    "{{ 'aBc dEf-gh(i' | upper }}{{ 'aBc' | lower }}{{ 'aBc dEf' | capitalize }}{{ \"aBc dEf-gh(i it's\" | title }}{{ 1 | string }}{{ none | upper }}",
    "{{ 'a.b.a' | replace('a', 'X') }}{{ ['a', 1, none] | join(', ') }}{{ ['a', 'b'] | join }}{{ ['a'] | first }}{{ ['a', 'b'] | last }}[{{ [] | first }}]{{ 'h\u00e9' | last }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{% for m in messages | rejectattr('role', 'eq', 'user') %}{{ m.content }}{% endfor %}{{ (messages | selectattr('content') | first).content }}",
    "{{ {'a': [1, true, none, 'q\"\\\\\n\u00e9\x01\x7f'], 'b': {}} | tojson }}{{ 'x</y>&' | tojson }}{{ messages[0] | tojson }}{{ [] | tojson }}",
    "{{ x | tojson }}", "{{ 5 | length }}", "{{ none | length }}",
    # methods
    "{{ \"aBc dEf-gh(i it's 1a\".title() }}{{ 'aBC dEF'.capitalize() }}{{ 'aB'.upper() }}{{ 'aB'.lower() }}{{ ''.capitalize() }}",
    "{{ 'a,b,,c'.split(',') | join('|') }}{{ 'a,b,,c'.split(',', 1) | join('|') }}{{ 'a,b,,c'.rsplit(',', 1) | join('|') }}{{ ' a  b\tc '.split() | join('|') }}{{ ''.split() | length }}{{ ''.split(',') | length }}",
    "{{ 'a,b'.split(sep=',', maxsplit=0) | join('|') }}{{ 'aaa'.split('aa') | join('|') }}{{ 'aaa'.rsplit('aa') | join('|') }}{{ 'a b'.split(none) | join('|') }}",
    "{{ 'abc'.split('') }}", "{{ 'abc'.split(1) }}", "{{ x.split('a') }}", "{{ none.strip() }}", "{{ 'a'.join([1]) }}", "{{ 'a'.partition('') }}",
    "{{ 'a=b=c'.partition('=') | join('|') }}{{ 'a=b=c'.rpartition('=') | join('|') }}{{ 'abc'.partition('=') | join('|') }}{{ 'abc'.rpartition('=') | join('|') }}",
    "{{ 'h\u00e9llo'.find('l') }}{{ 'h\u00e9llo'.rfind('l') }}{{ 'abc'.find('z') }}{{ 'abc'.find('') }}{{ 'abc'.rfind('') }}{{ 'aaaa'.count('aa') }}{{ 'h\u00e9'.count('') }}",
    "{{ 'abcab'.removeprefix('ab') }}{{ 'abcab'.removesuffix('ab') }}{{ 'abc'.removeprefix('x') }}{{ 'abc'.startswith('') }}{{ 'abc'.endswith('bc') }}{{ '-'.join(['a', 'b']) }}",
    "{{ 'aXbXc'.replace('X', '--') }}{{ 'aXbXc'.replace('X', '', 1) }}{{ 'aXbXc'.replace('X', 'XX', -1) }}{{ 'aXbXc'.replace('X', 'y', 0) }}{{ '\u00e9\u00e9'.replace('\u00e9', 'e') }}",
    "[{{ ' \u3000a\u00a0'.strip() }}][{{ 'xyaxy'.strip('yx') }}][{{ '\u00e9a\u00e8'.strip('\u00e8\u00e9') }}][{{ '\n\na\n'.lstrip('\n') }}][{{ 'a '.rstrip(none) }}][{{ 'aa'.strip('a') }}][{{ 'a'.strip('') }}]",
    # errors of its own, and what is not reached
    "{{ raise_exception('no') }}", "{% if false %}{{ raise_exception('no') }}{% endif %}ok", "{% if tools %}{{ tools | pprint }}{% endif %}ok",
    "{{ strftime_now('%Y-%m-%d') }} {{ strftime_now('%-d %B %y, %A %H:%M:%S %p %I %j %e %F %T %D %R %% %a %b %h%n%t') }}",
    "{# comment #}\n  {%- if true -%}\n  a\n  {%- endif %}\nb {{- 'c' -}} \n d{% raw %}{{ x }}{% endraw %}",
]  # fmt: skip
"""Templates whose every operation the runtime has."""

REFUSED = [
    "{{ messages }}", "{{ [1] }}", "{{ {} }}", "{{ 1.5 }}", "{{ 3 / 2 }}", "{{ 2 ** 3 }}", "{{ 'a' * 3 }}", "{{ 99999999999 }}",
    "{{ messages.copy }}", "{{ 5[1:] + 1 }}", "{{ messages[0].items }}", "{{ messages[0]['items'] }}", "{{ 'abc'.upper }}", "{{ 'abc'.format() }}",
    "{{ messages[0].keys() | length }}", "{{ {'items': 1}.items }}", "{{ 'a,b c'.split(none, 1) | join }}", "{{ 'abc'[::-1] }}",
    "{{ '\u00e9' | upper }}", "{{ '\u00df'.upper() }}", "{{ 'abc'.replace('', 'x') }}", "{{ 'abc'.startswith(('a', 'b')) }}",
    "{{ [1] == [1] }}", "{{ messages[0] == messages[0] }}", "{{ 1 < 'a' }}", "{% for c in 'abc' %}{{ c }}{% endfor %}", "{{ 'abc' | list }}",
    "{{ 'abc' | reverse }}", "{{ [3, 1] | sort | join }}", "{{ 'abc' | safe }}", "{{ messages | map(attribute='role') | join }}",
    "{{ caller() }}", "{{ foo() }}", "{{ range }}", "{{ loop.index }}", "{{ 'a' | tojson(indent=2) }}", "{{ lipsum() }}",
    "{{ f() }}{% macro f() %}x{% endmacro %}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% if true %}{% macro f() %}x{% endmacro %}{% endif %}{{ f() }}", "{% macro f() %}{{ varargs }}{% endmacro %}{{ f(1) }}",
    "{% call(x) f() %}{% endcall %}", "{% filter upper %}a{% endfilter %}", "{% block b %}a{% endblock %}",
    "{% for m in messages recursive %}a{% endfor %}", "{% set a, b = 1, 2 %}", "{% for m in messages %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{{ messages | selectattr('role', 'equalto', 'user') | length }}", "{{ 9223372036854775807 }}", "{{ strftime_now('%c') }}", "{{ strftime_now(x) }}",
]  # fmt: skip
"""Templates with something that the runtime does not have, or that Jinja refuses, too."""

MESSAGES = [("system", "Be brief."), ("user", "Hi, \u00e9"), ("assistant", ""), ("user", "a<think>b</think>c")]


@pytest.mark.parametrize("source", SAME)
def test_it_is_what_jinja_makes_of_it(source: str) -> None:
    said = Compiled(source)(MESSAGES)
    expected = in_jinja(source, MESSAGES)
    assert said == expected or (said == CANNOT and expected == FAILS)


@pytest.mark.parametrize("source", REFUSED)
def test_what_it_does_not_have_is_refused(source: str) -> None:
    """Or it is nothing that Jinja has, either; never is anything else written."""
    said = Compiled(source)(MESSAGES)
    assert said in (CANNOT, FAILS) or (said == "" and in_jinja(source, MESSAGES) == "")


METHODS = (
    "c.strip()", "c.lstrip()", "c.rstrip()", "c.strip('\\n')", "c.lstrip('a\\n')", "c.rstrip('\u00e9 ')", "c | trim", "c | length",
    "c.split('a') | join('|')", "c.split('ab') | join('|')", "c.split('a', 2) | join('|')", "c.rsplit('ab') | join('|')",
    "c.rsplit('aa', 2) | join('|')", "c.split() | join('|')", "c.split('\u00e9')[-1]", "c.split('a')[0]", "c.partition('ab') | join('|')",
    "c.rpartition('ab') | join('|')", "c.find('ab')", "c.rfind('ab')", "c.find('\u00e9')", "c.count('aa')", "c.replace('ab', 'X')",
    "c.replace('a', 'aa', 2)", "c.startswith('a')", "c.endswith('b\\n')", "c.removeprefix('ab')", "c.removesuffix(' ')", "c[1:]", "c[:-1]",
    "c[2:5]", "c[-3:]", "c[0]", "c[-1]", "'ab' in c", "c | first", "c | last", "c | tojson", "c == 'ab'", "c < 'b'", "c > '\u00e9'",
    "c ~ c", "c + 'x'", "'y' if c else 'n'", "c.strip() == c", "c.split('a') | length", "c | replace('b', '\u00e9')", "c.count('')",
)  # fmt: skip


@pytest.mark.parametrize("expression", METHODS)
def test_texts_of_every_kind(expression: str) -> None:
    """400 random texts of few characters, so that what is looked for is there, at the ends and more than once."""
    source = "{% set c = messages[0].content %}[{{ " + expression + " }}]"
    compiled = Compiled(source)
    choose = random.Random(expression)
    template = make_environment(NOW).from_string(source)
    for _ in range(400):
        text = "".join(choose.choice("aab \n\u00e9\u3000\U0001f389") for _ in range(choose.randrange(12)))
        assert compiled([("user", text)]) == render(template, [("user", text)], {}), text


def test_dates() -> None:
    """Every form of every tenth day of three years, against Python's strftime."""
    forms = [f"%{letter}" for letter in "aAbBhpFTDRnt%dHIjmMSyeY"] + [f"%-{letter}" for letter in "dHIjmMSy"]
    source = "".join(f"{{{{ strftime_now('{form}') }}}}|" for form in forms) + "{{ messages[0].content }}"
    now = datetime.datetime(2024, 1, 1, 0, 0, 0)
    while now.year < 2027:
        assert Compiled(source, now)([("user", "x")]) == in_jinja(source, [("user", "x")], now)
        now += datetime.timedelta(days=10, hours=5, minutes=7, seconds=13)


def rendered(source: str, options: ChatOptions | None) -> tuple[int, bytes]:
    """mb_chat_render_program of one message: the status, and the text or the reason."""
    section, texts = compiled_sections(source, NOW)
    aligned = (ctypes.c_uint64 * (len(section) // 8 + 1))()
    ctypes.memmove(aligned, section, len(section))
    text, size, count = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t
    status = library().mb_chat_render_program(
        aligned, count(len(section)), texts, count(len(texts)), ctypes.byref(Message(1, b"Hi", 2)), count(1),
        None if options is None else ctypes.byref(options), ctypes.byref(text), ctypes.byref(size),
    )  # fmt: skip
    if status:
        return status, library().mb_error_message()
    result = ctypes.string_at(text, size.value)
    library().mb_chat_free(text)
    return status, result


def test_options_are_optional_and_say_their_size() -> None:
    said, date = "{{ messages[0].content }}", "{{ strftime_now('%Y') }}"
    assert rendered(said, None) == (0, b"Hi")
    assert rendered(said, ChatOptions(size=ChatOptions.now.offset)) == (0, b"Hi")  # of an older header
    assert rendered(date, None) == (1, b"the model's chat template writes the date, and the time was not given")
    status, reason = rendered(said, ChatOptions(size=0))
    assert (status, b"sizeof(mb_chat_options)" in reason) == (1, True)


def test_a_template_that_never_ends_is_stopped() -> None:
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    for source in (
        loops,
        "{% set ns = namespace(t='a') %}{% for i in range(99999) %}{% set ns.t = ns.t + ns.t %}{% endfor %}",
        "{% set t = messages[0].content %}{% for i in range(99999) %}{{ t.split('a') | length }}{% endfor %}",
        "{% set t = messages[0].content %}{% for i in range(99999) %}{{ t }}{% endfor %}",
        "{% set t = messages[0].content %}{% for i in range(99999) %}{{ t.find(t[1:] + 'b') }}{% endfor %}",
    ):
        compiled = Compiled(source)
        said = runtime.render(compiled._section, compiled._texts, [("user", "a" * 100_000)], None, NOW)
        assert said.text is None
        assert "too long" in said.error or "no memory" in said.error


@pytest.mark.slow
def test_what_is_too_large_for_the_format() -> None:
    with pytest.raises(TooLarge):
        Compiled("{{ 'a'" + " + 'a'" * 200 + " }}")
    with pytest.raises(TooLarge):
        Compiled("{{ x }}" * 40_000)
