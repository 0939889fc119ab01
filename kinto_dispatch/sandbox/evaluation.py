"""Walks through a template that ``language`` has checked, paying for every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import nodes
from markupsafe import Markup, escape

from kinto_dispatch.budget import TEXT_PER_STEP, Budget
from kinto_dispatch.errors import OutOfBudget, did_you_mean
from kinto_dispatch.sandbox.filters import FILTERS
from kinto_dispatch.sandbox.operators import calculate, compare, negate
from kinto_dispatch.sandbox.predicates import PREDICATES
from kinto_dispatch.sandbox.scope import Scope, bind, loop_fields
from kinto_dispatch.sandbox.values import (
    LONGEST_TEXT,
    Fault,
    Missing,
    MissingField,
    describe,
    kind,
    look_up,
    used,
)


STEPS = 1_000_000
"""What a rendering may cost; an ordinary message takes a few hundred."""

VISIT_STEPS = 10
LOOP_STEPS = 30

LONGEST_RANGE = 10_000


class Evaluation:
    """One rendering. With ``html`` everything that is printed is escaped. With ``lenient`` what
    uses a missing field prints nothing: for trying a template without knowing the data."""

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        html: bool,
        lenient: bool = False,
        steps: int = STEPS,
    ) -> None:
        self.budget = Budget(steps)
        self.root_url = str(values.get("root_url", ""))
        self._values = values
        self._html = html
        self._lenient = lenient
        self._parts: list[str] = []
        self._written = 0

    def run(self, template: nodes.Template) -> str:
        """The text of ``template``. Raises ``Fault``; changes none of the values."""
        self._execute_all(template.body, Scope(dict(self._values)))
        return "".join(self._parts)

    def text(self, value: Any) -> str:
        """``value`` as it is printed; bounded and paid for."""
        if isinstance(used(value), list | tuple | Mapping):
            self.budget.weigh(value)
        return self._bounded(str(value))

    def filter(self, name: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """What the filter makes of ``value``. Raises ``Fault``."""
        function = _known(FILTERS, "filter", name)
        if name not in ("default", "d"):
            used(value)
        for argument in (*args, *kwargs.values()):
            used(argument)
        try:
            result = function(self, value, *args, **kwargs)
        except (Fault, OutOfBudget):
            raise
        except Exception as error:
            raise Fault(f"|{name}: {describe(error)}") from error
        return self._bounded(result) if isinstance(result, str) else result

    def test(self, name: str, value: Any, *args: Any) -> bool:
        """Whether the test holds for ``value``. Raises ``Fault``."""
        predicate = _known(PREDICATES, "test", name)
        try:
            return bool(predicate(self, value, *args))
        except (Fault, OutOfBudget):
            raise
        except Exception as error:
            raise Fault(f"is {name}: {describe(error)}") from error

    def _bounded(self, text: str) -> str:
        self.budget.spend(1 + len(text) // TEXT_PER_STEP)
        if len(text) > LONGEST_TEXT:
            raise Fault(f"makes a text of more than {LONGEST_TEXT:,} characters")
        return text

    def _write(self, text: str) -> None:
        self._written += len(text)
        if self._written > LONGEST_TEXT:
            raise Fault(f"writes more than {LONGEST_TEXT:,} characters")
        self._parts.append(text)

    # Statements

    def _execute_all(self, statements: Sequence[nodes.Node], scope: Scope) -> None:
        for node in statements:
            try:
                self._step(_STATEMENTS, node, scope)
            except MissingField:
                if not self._lenient:
                    raise

    def _output(self, node: nodes.Output, scope: Scope) -> None:
        for part in node.nodes:
            try:
                self._write(self._printed(part, scope))
            except Fault as fault:
                # The node begins where the text before it does, maybe lines earlier.
                fault.line = fault.line or part.lineno
                if not (self._lenient and isinstance(fault, MissingField)):
                    raise

    def _printed(self, node: nodes.Expr, scope: Scope) -> str:
        if isinstance(node, nodes.TemplateData):
            return node.data
        value = self._evaluate(node, scope)
        text = self.text(value)
        if not self._html or isinstance(value, Markup):
            return text
        return str(escape(text))

    def _if(self, node: nodes.If, scope: Scope) -> None:
        for branch in (node, *node.elif_):
            if self._evaluate(branch.test, scope):
                return self._execute_all(branch.body, scope)
        return self._execute_all(node.else_, scope)

    def _for(self, node: nodes.For, scope: Scope) -> None:
        items = self._items(node, scope)
        if not items:
            return self._execute_all(node.else_, scope)
        for index, item in enumerate(items):
            self.budget.spend(LOOP_STEPS)
            inner = Scope({"loop": loop_fields(items, index)}, scope)
            bind(node.target, item, inner)
            self._execute_all(node.body, inner)
        return None

    def _items(self, node: nodes.For, scope: Scope) -> Sequence[Any]:
        value = used(self._evaluate(node.iter, scope))
        if not isinstance(value, str | list | tuple | Mapping):
            raise Fault(f"for takes a list, found {kind(value)}", node.lineno)
        self.budget.spend(len(value))
        items = list(value)
        if node.test is None:
            return items
        return [item for item in items if self._wanted(node, item, scope)]

    def _wanted(self, node: nodes.For, item: Any, scope: Scope) -> bool:
        inner = Scope({}, scope)
        bind(node.target, item, inner)
        return bool(self._evaluate(node.test, inner))  # type: ignore[arg-type]  # optional in Jinja

    def _assign(self, node: nodes.Assign, scope: Scope) -> None:
        bind(node.target, self._evaluate(node.node, scope), scope)

    def _assign_block(self, node: nodes.AssignBlock, scope: Scope) -> None:
        outer, self._parts = self._parts, []
        try:
            self._execute_all(node.body, Scope({}, scope))
            text = "".join(self._parts)
        finally:
            self._parts = outer
        bind(node.target, Markup(text) if self._html else text, scope)

    # Expressions

    def _step(self, table: Mapping[type, Callable[..., Any]], node: Any, scope: Scope) -> Any:
        """Pay, do it, and say on which line it went wrong."""
        try:
            self.budget.spend(VISIT_STEPS)
            return table[type(node)](self, node, scope)
        except Fault as fault:
            fault.line = fault.line or node.lineno
            raise
        except Exception as error:
            raise Fault(describe(error), node.lineno) from error

    def _evaluate(self, node: nodes.Node, scope: Scope) -> Any:
        return self._step(_EXPRESSIONS, node, scope)

    def _evaluate_all(self, expressions: Sequence[nodes.Node], scope: Scope) -> list[Any]:
        return [used(self._evaluate(node, scope)) for node in expressions]

    def _constant(self, node: nodes.Const, scope: Scope) -> Any:
        return node.value

    def _name(self, node: nodes.Name, scope: Scope) -> Any:
        return scope.look_up(node.name)

    def _attribute(self, node: nodes.Getattr, scope: Scope) -> Any:
        return look_up(self._evaluate(node.node, scope), node.attr, spell(node))

    def _item(self, node: nodes.Getitem, scope: Scope) -> Any:
        value = self._evaluate(node.node, scope)
        if isinstance(node.arg, nodes.Slice):
            return self._slice(used(value), node.arg, scope)
        key = used(self._evaluate(node.arg, scope))
        if isinstance(key, list | tuple | Mapping):
            raise Fault(f"an item is named by text or a number, found {kind(key)}")
        return look_up(value, key, spell(node))

    def _slice(self, value: Any, node: nodes.Slice, scope: Scope) -> Any:
        if not isinstance(value, str | list | tuple):
            raise Fault(f"only text and lists have slices, found {kind(value)}")
        self.budget.spend(len(value))
        parts = (node.start, node.stop, node.step)
        return value[
            slice(*(None if one is None else self._evaluate(one, scope) for one in parts))
        ]

    def _list(self, node: nodes.List, scope: Scope) -> list[Any]:
        return self._evaluate_all(node.items, scope)

    def _tuple(self, node: nodes.Tuple, scope: Scope) -> tuple[Any, ...]:
        return tuple(self._evaluate_all(node.items, scope))

    def _mapping(self, node: nodes.Dict, scope: Scope) -> dict[Any, Any]:
        keys = self._evaluate_all([pair.key for pair in node.items], scope)
        for key in keys:
            if not isinstance(key, str | int | float):
                raise Fault(f"a key is text or a number, found {kind(key)}")
        values = self._evaluate_all([pair.value for pair in node.items], scope)
        return dict(zip(keys, values, strict=True))

    def _range(self, node: nodes.Call, scope: Scope) -> list[int]:
        numbers = range(*self._evaluate_all(node.args, scope))
        if len(numbers) > LONGEST_RANGE:
            raise Fault(f"range() of more than {LONGEST_RANGE:,} numbers")
        self.budget.spend(len(numbers))
        return list(numbers)

    def _filtered(self, node: nodes.Filter, scope: Scope) -> Any:
        value = self._evaluate(node.node, scope)  # type: ignore[arg-type]  # optional in Jinja
        args = self._evaluate_all(node.args, scope)
        kwargs = {str(pair.key): used(self._evaluate(pair.value, scope)) for pair in node.kwargs}
        return self.filter(node.name, value, *args, **kwargs)

    def _tested(self, node: nodes.Test, scope: Scope) -> bool:
        value = self._evaluate(node.node, scope)
        return self.test(node.name, value, *self._evaluate_all(node.args, scope))

    def _compared(self, node: nodes.Compare, scope: Scope) -> bool:
        left = self._evaluate(node.expr, scope)
        for operand in node.ops:
            right = self._evaluate(operand.expr, scope)
            if not compare(self.budget, operand.op, left, right):
                return False
            left = right
        return True

    def _joined(self, node: nodes.Concat, scope: Scope) -> str:
        texts = [self.text(self._evaluate(one, scope)) for one in node.nodes]
        return self._bounded("".join(texts))

    def _calculated(self, node: nodes.BinExpr, scope: Scope) -> Any:
        left, right = self._evaluate(node.left, scope), self._evaluate(node.right, scope)
        result = calculate(self.budget, node.operator, left, right)
        return self._bounded(result) if isinstance(result, str) else result

    def _negated(self, node: nodes.Neg, scope: Scope) -> Any:
        return negate(self._evaluate(node.node, scope))

    def _unchanged(self, node: nodes.Pos, scope: Scope) -> Any:
        return negate(negate(self._evaluate(node.node, scope)))

    def _and(self, node: nodes.And, scope: Scope) -> Any:
        return self._evaluate(node.left, scope) and self._evaluate(node.right, scope)

    def _or(self, node: nodes.Or, scope: Scope) -> Any:
        return self._evaluate(node.left, scope) or self._evaluate(node.right, scope)

    def _not(self, node: nodes.Not, scope: Scope) -> bool:
        return not self._evaluate(node.node, scope)

    def _chosen(self, node: nodes.CondExpr, scope: Scope) -> Any:
        if self._evaluate(node.test, scope):
            return self._evaluate(node.expr1, scope)
        return Missing("else") if node.expr2 is None else self._evaluate(node.expr2, scope)


def spell(node: nodes.Node) -> str:
    """A path as it was written, for messages."""
    match node:
        case nodes.Name():
            return node.name
        case nodes.Getattr():
            return f"{spell(node.node)}.{node.attr}"
        case nodes.Getitem() if isinstance(node.arg, nodes.Const):
            return f"{spell(node.node)}[{node.arg.value!r}]"
        case nodes.Getitem():
            return f"{spell(node.node)}[...]"
    return "(...)"


def _known(table: Mapping[str, Callable[..., Any]], what: str, name: str) -> Callable[..., Any]:
    if isinstance(name, str) and name in table:
        return table[name]
    hint = did_you_mean(str(name), table) or f"Known: {', '.join(sorted(table))}."
    raise Fault(f"unknown {what} {name!r}. {hint}")


_STATEMENTS: Mapping[type, Callable[..., None]] = {
    nodes.Output: Evaluation._output,
    nodes.If: Evaluation._if,
    nodes.For: Evaluation._for,
    nodes.Assign: Evaluation._assign,
    nodes.AssignBlock: Evaluation._assign_block,
}

_EXPRESSIONS: Mapping[type, Callable[..., Any]] = {
    nodes.Const: Evaluation._constant,
    nodes.Name: Evaluation._name,
    nodes.Getattr: Evaluation._attribute,
    nodes.Getitem: Evaluation._item,
    nodes.List: Evaluation._list,
    nodes.Tuple: Evaluation._tuple,
    nodes.Dict: Evaluation._mapping,
    nodes.Call: Evaluation._range,
    nodes.Filter: Evaluation._filtered,
    nodes.Test: Evaluation._tested,
    nodes.Compare: Evaluation._compared,
    nodes.Concat: Evaluation._joined,
    nodes.Neg: Evaluation._negated,
    nodes.Pos: Evaluation._unchanged,
    nodes.And: Evaluation._and,
    nodes.Or: Evaluation._or,
    nodes.Not: Evaluation._not,
    nodes.CondExpr: Evaluation._chosen,
    **dict.fromkeys(
        (nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow),
        Evaluation._calculated,
    ),
}

SYNTAX = frozenset({*_STATEMENTS, *_EXPRESSIONS})
"""The nodes that can be evaluated."""
