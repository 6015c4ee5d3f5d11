"""From a Jinja syntax tree to a program for the runtime.

Nothing is approximated. What the runtime does not do as Jinja does becomes an operation that fails with its reason when
it is reached, so that the parts of a template that need tools or images do not stand in the way of a conversation.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from jinja2 import nodes

from mobile_bundle.chat_template import program as p
from mobile_bundle.chat_template.environment import GENERATION

_BINARY = {
    nodes.Add: "ADD",
    nodes.Sub: "SUBTRACT",
    nodes.Mul: "MULTIPLY",
    nodes.FloorDiv: "FLOOR_DIVIDE",
    nodes.Mod: "MODULO",
}
_LOGIC = {nodes.And: "AND", nodes.Or: "OR"}
_COMPARISONS = {
    "eq": "EQUAL",
    "ne": "NOT_EQUAL",
    "lt": "LESS",
    "lteq": "LESS_EQUAL",
    "gt": "GREATER",
    "gteq": "GREATER_EQUAL",
    "in": "IN",
    "notin": "NOT_IN",
}
_COMPARING_TESTS = {
    **dict.fromkeys(("eq", "equalto", "=="), "EQUAL"),
    **dict.fromkeys(("ne", "!="), "NOT_EQUAL"),
    **dict.fromkeys(("lt", "lessthan", "<"), "LESS"),
    **dict.fromkeys(("le", "<="), "LESS_EQUAL"),
    **dict.fromkeys(("gt", "greaterthan", ">"), "GREATER"),
    **dict.fromkeys(("ge", ">="), "GREATER_EQUAL"),
    "in": "IN",
}
_FILTER_NAMES = {"count": "LENGTH", "d": "DEFAULT"}

# How many arguments a method, filter or test takes, and their names.
_METHOD_ARGUMENTS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("SPLIT", "RSPLIT"), (0, 2)),
    **dict.fromkeys(("STRIP", "LSTRIP", "RSTRIP"), (0, 1)),
    **dict.fromkeys(("UPPER", "LOWER", "TITLE", "CAPITALIZE"), (0, 0)),
    "REPLACE": (2, 3),
    "GET": (1, 2),
}
_FILTER_ARGUMENTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "TRIM": (0, ("chars",)),
    "DEFAULT": (0, ("default_value", "boolean")),
    "REPLACE": (2, ("old", "new")),
    "JOIN": (0, ("d",)),
}
_NAMED_METHOD_ARGUMENTS = {"SPLIT": ("sep", "maxsplit"), "RSPLIT": ("sep", "maxsplit")}

_FUNCTIONS = {"range", "dict", "lipsum", "cycler", "joiner", "namespace", "raise_exception", "strftime_now"}
_DATE_FORMAT = re.compile(r"(?:[^%]|%-?[dHIjmMSyeY]|%[aAbBhpFTDRnt%])*", re.DOTALL)
_OWNERS: tuple[tuple[int, tuple[type, ...]], ...] = (
    (p.OF_TEXT, (str,)),
    (p.OF_LIST, (list, tuple)),
    (p.OF_MAP, (dict,)),
    (p.OF_NUMBER, (int,)),
)
_THINKING_NAMES = ("enable_thinking", "thinking")


class _Cannot(Exception):
    """Raised for what cannot be compiled. The message completes "what this program cannot do exactly:"."""


def thinking_variable(variables: Collection[str]) -> str | None:
    """The template's variable that switches thinking, or None."""
    return next((name for name in _THINKING_NAMES if name in variables), None)


def compile_tree(tree: nodes.Template, variables: Collection[str], constants: Mapping[str, Any]) -> p.Program:
    """Compiles a template.

    variables: what the template leaves to its caller. constants: values for some of them, JSON without fractions.
    Raises program.TooLarge, and UnicodeEncodeError for a text with half a surrogate pair.
    """
    return _Compiler(tree, variables, constants).run()


class _Compiler:
    def __init__(self, tree: nodes.Template, variables: Collection[str], constants: Mapping[str, Any]) -> None:
        self._tree = tree
        self._program = p.Program()
        self._variables = variables
        self._constants = constants
        self._macros: dict[str, tuple[int, list[str]]] = {}
        self._stored = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
        self._defined = [macro.name for macro in tree.find_all(nodes.Macro)]
        self._loops = 0  # how many loops the present place is in

    def run(self) -> p.Program:
        """See compile_tree."""
        given = {"messages": "MESSAGES", "add_generation_prompt": "ADD_GENERATION_PROMPT"}
        thinking = thinking_variable(self._variables)
        if thinking and thinking not in self._constants:
            given[thinking] = "THINKING"
            self._program.has_thinking = True
        start = [self._set(name, self._add(op)) for name, op in given.items() if name in self._variables]
        for name, value in self._constants.items():
            if name in self._variables:
                start.append(self._set(name, self._guarded(functools.partial(self._constant, value))))
        self._add("BLOCK", [*start, *(self._statement(node) for node in self._tree.body)])
        return self._program

    def _add(self, op: str, children: Sequence[int] = (), value: int = 0, variant: int = 0) -> int:
        return self._program.add(op, children, value, variant)

    def _set(self, name: str, value: int) -> int:
        return self._add("SET", [value], self._program.text(name))

    def _guarded(self, make: Callable[[], int]) -> int:
        """An expression, or the operation that says why it cannot be."""
        try:
            return make()
        except _Cannot as error:
            return self._add("CANNOT", value=self._program.text(str(error)))

    # Statements.

    def _statements(self, body: Sequence[nodes.Node]) -> int:
        return self._add("BLOCK", [self._statement(node) for node in body])

    def _scope(self, body: Sequence[nodes.Node]) -> int:
        return self._add("SCOPE", [self._statements(body)])

    def _statement(self, node: nodes.Node) -> int:
        try:
            return self._known_statement(node)
        except _Cannot as error:
            return self._add("OUTPUT", [self._add("CANNOT", value=self._program.text(str(error)))])

    def _known_statement(self, node: nodes.Node) -> int:
        match node:
            case nodes.Output():
                parts = [
                    self._text(part.data) if isinstance(part, nodes.TemplateData) else self._expression(part)
                    for part in node.nodes
                ]
                return self._add("BLOCK", [self._add("OUTPUT", [part]) for part in parts])
            case nodes.If():
                return self._if(node)
            case nodes.For():
                return self._for(node)
            case nodes.Assign():
                return self._assign(node)
            case nodes.AssignBlock(target=nodes.Name(name=name), filter=None):
                return self._add("CAPTURE", [self._statements(node.body)], self._program.text(name))
            case nodes.Break():
                return self._add("BREAK")
            case nodes.Continue():
                return self._add("CONTINUE")
            case nodes.Scope():
                return self._scope(node.body)
            case nodes.With(targets=[nodes.Name(name=name)]):
                inner = self._set(name, self._expression(node.values[0]))
                return self._add("SCOPE", [self._add("BLOCK", [inner, self._statements(node.body)])])
            case nodes.CallBlock(call=nodes.Call(node=nodes.ExtensionAttribute(name=name))) if name == GENERATION:
                return self._scope(node.body)
            case nodes.Macro():
                return self._macro(node)
        raise _Cannot(f"a {_tag(node)} block")

    def _if(self, node: nodes.If) -> int:
        children = []
        for branch in (node, *node.elif_):
            children += [self._expression(branch.test), self._statements(branch.body)]
        if node.else_:
            children.append(self._statements(node.else_))
        return self._add("IF", children)

    def _for(self, node: nodes.For) -> int:
        if not isinstance(node.target, nodes.Name):
            raise _Cannot("a loop with more than one variable")
        if node.recursive:
            raise _Cannot("a recursive loop")
        iterated = self._expression(node.iter, consumed=True)
        variant = 0
        self._loops += 1
        children = [iterated, self._statements(node.body)]
        self._loops -= 1
        if node.test is not None:
            variant |= p.FOR_FILTER
            children.append(self._expression(node.test))
        if node.else_:
            variant |= p.FOR_OTHERWISE
            children.append(self._statements(node.else_))
        return self._add("FOR", children, self._program.text(node.target.name), variant)

    def _assign(self, node: nodes.Assign) -> int:
        match node.target:
            case nodes.Name(name=name):
                return self._set(name, self._expression(node.node))
            case nodes.NSRef(name=name, attr=attribute):
                if attribute.startswith("_"):
                    raise _Cannot("a name that begins with _")
                space = self._add("NAME", value=self._program.text(name))
                return self._add("SET_ATTRIBUTE", [space, self._expression(node.node)], self._program.text(attribute))
        raise _Cannot("an assignment to more than one variable")

    def _macro(self, node: nodes.Macro) -> int:
        """Defines a macro; it is put where it is called. Only what cannot be mistaken is one."""
        name = node.name
        if all(node is not other for other in self._tree.body) or self._defined.count(name) > 1 or name in self._stored:
            return self._add("BLOCK")  # its calls say that they cannot be
        parameters = [argument.name for argument in node.args]
        if {"caller", "varargs", "kwargs"} & {n.name for n in node.find_all(nodes.Name)}:
            return self._add("BLOCK")
        loops, self._loops = self._loops, 0
        defaults = [self._expression(default) for default in node.defaults]
        body = self._statements(node.body)
        self._loops = loops
        children = [body]
        for position, parameter in enumerate(parameters):
            default = position - (len(parameters) - len(defaults))
            own = [defaults[default]] if default >= 0 else []
            children.append(self._add("PARAMETER", own, self._program.text(parameter)))
        self._macros[name] = (self._add("MACRO", children), parameters)
        return self._add("BLOCK")

    # Expressions.

    def _text(self, text: str) -> int:
        return self._add("TEXT", value=self._program.text(text))

    def _constant(self, value: Any) -> int:
        match value:
            case None:
                return self._add("NONE")
            case bool():
                return self._add("BOOL", value=int(value))
            case int() if -(1 << 31) <= value < 1 << 31:
                return self._add("INT", value=value & 0xFFFFFFFF)
            case str():
                return self._text(value)
            case list() | tuple():
                return self._add("LIST", [self._constant(element) for element in value])
            case dict():
                pairs = [self._constant(part) for pair in value.items() for part in pair]
                return self._add("MAP", pairs)
        raise _Cannot(f"a value of the type {type(value).__name__}, or a very large number")

    def _expression(self, node: nodes.Node, consumed: bool = False) -> int:
        """consumed: what uses the value goes through it once, so that it may be a generator in Jinja."""
        return self._guarded(lambda: self._known_expression(node, consumed))

    def _known_expression(self, node: nodes.Node, consumed: bool) -> int:
        """What combines values stands here, with few calls for each level: templates nest it deeply."""
        match node:
            case nodes.Not():
                return self._add("NOT", [self._expression(node.node)])
            case nodes.Neg():
                return self._add("NEGATE", [self._expression(node.node)])
            case nodes.CondExpr():
                otherwise = self._expression(node.expr2) if node.expr2 is not None else self._add("UNDEFINED")
                return self._add("IF_ELSE", [self._expression(node.test), self._expression(node.expr1), otherwise])
            case nodes.Concat():
                return self._add("JOIN", [self._expression(part) for part in node.nodes])
            case nodes.BinExpr() if type(node) in _LOGIC | _BINARY:
                op = (_LOGIC | _BINARY)[type(node)]
                return self._add(op, [self._expression(node.left), self._expression(node.right)])
            case nodes.List() | nodes.Tuple():
                return self._add("LIST", [self._expression(item) for item in node.items])
        return self._value(node, consumed)

    def _value(self, node: nodes.Node, consumed: bool) -> int:
        match node:
            case nodes.Const():
                return self._constant(node.value)
            case nodes.TemplateData():
                return self._text(node.data)
            case nodes.Name():
                return self._name(node.name)
            case nodes.Dict():
                return self._add("MAP", [self._expression(e) for pair in node.items for e in (pair.key, pair.value)])
            case nodes.Getattr():
                return self._attribute(node)
            case nodes.Getitem():
                return self._item(node)
            case nodes.Compare():
                return self._compare(node)
            case nodes.Call():
                return self._call(node)
            case nodes.Filter():
                return self._filter(node, consumed)
            case nodes.Test():
                return self._test(node)
        raise _Cannot(f"the operation {type(node).__name__}")

    def _name(self, name: str) -> int:
        if name == "loop" and name not in self._stored:
            return self._add("LOOP") if self._loops else self._add("UNDEFINED")
        if name in self._defined and name not in self._stored:
            return self._add("FUNCTION")
        if name in _FUNCTIONS and name not in self._stored and name not in self._constants:
            return self._add("FUNCTION")
        return self._add("NAME", value=self._program.text(name))

    def _attribute(self, node: nodes.Getattr) -> int:
        if node.attr.startswith("_"):
            raise _Cannot("a name that begins with _")
        return self._add(
            "ATTRIBUTE", [self._expression(node.node)], self._program.text(node.attr), _owners_of(node.attr)
        )

    def _item(self, node: nodes.Getitem) -> int:
        value = self._expression(node.node)
        if isinstance(node.arg, nodes.Slice):
            bounds = [
                self._expression(bound) if bound is not None else self._add("NONE")
                for bound in (node.arg.start, node.arg.stop, node.arg.step)
            ]
            return self._add("SLICE", [value, *bounds])
        variant = p.OF_UNKNOWN
        if isinstance(node.arg, nodes.Const):
            variant = _owners_of(node.arg.value) if isinstance(node.arg.value, str) else 0
        return self._add("ITEM", [value, self._expression(node.arg)], variant=variant)

    def _compare(self, node: nodes.Compare) -> int:
        left, result = self._expression(node.expr), None
        for operand in node.ops:
            right = self._expression(operand.expr)
            one = self._add("COMPARE", [left, right], variant=p.COMPARISONS.index(_COMPARISONS[operand.op]))
            result, left = one if result is None else self._add("AND", [result, one]), right
        assert result is not None
        return result

    def _call(self, node: nodes.Call) -> int:
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise _Cannot("a call with * or **")
        match node.node:
            case nodes.Getattr(attr=name):
                return self._method(node, name)
            case nodes.Name(name=name) if name in self._macros:
                return self._macro_call(node, name)
            case nodes.Name(name=name) if name in _FUNCTIONS and name not in self._stored | set(self._constants):
                return self._function(node, name)
            case nodes.Name(name=name):
                raise _Cannot(f"a call of {name}")
        raise _Cannot("a call of what is not a name")

    def _method(self, node: nodes.Call, name: str) -> int:
        op = name.upper()
        if op not in p.METHODS or name != name.lower():
            raise _Cannot(f"the method {name}")
        given = self._arguments(node, _NAMED_METHOD_ARGUMENTS.get(op, ()), f"the method {name}")
        least, most = _METHOD_ARGUMENTS.get(op, (1, 1))
        if not least <= len(given) <= most:
            raise _Cannot(f"the method {name} with {len(given)} arguments")
        assert isinstance(node.node, nodes.Getattr)
        return self._add("METHOD", [self._expression(node.node.node), *given], variant=p.METHODS.index(op))

    def _arguments(self, node: nodes.Call | nodes.Filter | nodes.Test, names: Sequence[str], what: str) -> list[int]:
        """The arguments in their order; named ones only where nothing is left out before them."""
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise _Cannot(f"{what} with * or **")
        given = [self._expression(argument) for argument in node.args]
        named = {pair.key: pair.value for pair in node.kwargs}
        for name in names[len(given) :]:
            if name in named:
                given.append(self._expression(named.pop(name)))
            elif named:
                break
        if named:
            raise _Cannot(f"{what} with the argument {next(iter(named))}")
        return given

    def _macro_call(self, node: nodes.Call, name: str) -> int:
        macro, parameters = self._macros[name]
        given = self._arguments(node, parameters, f"the macro {name}")
        if len(given) > len(parameters):
            raise _Cannot(f"the macro {name} with {len(given)} arguments")
        return self._add("CALL", [macro, *given])

    def _function(self, node: nodes.Call, name: str) -> int:
        match name, node.args:
            case "raise_exception", [message] if not node.kwargs:
                return self._add("RAISE", [self._expression(message)])
            case "strftime_now", [nodes.Const(value=str(form))] if not node.kwargs:
                if not _DATE_FORMAT.fullmatch(form):
                    raise _Cannot(f"a date in the form {form}")
                return self._add("DATE", value=self._program.text(form))
            case (("namespace" | "dict"), []):
                pairs = []
                for pair in node.kwargs:
                    if pair.key.startswith("_"):
                        raise _Cannot("a name that begins with _")
                    pairs += [self._text(pair.key), self._expression(pair.value)]
                return self._add("NAMESPACE" if name == "namespace" else "MAP", pairs)
            case "range", _ if not node.kwargs and 1 <= len(node.args) <= 3:
                return self._add("RANGE", [self._expression(argument) for argument in node.args])
        raise _Cannot(f"the function {name} with these arguments")

    def _filter(self, node: nodes.Filter, consumed: bool) -> int:
        if node.node is None:
            raise _Cannot("a filter block")
        op = _FILTER_NAMES.get(node.name, node.name.upper())
        if node.name in ("selectattr", "rejectattr") and consumed:
            return self._select(node)
        if op not in p.FILTERS or node.name != node.name.lower():
            raise _Cannot(f"the filter {node.name}")
        least, names = _FILTER_ARGUMENTS.get(op, (0, ()))
        given = self._arguments(node, names, f"the filter {node.name}")
        if not least <= len(given) <= len(names):
            raise _Cannot(f"the filter {node.name} with {len(given)} arguments")
        value = self._expression(node.node, consumed=op in ("LIST", "FIRST", "JOIN"))
        return self._add("FILTER", [value, *given], variant=p.FILTERS.index(op))

    def _select(self, node: nodes.Filter) -> int:
        match node.args:
            case [nodes.Const(value=str(name))] if not node.kwargs:
                children = [self._text(name)]
            case [nodes.Const(value=str(name)), nodes.Const(value="equalto" | "eq" | "=="), value] if not node.kwargs:
                children = [self._text(name), self._expression(value)]
            case _:
                raise _Cannot(f"the filter {node.name} with these arguments")
        assert node.node is not None
        if "." in name or name.isdigit() or _owners_of(name) & p.OF_MAP:
            raise _Cannot(f"the filter {node.name} with this attribute")
        variant = int(node.name == "rejectattr")
        return self._add("SELECT", [self._expression(node.node), *children], variant=variant)

    def _test(self, node: nodes.Test) -> int:
        assert node.node is not None  # only filters stand alone
        given = self._arguments(node, (), f"the test {node.name}")
        value = self._expression(node.node)
        if node.name in _COMPARING_TESTS and len(given) == 1:
            comparison = _COMPARING_TESTS[node.name]
            return self._add("COMPARE", [value, given[0]], variant=p.COMPARISONS.index(comparison))
        op = node.name.upper()
        if op not in p.TESTS or node.name != node.name.lower() or len(given) != int(op == "DIVISIBLEBY"):
            raise _Cannot(f"the test {node.name}")
        return self._add("TEST", [value, *given], variant=p.TESTS.index(op))


def _owners_of(name: str) -> int:
    """Which kinds of values have a Python attribute of that name."""
    if name.startswith("__"):
        return p.OF_UNKNOWN
    return sum(bit for bit, types in _OWNERS if any(hasattr(kind, name) for kind in types))


def _tag(node: nodes.Node) -> str:
    return {"FilterBlock": "filter", "CallBlock": "call", "AssignBlock": "set"}.get(
        type(node).__name__, type(node).__name__.lower()
    )
