"""Every exception that kinto-dispatch raises. Each writes its own sentence: what, found, do this.

The facts are attributes; the text is made from them, so a caller never parses a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


class DispatchError(Exception):
    """The base of every error raised by kinto-dispatch."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing an operator has to change.

    ``setting`` is the name as it was typed, ``found`` what stood there, ``expected`` what is
    allowed, ``advice`` what to do (a did-you-mean, a command).
    """

    setting: str
    found: str
    expected: str
    advice: str = ""

    def __str__(self) -> str:
        text = f"{self.setting}: {self.found}; expected {self.expected}."
        return f"{text} {self.advice}" if self.advice else text


class BadSettings(DispatchError):
    """Raised when the configuration cannot work. Holds all problems, not the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        count = len(self.problems)
        noun = "problem" if count == 1 else "problems"
        super().__init__(f"kinto-dispatch: {count} {noun} in the settings:\n{lines}")


class PluginError(DispatchError):
    """Raised when a plugin cannot be loaded, or breaks the contract of its hooks."""

    def __init__(self, plugin: str, reason: str) -> None:
        self.plugin = plugin
        self.reason = reason
        super().__init__(f"Plugin {plugin!r}: {reason}")


class UndecodableEvent(DispatchError):
    """Raised when bytes are not an event of a version that this release reads."""

    def __init__(self, reason: str, body: bytes) -> None:
        self.reason = reason
        self.body = body
        super().__init__(f"Not an event of a known version ({reason}): {body[:80]!r}")


class RouteError(DispatchError):
    """Raised when a route's expression cannot be evaluated on a change."""

    def __init__(self, expression: str, reason: str, uri: str) -> None:
        self.expression = expression
        self.reason = reason
        self.uri = uri
        super().__init__(f"when = {expression!r} cannot be evaluated on {uri}: {reason}")


class RenderError(DispatchError):
    """Raised when a template cannot be rendered within its bounds."""

    def __init__(self, template: str, reason: str) -> None:
        self.template = template
        self.reason = reason
        super().__init__(f"Template {template!r} cannot be rendered: {reason}")


class QueueUnavailable(DispatchError):
    """Raised when the queue did not answer. Nothing is known about what was sent last."""

    def __init__(self, url: str, reason: str, advice: str = "") -> None:
        self.url = url
        self.reason = reason
        advice = advice or "Check that the server runs and that queue_url is right."
        super().__init__(f"The queue at {url} cannot be used: {reason}. {advice}")


class QueueFull(QueueUnavailable):
    """Raised when the queue has no memory left for more. Nothing was done; what frees memory goes
    on, and so it passes by itself."""


class QueueRejected(QueueUnavailable):
    """Raised when the queue answered that a request makes no sense. Waiting does not help, and
    other requests go on."""

    def __init__(self, url: str, reason: str) -> None:
        advice = (
            "This is a bug of kinto-dispatch, or somebody else changed its keys, or the server is "
            "neither Redis nor Valkey. Please report it, with the versions."
        )
        super().__init__(url, f"it rejected a request ({reason})", advice)


class OutboxUnavailable(DispatchError):
    """Raised when the outbox cannot be written or read."""


class EventTooLarge(DispatchError):
    """Raised when the outbox can never take an event."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``Did you mean 'x'?`` for the nearest known word, or an empty string."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}?" if near else ""


class BadRoute(DispatchError, ValueError):
    """Raised when a route can never work as written. Holds all problems, not the first.

    Each ``setting`` is the bare name (``when``, ``uris``); whoever knows what stands before it
    in the ini adds that.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class BadHook(DispatchError, ValueError):
    """Raised when a hook in metadata cannot work as written. ``problems`` are pairs: where in the
    hook, and why."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        lines = (f"{where}: {why}" if where else why for where, why in self.problems)
        super().__init__("; ".join(lines))


class GroupsUnavailable(DispatchError):
    """Raised when the members of a group of Kinto cannot be looked up."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"Groups cannot be looked up: {reason}.")


class OutOfBudget(DispatchError):
    """Raised when an expression or a template does more work than it is given."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        super().__init__(f"it does more work than allowed ({budget:,} steps)")


class EgressRefused(DispatchError):
    """Raised instead of connecting to an address that no channel may send to unasked."""

    def __init__(self, host: str, address: str, kind: str) -> None:
        self.host = host
        self.address = address
        self.kind = kind
        where = address if host == address else f"{host} ({address})"
        super().__init__(
            f"{where} is refused: {kind}. If it is meant, set allow_hosts = {host},"
            f" or allow_networks to a network with {address} in it"
        )


class RedirectRefused(DispatchError):
    """Raised instead of following a redirect, which could lead anywhere."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(
            f"answered {status}, a redirect, which is not followed; set the URL it leads to"
        )
