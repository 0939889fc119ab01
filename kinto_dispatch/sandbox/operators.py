"""Arithmetic and comparison, each as cheap as it looks: what would grow is refused before."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from kinto_dispatch.budget import Budget
from kinto_dispatch.sandbox.values import LONGEST_TEXT, Missing, kind, used


LARGEST_BITS = 2_048
"""Integers beyond take long to multiply, and to print."""

Number = int | float


def calculate(budget: Budget, name: str, left: Any, right: Any) -> Any:
    """``left`` and ``right`` under the operator: numbers; ``+`` also joins two texts or lists,
    ``*`` repeats a text. Raises ``TypeError`` or ``ArithmeticError``."""
    used(left), used(right)
    if isinstance(left, Number) and isinstance(right, Number):
        return _checked(_NUMERIC[name](left, right))
    if name == "+" and (_both(str, left, right) or _both(list, left, right)):
        return (
            str(left) + str(right) if isinstance(left, str) else _concatenate(budget, left, right)
        )
    if name == "*" and isinstance(left, str) and type(right) is int:
        return _repeat(left, right)
    advice = "; join texts with ~" if isinstance(left, str) or isinstance(right, str) else ""
    raise TypeError(f"{name} does not take {kind(left)} and {kind(right)}{advice}")


def negate(value: Any) -> Any:
    """``-value``. Raises ``TypeError`` for anything but a number."""
    if not isinstance(used(value), Number):
        raise TypeError(f"- does not take {kind(value)}")
    return -value


def compare(budget: Budget, name: str, left: Any, right: Any) -> bool:
    """Whether the comparison holds. A missing field equals only another one, and is in nothing;
    to order it, or things of different kinds, raises ``TypeError``."""
    if name in ("ne", "notin"):
        return not compare(budget, "eq" if name == "ne" else "in", left, right)
    if isinstance(left, Missing) or isinstance(right, Missing):
        if name in _ORDERINGS:
            used(left), used(right)
        return name == "eq" and type(left) is type(right)
    budget.weigh(left, right)
    if name == "eq":
        return bool(left == right)
    return _contains(right, left) if name == "in" else _in_order(name, left, right)


def _in_order(name: str, left: Any, right: Any) -> bool:
    if _both(Number, left, right) or _both(str, left, right):
        return bool(_ORDERINGS[name](left, right))
    raise TypeError(f"cannot order {kind(left)} and {kind(right)}")


def _contains(container: Any, item: Any) -> bool:
    if isinstance(container, str) and not isinstance(item, str):
        raise TypeError(f"text cannot contain {kind(item)}")
    if isinstance(container, str | list | tuple | Mapping):
        return item in container
    raise TypeError(f"cannot look into {kind(container)}")


def _both(types: Any, left: Any, right: Any) -> bool:
    return isinstance(left, types) and isinstance(right, types)


def _repeat(text: str, times: int) -> str:
    if len(text) * times > LONGEST_TEXT:
        raise OverflowError(f"text of more than {LONGEST_TEXT:,} characters")
    return str(text) * times


def _concatenate(budget: Budget, left: list[Any], right: list[Any]) -> list[Any]:
    budget.spend(len(left) + len(right))
    return left + right


def _bits(number: Number) -> int:
    return number.bit_length() if isinstance(number, int) else 0


def _checked(result: Any) -> Number:
    if isinstance(result, complex):
        raise ArithmeticError("the result is not a real number")
    if _bits(result) > LARGEST_BITS:
        raise OverflowError("the number is too large")
    return result  # type: ignore[no-any-return]  # JSON, whatever it is


def _power(left: Number, right: Number) -> Any:
    if isinstance(left, int) and _bits(left) * abs(right) > LARGEST_BITS:
        raise OverflowError("the number is too large")
    return left**right


_NUMERIC: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": _power,
}

_ORDERINGS: Mapping[str, Callable[[Any, Any], Any]] = {
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
}
