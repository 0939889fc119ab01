"""What the rest of kinto-dispatch asks of a queue engine, and the values that pass through.

The *log* is the append-only stream of captured events. A *lane* is one channel's own queue. Each
lane keeps a *cursor*: how far into the log it has been routed. Routing moves the cursor and
appends to the lane in one atomic step, on the condition that the cursor still stands where the
router saw it, so any number of routers can run and each event enters a lane exactly once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from kinto_dispatch.limit import RateLimit
from kinto_dispatch.queue.values import (
    START_OF_LOG,
    Claim,
    DeadEntry,
    DeadLetter,
    Digesting,
    Entry,
    LaneStatus,
    LogEntry,
    QueueHealth,
    Settlement,
)


class Log(Protocol):
    """The producer's side, used in Kinto's web processes: blocking, thread-safe, fork-safe."""

    def append(self, events: Sequence[tuple[str, bytes]]) -> None:
        """Append ``(event id, body)`` pairs in order, atomically; returns when the log has them.

        Idempotent by event id within a bounded window, so it may be called again when the fate of
        an earlier call is unknown. Raises ``QueueUnavailable``, of the kind ``QueueRejected``
        where that cannot help; blocks at most the time-out that the log was made with.
        """

    def summary(self) -> tuple[Sequence[LaneStatus], bool]:
        """The lanes in numbers, and whether a worker was ever seen."""

    def health(self) -> QueueHealth:
        """Ask the server about itself."""

    def close(self) -> None:
        """Give back connections. Never raises."""


class Queue(Protocol):
    """The worker's side. Every method may raise ``QueueUnavailable`` and has no effect then,
    or an effect that a second call finds done; only ``enqueue`` would do it again.

    ``QueueRejected`` is raised where the server does not understand a request: a bug, or a value
    that is not ours.
    """

    full: asyncio.Event
    """Set whenever the server had no memory for what was asked; for those who can make room, and
    cleared by them."""

    # --- the log -------------------------------------------------------------------------

    async def register(self, lanes: Sequence[str]) -> None:
        """Make the lanes known: a new lane starts at the end of the log as it stands now, so what
        is appended later reaches it. Known lanes stay as they are."""

    async def append(
        self,
        events: Sequence[tuple[str, bytes]],
        mark: str | None = None,
        after: str | None = None,
    ) -> bool:
        """As ``Log.append``. With ``mark``, the log remembers it in the same atomic step, but only
        where it remembers ``after`` until then (``None``: no mark): else nothing is appended and
        the answer is false, so that a log that lost its memory can never hide it behind a newer
        mark. True also where the log remembers ``mark`` already: the call was a repeat."""

    async def mark(self) -> tuple[str, str | None]:
        """The server's run id and the last mark, ``None`` where the log has forgotten."""

    async def note_source(self, outbox: str) -> str | None:
        """Note from which outbox the log is fed; the one that was noted before."""

    async def read_log(
        self, after: str, count: int, block_seconds: float = 0.0
    ) -> Sequence[LogEntry]:
        """At most ``count`` entries after ``after``, waiting ``block_seconds`` for the first.

        They may be fewer though more are there, so that large ones don't fill the memory; none at
        all only at the end of the log.
        """

    async def trim_log(self, before_ms: int, keep_from: str, max_bytes: int) -> int:
        """Forget entries older than ``before_ms``, but none at or after ``keep_from``; how
        many. Above ``max_bytes`` also younger ones that every lane has been routed past."""

    # --- the lanes -----------------------------------------------------------------------

    async def registered(self) -> Mapping[str, str]:
        """All lanes that the log knows, of whatever ini, and where each began."""

    async def cursors(self, lanes: Sequence[str]) -> Mapping[str, str]:
        """How far each lane has been routed; for a lane never routed, where it begins."""

    async def route(
        self,
        lane: str,
        after: str,
        upto: str,
        entries: Sequence[Entry],
        dead: Sequence[DeadEntry],
        *,
        digesting: Digesting | None = None,
        squeeze: bool = False,
    ) -> str:
        """Append ``entries`` and move the cursor from ``after`` to ``upto``, or do nothing if the
        cursor stands elsewhere. Returns where it stands now.

        Those of a ``digest`` wait for each other, as ``digesting`` says, and become one delivery
        when ``promote`` finds them due: its key ends in ``:digest`` if it is made of several, and
        its body holds all their events. With ``only_latest`` it is the last of them alone. Of
        each digest at most one delivery is in the lane, so that none overtakes an older one; what
        comes meanwhile is for the next. Each delivery that became a part of another, or was
        skipped, has a record that says so (``joined``, ``skipped``).

        Raises ``QueueFull`` where there is no memory for ``entries``. With ``squeeze``, which is
        for few, they pass all the same into a lane in which nothing waits for anything: what is in
        the log could never leave it otherwise.
        """

    async def fetch(
        self,
        lane: str,
        consumer: str,
        count: int,
        block_seconds: float,
        *,
        limit: RateLimit | None = None,
        probe: bool = False,
    ) -> Sequence[Claim]:
        """Claim at most ``count`` new deliveries in lane order, waiting for the first; fewer of
        those that are large.

        With ``limit`` no more than it grants by now: each claim, by whatever worker, takes a
        token, and while there is none the deliveries wait in the lane. From a lane that is paused,
        or whose breaker is not closed, nothing comes, but for a ``probe`` of the latter.
        """

    async def renew(self, lane: str, claims: Sequence[Claim]) -> Sequence[Claim]:
        """Prolong the leases of these claims; returns those that were lost to somebody else."""

    async def reclaim(
        self,
        lane: str,
        consumer: str,
        lease_seconds: float,
        count: int,
        *,
        limit: RateLimit | None = None,
        probe: bool = False,
    ) -> Sequence[Claim]:
        """Take over deliveries whose lease ran out. They come back as ``suspect``. After a restart
        of the server nothing is taken for one lease, in which those who live renew theirs.
        ``limit`` and ``probe`` as for ``fetch``."""

    async def settle(self, lane: str, settlements: Sequence[Settlement]) -> Sequence[bool]:
        """Carry out fates and keep the attempt records, atomically per lane.

        For each: true if it counted. A stale ``Done`` still closes the entry, also where it waits
        for its next attempt already; a stale ``Later`` or ``Dead`` changes nothing and is false.
        An answer of the destination makes a closed breaker forget what failed before.
        """

    async def release(self, lane: str, claims: Sequence[Claim]) -> None:
        """Give claims back unrun: same attempt number, at once available to others."""

    async def promote(
        self, lane: str, count: int, *, upto: int | None = None, at_least: int = 0
    ) -> tuple[int, float | None]:
        """Move what is due back into the lane, and digests that are due for the first time, at
        most ``count``. Returns how many, and the seconds until the next is due (``None`` when none
        waits). A newer version takes the place of one that waited for its next attempt.

        With ``upto`` only as many as it takes until so many deliveries wait in the lane, or
        ``at_least`` many if that is more: what is new shall not wait behind all that is due.
        """

    async def strike(self, lane: str, claim: Claim) -> int:
        """Note that a process died that ran this alone, once more than ``claim.strikes``; returns
        how many did by now. 0 where somebody else holds it: then it is not noted."""

    async def breaker(self, lane: str) -> tuple[str, int]:
        """The lane's breaker as text, see ``breaker.py``, and the server's clock in ms."""

    async def move_breaker(self, lane: str, before: str, after: str) -> bool:
        """Set the breaker to ``after`` if it still stands at ``before``; whether it did."""

    # --- what channels remember ------------------------------------------------------------

    async def recall(self, lane: str, name: str) -> bytes | None:
        """What the channel of this lane remembered last under this name; ``None`` once it is
        forgotten. Nothing may rely on it."""

    async def remember(self, lane: str, name: str, value: bytes, seconds: float) -> None:
        """Keep this for so long, in place of what was there."""

    # --- operators -----------------------------------------------------------------------

    async def beat(
        self, worker: str, info: Mapping[str, Any], ttl_seconds: float
    ) -> Sequence[Mapping[str, Any]]:
        """Say that this worker lives, and get all that do, as by ``workers``. Forgotten after
        ``ttl_seconds`` without another beat."""

    async def retire(self, worker: str, lanes: Sequence[str], consumers: Sequence[str]) -> None:
        """This worker is gone: forget it, and its consumers where nothing is pending on them."""

    async def workers(self) -> Sequence[Mapping[str, Any]]:
        """The living workers, as they described themselves in ``beat``."""

    async def status(self, lanes: Sequence[str]) -> Sequence[LaneStatus]:
        """The lanes in numbers, in the order asked."""

    async def dead_letters(
        self, lane: str, after: str = START_OF_LOG, count: int = 1000
    ) -> Sequence[DeadLetter]:
        """Dead letters oldest first, a page at a time: at most ``count``, fewer of those that are
        large, and none only at the end."""

    async def replay_dead(self, lane: str, letters: Sequence[DeadLetter]) -> int:
        """Move dead letters back into the lane as first attempts marked ``replay``; how many."""

    async def purge_dead(self, lane: str, letters: Sequence[DeadLetter]) -> int:
        """Destroy dead letters; how many."""

    async def enqueue(self, lane: str, entries: Sequence[Entry]) -> None:
        """Append deliveries to a lane outside routing: a replay, a test."""

    async def attempts(
        self, lane: str, after: str = START_OF_LOG, count: int = 1000
    ) -> Sequence[tuple[str, bytes]]:
        """Pages of attempt records, ``(position, record)`` oldest first."""

    async def pause(self, lane: str, paused: bool) -> None:
        """While paused a lane fills and nobody fetches from it."""

    async def prune(
        self,
        lane: str,
        attempts_before_ms: int,
        dead_before_ms: int,
        attempts_max_bytes: int | None = None,
    ) -> int:
        """Forget attempt records and dead letters older than that, and of the records also the
        oldest above ``attempts_max_bytes``, as the server estimates them; how many. Records of
        one settling count as one."""

    async def health(self) -> QueueHealth:
        """Ask the server about itself."""

    async def close(self) -> None:
        """Give back connections. Never raises."""
