"""Which changes of an event a channel wants. A pure function of the event, compiled once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from kinto_dispatch import globs
from kinto_dispatch.budget import Budget
from kinto_dispatch.errors import BadRoute, Problem, RouteError, did_you_mean
from kinto_dispatch.event import CHANGED, Change, Event
from kinto_dispatch.expression import STEPS, BadExpression, EvaluationError, Expression, pointer


if TYPE_CHECKING:
    from kinto_dispatch.settings import RouteSettings


WRITES = ("create", "update", "delete")
ACTIONS = (*WRITES, "read")

BUT = "!"
"""What stands before a user who is not wanted."""

GLOB_STEPS = 10
"""What it costs to look whether a uri fits a glob."""

NAMES = (
    "old",
    "new",
    "changed",
    "action",
    "user_id",
    "resource_name",
    "uri",
    "object_id",
    "bucket_id",
    "collection_id",
    "timestamp",
    "name",
    "payload",
)
"""What ``when`` is asked about: these of one change, and of its event."""


@dataclass(frozen=True, slots=True)
class ClauseResult:
    """What one setting of a route says to a change (or, where ``change`` is None, to the event).

    ``found`` is what the clause looked at; for ``when`` what came of the expression, as JSON.
    ``error`` is the reason why it could not be judged; then ``matched`` is false.
    """

    clause: str
    expected: str
    found: str
    matched: bool
    change: Change | None = None
    error: str | None = None


class Route:
    """Which changes a channel wants. Immutable; safe to use from many threads.

    Clauses that are set must all hold: ``events``, ``actions``, ``resources`` and ``users`` judge
    the event, ``uris`` and ``when`` each of its changes. Without ``events`` it wants Kinto's own.
    """

    def __init__(self, settings: RouteSettings, steps: int = STEPS) -> None:
        """``steps`` is what ``when`` may cost for one change. Raises ``BadRoute`` with everything
        that can never work as written."""
        problems: list[Problem] = []
        clauses: list[_EventClause | _ChangeClause] = []
        compilers: list[_Compiler] = [*_COMPILERS, partial(_compile_when, steps=steps)]
        for compile_clause in compilers:
            try:
                clauses += compile_clause(settings)
            except BadRoute as error:
                problems += error.problems
        if problems:
            raise BadRoute(problems)
        self._of_event = tuple(one for one in clauses if isinstance(one, _EventClause))
        self._of_change = tuple(one for one in clauses if not isinstance(one, _EventClause))

    def select(self, event: Event, account: Budget | None = None) -> tuple[Change, ...]:
        """The wanted changes in the event's order; ``event.changes`` itself if that is all.

        Raises ``RouteError`` when ``when`` cannot be evaluated on one of them, and ``OutOfBudget``
        when all of them together cost more than there is in the ``account``.
        """
        for clause in self._of_event:
            if not clause.holds(event):
                return ()
        if not self._of_change:
            return event.changes
        kept = tuple(change for change in event.changes if self._wants(event, change, account))
        return event.changes if len(kept) == len(event.changes) else kept

    def explain(self, event: Event) -> list[ClauseResult]:
        """What every clause says: those about the event first, then change by change. Never
        raises; a change is wanted if all clauses of the event and all of the change matched."""
        results = [
            clause.explain(event)
            for clause in self._of_event
            if not (clause.is_default and clause.holds(event))
        ]
        for change in event.changes:
            results += [_explain(clause, event, change) for clause in self._of_change]
        return results

    def _wants(self, event: Event, change: Change, account: Budget | None) -> bool:
        return all(clause.holds(event, change, account) for clause in self._of_change)


@dataclass(frozen=True, slots=True)
class _EventClause:
    name: str
    expected: Sequence[str]
    test: Callable[[str | None], bool]
    attribute: str
    is_default: bool = False
    """Nobody wrote it, so it is mentioned only where it makes a difference."""

    def holds(self, event: Event) -> bool:
        return self.test(getattr(event, self.attribute))

    def explain(self, event: Event) -> ClauseResult:
        found = getattr(event, self.attribute)
        shown = "none" if found is None else str(found)
        return ClauseResult(self.name, " ".join(self.expected), shown, self.test(found))


@dataclass(frozen=True, slots=True)
class _UriClause:
    name: ClassVar = "uris"
    expected: str
    globs: Sequence[Sequence[globs.Segment]]

    def holds(self, event: Event, change: Change, account: Budget | None = None) -> bool:
        if account is not None:
            account.spend(GLOB_STEPS * len(self.globs))
        segments = change.uri.split("/")
        return any(globs.matches_segments(glob, segments) for glob in self.globs)

    def found(self, event: Event, change: Change) -> str:
        return change.uri


@dataclass(frozen=True, slots=True)
class _WhenClause:
    name: ClassVar = "when"
    expected: str
    expression: Expression

    def holds(self, event: Event, change: Change, account: Budget | None = None) -> bool:
        with self._named(change):
            return self.expression.holds(_values(event, change), account)

    def found(self, event: Event, change: Change) -> str:
        with self._named(change):
            return self.expression.show(_values(event, change))

    @contextlib.contextmanager
    def _named(self, change: Change) -> Iterator[None]:
        try:
            yield
        except EvaluationError as error:
            expression = self.expected if len(self.expected) <= 200 else self.expected[:199] + "…"
            raise RouteError(expression, str(error), change.uri) from error


_ChangeClause = _UriClause | _WhenClause


def _explain(clause: _ChangeClause, event: Event, change: Change) -> ClauseResult:
    try:
        matched, found = clause.holds(event, change), clause.found(event, change)
    except RouteError as error:
        return ClauseResult(clause.name, clause.expected, "", False, change, error.reason)
    return ClauseResult(clause.name, clause.expected, found, matched, change)


def _compile_names(settings: RouteSettings) -> Iterator[_EventClause]:
    """``actions`` and ``resources``, each of the channel and of its alias."""
    _check_actions(settings)
    for name, of_channel, of_alias, attribute in (
        ("actions", settings.actions, settings.alias_actions, "action"),
        ("resources", settings.resources, settings.alias_resources, "resource_name"),
    ):
        _check_overlap(name, of_channel, of_alias)
        for clause, names in ((name, of_channel), (f"alias {name}", of_alias)):
            if names:
                yield _EventClause(clause, names, frozenset(names).__contains__, attribute)
    if not settings.alias_actions:
        # Kinto's default. Reads that another alias asked for are not for this one's channels.
        yield _EventClause(
            "alias actions", WRITES, frozenset(WRITES).__contains__, "action", is_default=True
        )


def _check_actions(settings: RouteSettings) -> None:
    unknown = [action for action in settings.actions if action not in ACTIONS]
    if unknown:
        advice = did_you_mean(unknown[0], ACTIONS)
        found = f"found {' '.join(unknown)}"
        raise BadRoute([Problem("actions", found, f"any of {' '.join(ACTIONS)}", advice)])


def _check_overlap(name: str, of_channel: Sequence[str], of_alias: Sequence[str]) -> None:
    if of_channel and of_alias and not set(of_channel) & set(of_alias):
        expected = f"at least one of those the alias passes on ({' '.join(of_alias)})"
        raise BadRoute([Problem(name, f"found {' '.join(of_channel)}", expected)])


def _compile_events(settings: RouteSettings) -> Iterator[_EventClause]:
    names = settings.events or (CHANGED,)
    matches = partial(_matches_any, [name.split("*") for name in names])
    is_default = not settings.events or "*" in names
    yield _EventClause("events", names, matches, "name", is_default=is_default)


def _compile_users(settings: RouteSettings) -> Iterator[_EventClause]:
    problems = [problem for user in settings.users if (problem := _check_user(user))]
    if problems:
        raise BadRoute(problems)
    if settings.users:
        but = [user[1:].split("*") for user in settings.users if user.startswith(BUT)]
        these = [user.split("*") for user in settings.users if not user.startswith(BUT)]
        yield _EventClause("users", settings.users, partial(_is_among, these, but), "user_id")


def _is_among(
    these: Sequence[Sequence[str]], but: Sequence[Sequence[str]], user_id: str | None
) -> bool:
    """Whether it is one of these, or anybody where none are given, and none of the others."""
    return (not these or _matches_any(these, user_id)) and not _matches_any(but, user_id)


def _check_user(user: str) -> Problem | None:
    user = user.removeprefix(BUT)
    if user.startswith("system."):
        expected = "user ids as Kinto has them in events"
        return Problem("users", f"found {user}", expected, "For any known user write *.")
    if ":" not in user and "*" not in user:
        expected = "prefixed ids, like basicauth:3f2a or account:alice"
        return Problem("users", f"found {user}", expected, f"Perhaps account:{user} or *:{user}?")
    return None


def _matches_any(patterns: Sequence[Sequence[str]], text: str | None) -> bool:
    return text is not None and any(globs.matches_text(one, text) for one in patterns)


def _compile_uris(settings: RouteSettings) -> Iterator[_UriClause]:
    problems = [problem for uri in settings.uris if (problem := globs.problem_with(uri))]
    if problems:
        raise BadRoute(problems)
    if settings.uris:
        compiled = [globs.compile_glob(uri) for uri in settings.uris]
        yield _UriClause(" ".join(settings.uris), compiled)


def _compile_when(settings: RouteSettings, steps: int) -> Iterator[_WhenClause]:
    if settings.when is None:
        return
    try:
        expression = Expression(settings.when, NAMES, steps)
    except BadExpression as error:
        found = f"{error.reason} at character {error.position + 1}"
        advice = f"{error.advice or 'It is here:'}\n{pointer(settings.when, error.position)}"
        problem = Problem("when", found, "a JMESPath expression", advice)
        raise BadRoute([problem]) from error
    yield _WhenClause(settings.when, expression)


def _values(event: Event, change: Change) -> dict[str, Any]:
    """What ``when`` is asked about, under ``NAMES``."""
    return {
        "old": change.old,
        "new": change.new,
        "changed": list(change.changed),
        "action": event.action,
        "user_id": event.user_id,
        "resource_name": event.resource_name,
        "uri": change.uri,
        "object_id": change.object_id,
        "bucket_id": event.bucket_id,
        "collection_id": event.collection_id,
        "timestamp": event.timestamp,
        "name": event.name,
        "payload": event.payload,
    }


_Compiler = Callable[["RouteSettings"], Iterable[_EventClause | _ChangeClause]]
_COMPILERS: Sequence[_Compiler] = (
    _compile_events,
    _compile_names,
    _compile_users,
    _compile_uris,
)
