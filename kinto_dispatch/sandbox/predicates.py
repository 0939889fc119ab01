"""The tests behind ``is``, ``select`` and ``reject``. Named as in Jinja."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from kinto_dispatch.sandbox.operators import compare
from kinto_dispatch.sandbox.values import Missing, Run, number, used


Predicate = Callable[..., bool]


def defined(run: Run, value: Any) -> bool:
    return not isinstance(value, Missing)


def undefined(run: Run, value: Any) -> bool:
    return isinstance(value, Missing)


# Jinja's own even and odd would take '%999999999d', and format it.


def even(run: Run, value: Any) -> bool:
    return number(value) % 2 == 0


def odd(run: Run, value: Any) -> bool:
    return number(value) % 2 == 1


def divisible_by(run: Run, value: Any, by: Any) -> bool:
    return number(value) % number(by) == 0


def lower(run: Run, value: Any) -> bool:
    return run.text(value).islower()


def upper(run: Run, value: Any) -> bool:
    return run.text(value).isupper()


def _is(types: Any, but_not: Any, run: Run, value: Any) -> bool:
    return isinstance(used(value), types) and not isinstance(value, but_not)


def _compares(name: str, run: Run, value: Any, other: Any) -> bool:
    return compare(run.budget, name, value, other)


def _same(constant: Any, run: Run, value: Any) -> bool:
    return used(value) is constant


PREDICATES: Mapping[str, Predicate] = {
    "defined": defined,
    "undefined": undefined,
    "none": partial(_same, None),
    "true": partial(_same, True),
    "false": partial(_same, False),
    "boolean": partial(_is, bool, ()),
    "integer": partial(_is, int, bool),
    "float": partial(_is, float, ()),
    "number": partial(_is, int | float, ()),
    "string": partial(_is, str, ()),
    "mapping": partial(_is, Mapping, ()),
    "sequence": partial(_is, Sequence | Mapping, ()),
    "iterable": partial(_is, Sequence | Mapping, ()),
    "even": even,
    "odd": odd,
    "divisibleby": divisible_by,
    "lower": lower,
    "upper": upper,
    "in": partial(_compares, "in"),
    **dict.fromkeys(("eq", "equalto", "=="), partial(_compares, "eq")),
    **dict.fromkeys(("ne", "!="), partial(_compares, "ne")),
    **dict.fromkeys(("lt", "lessthan", "<"), partial(_compares, "lt")),
    **dict.fromkeys(("le", "<="), partial(_compares, "lteq")),
    **dict.fromkeys(("gt", "greaterthan", ">"), partial(_compares, "gt")),
    **dict.fromkeys(("ge", ">="), partial(_compares, "gteq")),
}
