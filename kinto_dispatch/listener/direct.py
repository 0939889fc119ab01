"""Appends to the log after the commit, where no outbox can join the transaction.

At most once: what a process still holds when it ends was never announced. What the queue does not
take is dropped, and never silently.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

from kinto_dispatch.capture import Captured
from kinto_dispatch.errors import QueueUnavailable
from kinto_dispatch.forks import in_forks
from kinto_dispatch.queue.protocol import Log


logger = logging.getLogger(__name__)

BUDGET_SECONDS = 0.25
"""What a write may be slowed down by a queue that does not answer."""

KEEP_SECONDS = 5.0
"""How long events are kept for a queue that is away. Enough for a server that is just starting."""

KEEP_BYTES = 16 * 1024 * 1024
GROUP_BYTES = 1024 * 1024
RETRY_SECONDS = 0.1
IDLE_SECONDS = 30.0


@dataclass(eq=False)
class Parcel:
    """The events of one transaction on their way to the log."""

    events: Sequence[Captured]
    deadline: float
    settled: threading.Event = field(default_factory=threading.Event)
    """It is appended, or given up."""

    @cached_property
    def size_bytes(self) -> int:
        """What the parcel weighs in memory, about."""
        return sum(len(event.body) for event in self.events)


class DirectAppender:
    """Hands events to the log in the order of their commits, and keeps account of what it lost.

    A write waits for its append, at most ``BUDGET_SECONDS``, and not at all while the queue is
    known to be away. Safe to use from many threads. While all is well the thread of the write
    appends itself; one thread of our own does it where that did not go well, or several writes
    come at once. It is started when needed and never keeps the process from ending. A fork begins
    with nothing: what its parent holds is the parent's to announce.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._begin()
        in_forks(self, DirectAppender._begin)
        atexit.register(_drop_all, weakref.ref(self))

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Parcel] = deque()
        self._waiting_bytes = 0
        self._thread: threading.Thread | None = None
        self._away = False
        self._flows = False
        self._here = threading.Lock()
        """Held by whoever appends, which keeps the order."""
        self.appended = 0
        """How many events the log has taken since the process began."""
        self.dropped = 0
        """How many events were lost since the process began."""
        self.is_losing = False
        """Whether events were lost, and none has been appended since."""

    def append(self, events: Sequence[Captured]) -> None:
        """Append the events of a transaction that is committed. Never raises.

        When this returns, the log has them, or they are tried for ``KEEP_SECONDS`` from the call
        on and then dropped: logged with their ids, and counted.
        """
        parcel = self._hand_over(events, time.monotonic() + KEEP_SECONDS)
        if parcel is None or self._away:
            return
        if not parcel.settled.wait(BUDGET_SECONDS):
            self._note_absence(f"no answer within {BUDGET_SECONDS:g} s")

    def _hand_over(self, events: Sequence[Captured], deadline: float) -> Parcel | None:
        """Append in the calling thread if the connection is known to be good, nothing waits and
        nobody else is at it: handing over to a thread and back costs more than the append. Else
        what the thread is to append; ``None`` if there is nothing to wait for."""
        if not (self._flows and self._here.acquire(blocking=False)):
            return self._keep(Parcel(events, deadline))
        try:
            is_next = not self._waiting
            if is_next and self._append_here(events):
                return None
            # What came while this was tried comes after it.
            return self._keep(Parcel(events, deadline), at_front=is_next)
        finally:
            self._here.release()

    def _append_here(self, events: Sequence[Captured]) -> bool:
        """False if the thread is to do it; the log knows events by id, so a repeat is harmless."""
        try:
            self._log.append([(event.id, event.body) for event in events])
        except QueueUnavailable as error:
            self._note_absence(str(error))
            return False
        except Exception:  # the thread meets it again, and says so
            return False
        self._count(events)
        return True

    def _keep(self, parcel: Parcel, at_front: bool = False) -> Parcel | None:
        with self._changed:
            waiting = self._waiting_bytes
            fits = not self._waiting or waiting + parcel.size_bytes <= KEEP_BYTES
            if fits:
                (self._waiting.appendleft if at_front else self._waiting.append)(parcel)
                self._waiting_bytes += parcel.size_bytes
                self._ensure_thread()
                self._changed.notify()
        if not fits:
            self._drop([parcel], f"{waiting:,} bytes wait for the queue already")
        return parcel if fits else None

    def _count(self, events: Sequence[Captured]) -> None:
        with self._changed:
            self.appended += len(events)
            self.is_losing = False

    # --- the thread ----------------------------------------------------------------------

    def _ensure_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="dispatch-log", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while self._has_work():
            with self._here:
                is_answered = self._append_together(self._next())
            if not is_answered:
                time.sleep(RETRY_SECONDS)

    def _has_work(self) -> bool:
        """False when the thread may end."""
        with self._changed:
            if not self._waiting:
                self._changed.wait(IDLE_SECONDS)
            if not self._waiting:
                self._thread = None
            return bool(self._waiting)

    def _next(self) -> list[Parcel]:
        """What to append at once, in one call that the log can answer in its time."""
        with self._changed:
            most = 0 if self._away else GROUP_BYTES
            sizes = accumulate(parcel.size_bytes for parcel in self._waiting)
            fitting = [p for p, size in zip(self._waiting, sizes, strict=True) if size <= most]
            return fitting or list(self._waiting)[:1]

    def _append_together(self, parcels: list[Parcel]) -> bool:
        """False if the queue was not there."""
        if not parcels:
            return True
        try:
            self._log.append([(it.id, it.body) for parcel in parcels for it in parcel.events])
        except QueueUnavailable as error:
            self._note_absence(str(error))
            self._drop_expired(str(error))
            return False
        except Exception as error:  # a bug of ours must not become a silent loss
            if len(parcels) > 1:
                return all(self._append_together([parcel]) for parcel in parcels)
            self._drop(self._take_off(parcels), f"{type(error).__name__}: {error}")
            return True
        self._note_presence()
        self._take_off(parcels)
        for parcel in parcels:
            self._count(parcel.events)
            parcel.settled.set()
        return True

    def _take_off(self, parcels: list[Parcel]) -> list[Parcel]:
        """These no longer wait; those that ``drop_all`` took meanwhile are left out."""
        with self._changed:
            taken = [parcel for parcel in parcels if parcel in self._waiting]
            for parcel in taken:
                self._waiting.remove(parcel)
                self._waiting_bytes -= parcel.size_bytes
        return taken

    def _drop_expired(self, reason: str) -> None:
        now = time.monotonic()
        with self._changed:
            expired = [parcel for parcel in self._waiting if parcel.deadline <= now]
        self._drop(self._take_off(expired), reason)

    # --- the account ---------------------------------------------------------------------

    def _note_absence(self, reason: str) -> None:
        self._flows = False
        if not self._away:
            self._away = True
            logger.warning(
                "The queue does not take events, which are kept for %g s: %s", KEEP_SECONDS, reason
            )

    def _note_presence(self) -> None:
        if self._away:
            logger.warning("The queue takes events again; lost until now: %d", self.dropped)
        self._away = False
        self._flows = True

    def _drop(self, parcels: Sequence[Parcel], reason: str) -> None:
        if not parcels:
            return
        ids = [event.id for parcel in parcels for event in parcel.events]
        with self._changed:
            self.dropped += len(ids)
            self.is_losing = True
        logger.error(
            "Lost %d events that are written and will not be announced: %s. Ids: %s",
            len(ids),
            reason,
            " ".join(ids),
            extra={"event_ids": ids, "reason": reason},
        )
        for parcel in parcels:
            parcel.settled.set()

    def drop_all(self) -> None:
        """Give up what still waits, as loudly as ever: the process ends."""
        with self._changed:
            waiting = self._take_off(list(self._waiting))
        self._drop(waiting, "the process ends, and the queue has not taken them")


def _drop_all(reference: weakref.ref[DirectAppender]) -> None:
    if (appender := reference()) is not None:
        appender.drop_all()
