"""Reads a template and refuses at start what could not be evaluated later."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes

from kinto_dispatch.errors import did_you_mean
from kinto_dispatch.sandbox.evaluation import STEPS, SYNTAX, Evaluation
from kinto_dispatch.sandbox.filters import FILTERS
from kinto_dispatch.sandbox.predicates import PREDICATES
from kinto_dispatch.sandbox.values import Fault, describe


LONGEST_TEMPLATE = 65_536
"""Characters."""

DEEPEST_TEMPLATE = 50
"""Levels of nesting: each is up to six calls deep, of the thousand that Python allows."""

_PARTS = (nodes.Template, nodes.TemplateData, nodes.Operand, nodes.Pair, nodes.Keyword)
_EXPECTED = "Templates have {{ }}, if, for and set, filters and tests."


class Template:
    """A template that has been read and checked. Immutable; safe to use from many threads."""

    def __init__(self, source: str, names: Iterable[str], *, html: bool) -> None:
        """``names`` are those that ``render`` will be given. Raises ``Fault`` with the line."""
        self.html = html
        self._root = _parse(source)
        _check_syntax(self._root)
        for statement in self._root.body:
            _check_calls(statement)
        _Names(frozenset(names)).check(self._root.body, set())

    def render(
        self, values: Mapping[str, Any], *, lenient: bool = False, steps: int = STEPS
    ) -> str:
        """The text for ``values``, which may hold JSON values only. Raises ``Fault``, also where
        it takes more than ``steps``."""
        evaluation = Evaluation(values, html=self.html, lenient=lenient, steps=steps)
        return evaluation.run(self._root)


def _parse(source: str) -> nodes.Template:
    if len(source) > LONGEST_TEMPLATE:
        raise Fault(f"{len(source):,} characters, at most {LONGEST_TEMPLATE:,}")
    # The environment only reads; lines that hold nothing but a block leave no empty line.
    environment = Environment(trim_blocks=True, lstrip_blocks=True, cache_size=0)
    try:
        return environment.parse(source)
    except TemplateSyntaxError as error:
        raise Fault(error.message or "cannot be read", error.lineno) from error
    except Exception as error:
        raise Fault(describe(error)) from error


def _check_syntax(root: nodes.Template) -> None:
    """Only what ``evaluation`` knows, and no deeper than it can go. Does not recurse."""
    level: list[nodes.Node] = [root]
    depth = 0
    while level:
        depth += 1
        for node in level:
            if depth > DEEPEST_TEMPLATE:
                raise Fault(f"nested more than {DEEPEST_TEMPLATE} levels deep", node.lineno)
            _check_node(node)
        level = [child for node in level for child in node.iter_child_nodes()]


def _check_node(node: nodes.Node) -> None:
    if isinstance(node, nodes.Slice):
        return  # stands only where an item is looked up
    if type(node) not in SYNTAX and not isinstance(node, _PARTS):
        word = type(node).__name__.lower()
        raise Fault(f"{word} is not part of the language. {_EXPECTED}", node.lineno)
    if getattr(node, "dyn_args", None) or getattr(node, "dyn_kwargs", None):
        raise Fault("arguments with * or ** are not part of the language", node.lineno)
    if isinstance(node, nodes.For) and node.recursive:
        raise Fault("recursive loops are not part of the language", node.lineno)
    if isinstance(node, nodes.AssignBlock) and node.filter:
        raise Fault("set takes no filter; apply it where the name is used", node.lineno)


def _check_calls(statement: nodes.Node) -> None:
    """Functions, filters and tests, and that their arguments fit."""
    for call in statement.find_all(nodes.Call):
        if not isinstance(call.node, nodes.Name) or call.node.name != "range" or call.kwargs:
            raise Fault(f"only range() can be called. {_advise(call.node)}", call.lineno)
    for one in statement.find_all(nodes.Filter):
        _check_arguments("filter", FILTERS, one)
    for test in statement.find_all(nodes.Test):
        _check_arguments("test", PREDICATES, test)


def _advise(called: nodes.Node) -> str:
    """What to write instead of a method: most have a filter of the same name."""
    name = getattr(called, "attr", getattr(called, "name", ""))
    name = {"strip": "trim", "keys": "list"}.get(name, name)
    return f"Write |{name}." if name in FILTERS else "For the rest there are filters."


def _check_arguments(
    what: str, known: Mapping[str, Callable[..., Any]], node: nodes.Filter | nodes.Test
) -> None:
    _check_known(what, known, node.name, node.lineno)
    kwargs = {str(pair.key): None for pair in node.kwargs}
    try:
        inspect.signature(known[node.name]).bind(None, None, *node.args, **kwargs)
    except TypeError as error:
        raise Fault(f"{what} {node.name}: {error}", node.lineno) from error
    if what == "filter" and node.name in _NAMING:
        _check_named(node, *_NAMING[node.name])


_NAMING: Mapping[str, tuple[str, Mapping[str, Callable[..., Any]], int]] = {
    "map": ("filter", FILTERS, 0),
    "select": ("test", PREDICATES, 0),
    "reject": ("test", PREDICATES, 0),
    "selectattr": ("test", PREDICATES, 1),
    "rejectattr": ("test", PREDICATES, 1),
}
"""The filters that are told another filter or a test by name, and in which argument."""


def _check_named(
    node: nodes.Filter | nodes.Test,
    what: str,
    known: Mapping[str, Callable[..., Any]],
    position: int,
) -> None:
    named = node.args[position] if len(node.args) > position else None
    if isinstance(named, nodes.Const):
        _check_known(what, known, str(named.value), node.lineno)


def _check_known(what: str, known: Mapping[str, Callable[..., Any]], name: str, line: int) -> None:
    if name not in known:
        hint = did_you_mean(name, known) or f"Known: {', '.join(sorted(known))}."
        raise Fault(f"unknown {what} {name!r}. {hint}", line)


class _Names:
    """Finds names that nothing defines, which would otherwise show when it is too late."""

    def __init__(self, given: frozenset[str]) -> None:
        self._given = given

    def check(self, statements: Iterable[nodes.Node], known: set[str]) -> None:
        """Check in order; adds to ``known`` what the statements set."""
        for node in statements:
            match node:
                case nodes.For():
                    self._check_loop(node, known)
                case nodes.If():
                    self._check_if(node, known)
                case nodes.Assign():
                    self._check_expression(node.node, known)
                    known.update(_targets(node.target))
                case nodes.AssignBlock():
                    self.check(node.body, set(known))
                    known.update(_targets(node.target))
                case _:
                    self._check_expression(node, known)

    def _check_loop(self, node: nodes.For, known: set[str]) -> None:
        self._check_expression(node.iter, known)
        inner = {*known, *_targets(node.target)}
        if node.test is not None:
            self._check_expression(node.test, inner)
        self.check(node.body, inner | {"loop"})
        self.check(node.else_, set(known))

    def _check_if(self, node: nodes.If, known: set[str]) -> None:
        for branch in (node, *node.elif_):
            self._check_expression(branch.test, known)
            self.check(branch.body, known)
        self.check(node.else_, known)

    def _check_expression(self, node: nodes.Node, known: set[str]) -> None:
        for name in _read_names(node):
            if name.name not in known and name.name not in self._given:
                names = [*sorted(self._given), *sorted(known)]
                hint = did_you_mean(name.name, names) or f"Known: {', '.join(names)}."
                raise Fault(f"unknown name {name.name!r}. {hint}", name.lineno)


def _read_names(node: nodes.Node) -> Iterator[nodes.Name]:
    if isinstance(node, nodes.Name):
        yield node
        return
    for child in node.iter_child_nodes():
        if isinstance(node, nodes.Call) and child is node.node:
            continue  # the function's name; _check_calls has seen it
        yield from _read_names(child)


def _targets(target: nodes.Node) -> list[str]:
    if isinstance(target, nodes.Name):
        return [target.name]
    return [name.name for name in target.find_all(nodes.Name)]
