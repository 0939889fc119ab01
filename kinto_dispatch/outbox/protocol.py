"""What the relay and the listener ask of an outbox: a table that commits with the record.

A *mark* names a batch of relayed rows: a decimal number, greater than those of all batches before.
Only one reader at a time is between ``take`` and its end, over all processes, so batches reach the
log in the order of their marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """``waiting`` rows are committed and not yet relayed."""

    waiting: int
    oldest_waiting_seconds: float | None


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that a reader holds. ``mark`` is theirs once relayed, ``last`` the greatest mark of
    the rows relayed before and still kept; both ``None`` in an empty batch. ``lanes`` are all that
    were announced by when the rows were committed, and have to be known to the log before it gets
    them."""

    events: Sequence[tuple[str, bytes]] = ()
    mark: str | None = None
    last: str | None = None
    lanes: Sequence[str] = ()


class Outbox(Protocol):
    """The writer's side, used inside the transaction of a request. Made for the lanes of the async
    channels, which every reader that gets an event of this writer gets with it."""

    def write(self, events: Sequence[tuple[str, bytes]]) -> None:
        """Store ``(event id, body)`` pairs through the connection of the running transaction, in
        one statement: they commit or roll back with it. A second statement announces the lanes,
        as long as that is not known to be committed. Raises ``OutboxUnavailable``, and
        ``EventTooLarge`` for what will never fit."""


class OutboxReader(Protocol):
    """The relay's side, used in the worker: blocking, for one thread at a time.

    While a batch is held, only ``relayed``, ``give_back`` and ``close`` may be called. Every
    method but ``close`` may raise ``OutboxUnavailable``; then nothing is held any more, and the
    next call connects anew.
    """

    def take(self, count: int) -> Batch:
        """At most ``count`` committed rows, oldest first, held until ``relayed`` or ``give_back``.

        Fewer where the bodies are large. Empty, with nothing held, also while another reader
        holds a batch."""

    def relayed(self) -> None:
        """Mark the rows taken last as relayed, and let go of them."""

    def give_back(self) -> None:
        """Let go of the rows taken last, unrelayed. Does nothing when none are held."""

    def name(self) -> str | None:
        """What tells this outbox from all others, of whatever server; for people, too. ``None``
        where we may not know."""

    def last_mark(self) -> str | None:
        """The greatest mark of the relayed rows still kept; ``None`` when there are none."""

    def feed_again(self, after: str | None, upto: str) -> int:
        """Make rows relayed after mark ``after`` (``None``: all kept), but not after ``upto``,
        wait again, oldest first and not more than a bounded number; how many. Zero when none
        are left."""

    def prune(self, keep_seconds: float) -> int:
        """Forget rows that were relayed longer ago, oldest first and not more than a bounded
        number; how many. Zero when none are left."""

    def lead(self) -> bool:
        """Whether this reader, among all that read this outbox, is the one that polls often.
        Takes that part over when nobody has it, until the connection ends."""

    def status(self) -> OutboxStatus:
        """The outbox in numbers."""

    def close(self) -> None:
        """Give back the connection. From another thread it ends a running call, which raises
        ``OutboxUnavailable``. Never raises and never waits."""


def is_behind(mark: str | None, last: str | None) -> bool:
    """Whether a log that remembers ``mark`` lacks batches up to ``last``."""
    if last is None:
        return False
    known = mark is not None and mark.isdecimal()
    return not known or int(mark or 0) < int(last)
