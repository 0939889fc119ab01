"""What the relay and the listener ask of an outbox: a table that commits with the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """``waiting`` rows are committed and not yet relayed."""

    waiting: int
    oldest_waiting_seconds: float | None


class Outbox(Protocol):
    """The writer's side, used inside the transaction of a request."""

    def write(self, events: Sequence[tuple[str, bytes]]) -> None:
        """Store ``(event id, body)`` pairs through the connection of the running transaction, in
        one statement: they commit or roll back with it. Raises ``OutboxUnavailable``."""


class OutboxReader(Protocol):
    """The relay's side, used in the worker. Blocking: run it in a thread of its own.

    A batch stays locked by this reader until ``relayed`` or ``give_back``; other readers skip it.
    """

    def take(self, count: int) -> Sequence[tuple[str, bytes]]:
        """At most ``count`` committed rows, oldest first, that nobody else holds."""

    def relayed(self) -> str:
        """Mark the rows taken last as relayed, and let go of them. Returns the mark."""

    def give_back(self) -> None:
        """Let go of the rows taken last, unrelayed."""

    def feed_again(self, after_mark: str | None) -> int:
        """Make rows relayed after ``after_mark`` (``None``: all kept) wait again; how many."""

    def prune(self, keep_seconds: float) -> int:
        """Forget rows that were relayed longer ago; how many."""

    def status(self) -> OutboxStatus:
        """The outbox in numbers."""

    def close(self) -> None:
        """Give back the connection. Never raises."""
