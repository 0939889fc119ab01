"""Filters of kinto-emailer: a value, or a regular expression that begins with ``^``.

Who writes them is not trusted, and some patterns take years on short texts. The standard library
cannot be interrupted; ``regex`` gives up after a time.
"""

from __future__ import annotations

from functools import lru_cache
from time import perf_counter
from typing import Any

import regex

from kinto_dispatch.budget import STEPS_PER_SECOND, Budget


LONGEST_PATTERN = 200
"""Characters. The longest that people have shown are lists of some ten names."""

MOST_STATES = 10_000
"""What a pattern may be unrolled to: its characters times all of its counts. The library compiles
``(?:x{1000}){1000}`` to a million steps, and keeps them."""

LONGEST_VALUE = 1_000
MATCH_SECONDS = 0.01
PATTERN_STEPS = 10


_COUNT = regex.compile(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}")


class BadPattern(ValueError):
    """Raised for a pattern that is no regular expression, or one out of bounds."""


def check(pattern: str) -> None:
    """Raises ``BadPattern``."""
    if pattern.startswith("^"):
        _compiled(pattern)


def matches(pattern: str, value: str, account: Budget | None = None) -> bool:
    """Whether the value is the one that was written, or begins as the expression says.

    As in kinto-emailer nothing need follow to the end, unless the expression ends with ``$``.
    Raises ``BadPattern``, also where deciding takes longer than 10 ms. The time is taken from the
    ``account``; raises ``OutOfBudget`` where that does not reach.
    """
    if not pattern.startswith("^"):
        return pattern == value
    began = perf_counter()
    try:
        return _compiled(pattern).match(value[:LONGEST_VALUE], timeout=MATCH_SECONDS) is not None
    except TimeoutError:
        seconds = f"{MATCH_SECONDS * 1000:.0f} ms"
        raise BadPattern(f"{pattern!r} was not decided on {value[:50]!r} in {seconds}") from None
    finally:
        if account is not None:
            account.spend(PATTERN_STEPS + int((perf_counter() - began) * STEPS_PER_SECOND))


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> Any:
    if len(pattern) > LONGEST_PATTERN:
        raise BadPattern(f"{len(pattern)} characters, at most {LONGEST_PATTERN}")
    if (states := _states(pattern)) > MOST_STATES:
        found = f"its characters times its counts, as in x{{100}}, are {states:,}"
        raise BadPattern(f"{pattern!r} is too large: {found}, at most {MOST_STATES:,}")
    try:
        return regex.compile(pattern, cache_pattern=False)
    except (regex.error, ValueError, RecursionError, OverflowError, MemoryError) as error:
        raise BadPattern(f"{pattern!r} is no regular expression: {error}") from error


def _states(pattern: str) -> int:
    """Counts may be nested, so all of them are multiplied."""
    states = len(pattern)
    for least, most in _COUNT.findall(pattern):
        states *= max(1, int(least or 0), int(most or 0))
    return states
