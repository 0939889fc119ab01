"""The expression of ``when``: JMESPath over one change, checked at start and bounded in cost.

JMESPath has no loops over products, but it can copy: ``[@,@][]`` twice as much as before, forty
times in a row. So the library's own interpreter runs here with a budget.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError, JMESPathTypeError, LexerError, ParseError
from jmespath.functions import Functions
from jmespath.lexer import Lexer
from jmespath.visitor import TreeInterpreter

from kinto_dispatch.budget import TEXT_PER_STEP, Budget
from kinto_dispatch.errors import did_you_mean


LONGEST_EXPRESSION = 2_000
"""Characters. Longer lists of alternatives belong in a field of the data."""

DEEPEST_EXPRESSION = 100
"""Levels of nesting: each is three calls deep in the interpreter, of the thousand there are."""

LONGEST_SHOWN = 200

STEPS = 1_000_000
"""What judging one change may cost: some 300,000 items or 16 million characters to look at."""

VISIT_STEPS = 10

Node = Mapping[str, Any]


class BadExpression(ValueError):
    """Raised when an expression cannot be read. ``position`` counts characters from 0."""

    def __init__(self, expression: str, reason: str, position: int, advice: str = "") -> None:
        self.expression = expression
        self.reason = reason
        self.position = position
        self.advice = advice
        super().__init__(f"{reason}\n{pointer(expression, position)}")


class EvaluationError(ValueError):
    """Raised when an expression cannot be evaluated on these values."""


class Expression:
    """A compiled expression over the given names. Immutable; safe to use from many threads."""

    def __init__(self, text: str, names: Sequence[str], steps: int = STEPS) -> None:
        """``steps`` is what one evaluation may cost. Raises ``BadExpression`` for what can never
        be evaluated, unknown names included."""
        self.text = text
        self._steps = steps
        self._root = _parse(text)
        _check_depth(text, self._root)
        _check_functions(text, self._root)
        _check_names(text, self._root, names)

    def holds(self, values: Mapping[str, Any], account: Budget | None = None) -> bool:
        """Whether the result is true as JMESPath has it: false are ``false``, ``null`` and
        empty text, lists and objects; 0 is true. Raises ``EvaluationError``.

        What it costs is taken from the ``account``, too; raises ``OutOfBudget`` where that does
        not reach."""
        budget = Budget(self._steps)
        try:
            with _errors_told():
                interpreter = _BoundedInterpreter(budget)
                return bool(interpreter._is_true(interpreter.visit(self._root, values)))
        finally:
            if account is not None:
                account.spend(budget.steps - budget.left)

    def show(self, values: Mapping[str, Any]) -> str:
        """The result as JSON on one line, cut to 200 characters. Raises ``EvaluationError``."""
        with _errors_told():
            budget = Budget(self._steps)
            result = _BoundedInterpreter(budget).visit(self._root, values)
            budget.weigh(result)
            shown = json.dumps(result, default=str)
        return shown if len(shown) <= LONGEST_SHOWN else shown[: LONGEST_SHOWN - 1] + "…"


@contextlib.contextmanager
def _errors_told() -> Iterator[None]:
    """Whatever goes wrong inside is an ``EvaluationError`` that quotes no more than 200
    characters of the data."""
    try:
        yield
    except JMESPathTypeError as error:
        raise EvaluationError(_describe_type_error(error)) from error
    except RecursionError as error:
        raise EvaluationError("the data is nested too deeply") from error
    except Exception as error:
        # Comparing text with a number is a TypeError, averaging huge numbers an OverflowError:
        # the library checks none of that.
        raise EvaluationError(str(error)[:LONGEST_SHOWN] or type(error).__name__) from error


class _BoundedInterpreter(TreeInterpreter):  # type: ignore[misc]  # jmespath is untyped
    """The library's interpreter, which pays for each node and for what a node walks through."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self._budget = budget

    def visit(self, node: Node, value: Any, *args: Any, **kwargs: Any) -> Any:
        self._budget.spend(VISIT_STEPS)
        return super().visit(node, value, *args, **kwargs)

    def visit_flatten(self, node: Node, value: Any) -> Any:
        base = self.visit(node["children"][0], value)
        if isinstance(base, list):
            self._budget.spend(sum(len(item) if isinstance(item, list) else 1 for item in base))
        return super().visit_flatten({"children": [_as_literal(base)]}, value)

    def visit_slice(self, node: Node, value: Any) -> Any:
        if isinstance(value, list):
            self._budget.spend(len(value))
        return super().visit_slice(node, value)

    def visit_comparator(self, node: Node, value: Any) -> Any:
        operands = [self.visit(child, value) for child in node["children"]]
        self._budget.weigh(*operands)
        literals = [_as_literal(operand) for operand in operands]
        return super().visit_comparator({**node, "children": literals}, value)

    def visit_function_expression(self, node: Node, value: Any) -> Any:
        arguments = [self.visit(child, value) for child in node["children"]]
        self._budget.weigh(*arguments)
        if node["value"] == "join" and isinstance(arguments[0], str):
            # Alone among the functions it can make much more than it is given.
            self._budget.spend(len(arguments[0]) * _length(arguments[1]) // TEXT_PER_STEP)
        result = self._functions.call_function(node["value"], arguments)
        self._budget.weigh(result)
        return result


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) else 0


def _as_literal(value: Any) -> Node:
    return {"type": "literal", "value": value, "children": []}


def pointer(expression: str, position: int, width: int = 72) -> str:
    """Two lines: the expression around ``position``, and a caret under that character."""
    start = max(0, position - width // 2)
    line = expression[start : start + width].replace("\n", " ").replace("\t", " ")
    return f"  {line}\n  {' ' * (position - start)}^"


def _parse(text: str) -> Node:
    if len(text) > LONGEST_EXPRESSION:
        reason = f"{len(text):,} characters, at most {LONGEST_EXPRESSION:,}"
        raise BadExpression(text, reason, LONGEST_EXPRESSION)
    if not text.strip():
        raise BadExpression(text, "empty", 0, "Leave the setting out to want every change.")
    try:
        with warnings.catch_warnings():
            # `text` in backticks without quotes is old but allowed spelling.
            warnings.simplefilter("ignore", PendingDeprecationWarning)
            root: Node = jmespath.compile(text).parsed
    except ParseError as error:
        raise _unreadable(text, error) from error
    except JMESPathError as error:
        raise BadExpression(text, str(error), 0) from error
    except RecursionError as error:
        raise BadExpression(text, "nested too deeply", 0) from error
    return root


_HINTS = {
    "=": "To compare write ==.",
    "and": "Write && for and.",
    "or": "Write || for or.",
    "not": "Write ! for not.",
    "in": "Write contains(list, value).",
}


def _unreadable(text: str, error: ParseError) -> BadExpression:
    found = str(error.token_value or "")
    before = text[: error.lex_position].split()
    word = found if found in _HINTS else (before[-1] if before else "")
    advice = _HINTS.get(word, "")
    if error.token_type == "NUMBER":
        advice = f"Write numbers in backticks: `{found}`."
    if isinstance(error, LexerError):
        return BadExpression(text, error.message, error.lex_position, advice)
    reason = f"unexpected {found!r}" if found else "something is missing at the end"
    return BadExpression(text, reason, error.lex_position, advice)


def _check_depth(text: str, root: Node) -> None:
    level, depth = [root], 0
    while level:
        depth += 1
        if depth > DEEPEST_EXPRESSION:
            reason = f"nested more than {DEEPEST_EXPRESSION} levels deep"
            advice = "For many alternatives write contains(['a', 'b'], field)."
            raise BadExpression(text, reason, 0, advice)
        level = [child for node in level for child in _children(node)]


def _check_functions(text: str, root: Node) -> None:
    """The library looks functions up when it calls them: too late for an operator."""
    for node in _walk(root):
        if node["type"] != "function_expression":
            continue
        name = node["value"]
        if name not in Functions.FUNCTION_TABLE:
            advice = did_you_mean(name, Functions.FUNCTION_TABLE)
            advice = advice or f"Known: {', '.join(sorted(Functions.FUNCTION_TABLE))}."
            raise BadExpression(text, f"unknown function {name!r}", _find(text, name), advice)
        signature = Functions.FUNCTION_TABLE[name]["signature"]
        given, taken = len(node["children"]), len(signature)
        variadic = bool(signature) and signature[-1].get("variadic", False)
        if given < taken or (given > taken and not variadic):
            least = "at least " if variadic else ""
            reason = f"{name}() takes {least}{taken} arguments, found {given}"
            raise BadExpression(text, reason, _find(text, name))


def _check_names(text: str, root: Node, names: Sequence[str]) -> None:
    """A wrong name is ``null`` to the library, so that the route would match nothing for ever."""
    for name in _outer_names(root):
        if name in names:
            continue
        if f'"{name}"' in text:
            advice = f"For text use single quotes: '{name}'."
        elif name in ("true", "false", "null"):
            advice = f"Write `{name}` in backticks."
        else:
            advice = did_you_mean(name, names) or f"Known: {', '.join(names)}."
        raise BadExpression(text, f"unknown name {name!r}", _find(text, name), advice)


def _outer_names(node: Node) -> Iterator[str]:
    """The names that are looked up in the change itself, not in a part of it."""
    match node["type"]:
        case "field":
            yield node["value"]
        case "subexpression" | "index_expression" | "flatten" | "pipe":
            yield from _outer_names(node["children"][0])
        case "projection" | "value_projection" | "filter_projection":
            yield from _outer_names(node["children"][0])
        case "expref":
            return
        case _:
            for child in _children(node):
                yield from _outer_names(child)


def _walk(root: Node) -> Iterator[Node]:
    pending = [root]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(_children(node))


def _children(node: Node) -> list[Node]:
    """The nodes below; a slice keeps plain numbers in the same place."""
    return [child for child in node["children"] if isinstance(child, Mapping)]


def _find(text: str, name: str) -> int:
    """Where ``name`` stands: the parser keeps no positions, but the lexer does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return next((t["start"] for t in Lexer().tokenize(text) if t["value"] == name), 0)


def _describe_type_error(error: JMESPathTypeError) -> str:
    """Without the value itself: it is data, and this text goes to logs."""
    expected = " or ".join(error.expected_types)
    advice = ""
    if error.actual_type == "null":
        advice = f". If the field may be missing, ask first: field && {error.function_name}(...)"
    return f"{error.function_name}() takes {expected}, found {error.actual_type}{advice}"
