"""Templates of kinto-emailer and kinto-slack: text with ``{placeholders}``.

They look like ``str.format`` and are not: a placeholder is a name, with keys in brackets behind
it, that leads to a value of the context. There are no attributes, widths or conversions.
"""

from __future__ import annotations

import string
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kinto_dispatch.budget import Budget
from kinto_dispatch.errors import OutOfBudget


LONGEST_TEMPLATE = 10_000
LONGEST_VALUE = 10_000
LONGEST_TEXT = 100_000
"""Characters, each."""

STEPS = 100_000
"""What printing the lists and objects of one text may cost: some 30 ms."""

TOO_LARGE = "…"
"""Stands for a list or an object that would cost more."""


class BadTemplate(ValueError):
    """Raised for a template that could not be rendered as its author means it."""


@dataclass(frozen=True, slots=True)
class Placeholders:
    """A template that has been read: text, and paths of names and keys, by turns."""

    parts: tuple[str | tuple[str, ...], ...]

    @property
    def names(self) -> frozenset[str]:
        """What it asks the context for."""
        return frozenset(part[0] for part in self.parts if isinstance(part, tuple))

    def fill(self, context: Mapping[str, Any]) -> str:
        """The text; empty where the context has nothing, and cut to 100,000 characters."""
        filled, room, budget = [], LONGEST_TEXT, Budget(STEPS)
        for part in self.parts:
            text = part if isinstance(part, str) else _text(_find(context, part), budget)
            filled.append(text[:room])
            room -= len(filled[-1])
        return "".join(filled)


def read(template: str, known: Collection[str] | None) -> Placeholders:
    """Read a template. Raises ``BadTemplate``, also for names other than the ``known``."""
    if len(template) > LONGEST_TEMPLATE:
        raise BadTemplate(f"{len(template):,} characters, at most {LONGEST_TEMPLATE:,}")
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise BadTemplate(f"{error}; a brace that is none is written twice") from error
    return Placeholders(tuple(_parts(pieces, known)))


def _parts(
    pieces: Sequence[tuple[str, str | None, str | None, str | None]],
    known: Collection[str] | None,
) -> Iterator[str | tuple[str, ...]]:
    for literal, field, width, conversion in pieces:
        if literal:
            yield literal
        if field is None:
            continue
        if width or conversion:
            raise BadTemplate(f"{{{field}}} has a format; only names are filled in")
        yield _path(field, known)


def _path(field: str, known: Collection[str] | None) -> tuple[str, ...]:
    name, *keys = field.split("[")
    if not name.isidentifier() or not all(key.endswith("]") and len(key) > 1 for key in keys):
        raise BadTemplate(f"{{{field}}} is no name, with keys in brackets behind it or not")
    if known is not None and name not in known:
        raise BadTemplate(f"{{{name}}} is not known; there are {', '.join(sorted(known))}")
    return (name, *(key[:-1] for key in keys))


def _find(context: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = context
    for key in path:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal() and int(key[:9]) < len(value):
            value = value[int(key[:9])]
        else:
            return None
    return value


def _text(value: Any, budget: Budget) -> str:
    """As Python writes it, which is what templates of the two plugins were written for."""
    if value is None:
        return ""
    try:
        if isinstance(value, Mapping | list):
            budget.weigh(value)
        return str(value)[:LONGEST_VALUE]
    except (OutOfBudget, RecursionError):
        return TOO_LARGE
    except ValueError:  # an integer of thousands of digits
        return ""
