"""What a template handles: JSON values, and what stands for a field that is not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from kinto_dispatch.budget import Budget
from kinto_dispatch.errors import did_you_mean


LONGEST_TEXT = 262_144
"""Characters of any text that a template makes, its output included."""

LONGEST_REASON = 200


class Fault(Exception):
    """Raised when a template cannot be read or evaluated. ``line`` counts from 1."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        self.reason = reason
        self.line = line
        super().__init__(reason)

    def __str__(self) -> str:
        return self.reason if self.line is None else f"line {self.line}: {self.reason}"


class MissingField(Fault):
    """Raised when a template uses a field that the data does not have."""


class Missing:
    """A field that is not there. It may be asked about (``if``, ``is defined``, ``==``,
    ``|default``) and looked into, but not used: that raises ``MissingField``."""

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        self.what = what

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"<no {self.what}>"


class Fields(dict[str, Any]):
    """A mapping whose fields we define ourselves: another name is a mistake, not missing data."""

    def __init__(self, kind: str, fields: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self.kind = kind


class Run(Protocol):
    """What operators, filters and predicates may ask of the evaluation they run in."""

    budget: Budget
    root_url: str

    def text(self, value: Any) -> str:
        """``value`` as it is printed; bounded and paid for."""

    def filter(self, name: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """What the filter makes of ``value``."""

    def test(self, name: str, value: Any, *args: Any) -> bool:
        """Whether the test holds for ``value``."""


def used(value: Any) -> Any:
    """``value``; raises ``MissingField`` if there is none."""
    if isinstance(value, Missing):
        raise MissingField(f"{value.what} is missing; write |default('...') if it may be")
    return value


def number(value: Any) -> int | float:
    """``value``; raises ``TypeError`` if it is no number."""
    if not isinstance(used(value), int | float):
        raise TypeError(f"takes a number, found {kind(value)}")
    return value  # type: ignore[no-any-return]  # JSON, whatever it is


def look_up(value: Any, key: Any, what: str) -> Any:
    """The item ``key`` of a mapping, list or text, else ``Missing``. Never an attribute."""
    if isinstance(value, Missing):
        return value
    try:
        return value[key] if isinstance(value, Mapping | Sequence) else Missing(what)
    except (LookupError, TypeError):
        if isinstance(value, Fields):
            hint = did_you_mean(str(key), value) or f"Known: {', '.join(value)}."
            raise Fault(f"{value.kind} has no {key!r}. {hint}") from None
        return Missing(what)


def look_along(value: Any, path: str | int) -> Any:
    """The item at ``path``, which may have dots (``old.title``)."""
    for part in str(path).split("."):
        key = int(part) if part.isdecimal() and not isinstance(value, Mapping) else part
        value = look_up(value, key, str(path))
    return value


def kind(value: Any) -> str:
    """What people call a value of this type."""
    for types, name in _KINDS:
        if isinstance(value, types):
            return name
    return type(value).__name__


_KINDS: Sequence[tuple[Any, str]] = (
    (Missing, "a missing field"),
    (type(None), "none"),
    (bool, "true or false"),
    (int | float, "a number"),
    (str, "text"),
    (Mapping, "a mapping"),
    (Sequence, "a list"),
)


def describe(error: Exception) -> str:
    """One bounded line on an error that is not ours; it may quote data."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
