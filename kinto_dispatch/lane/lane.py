"""Claim, attempt, settle: the loops of one lane in one worker process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from kinto_dispatch.attempt import Attempter, Run
from kinto_dispatch.errors import QueueUnavailable
from kinto_dispatch.lane.holdings import Holdings
from kinto_dispatch.patience import Patience
from kinto_dispatch.plugins import Channel
from kinto_dispatch.quarantine import Died, Postponed, Quarantine, Unfinished
from kinto_dispatch.queue.protocol import Claim, Later, Queue, Settlement


logger = logging.getLogger(__name__)

FETCH_BLOCK_SECONDS = 0.5
"""How long an idle lane waits in one call for work: the longest an idle worker takes to stop."""

PROMOTE_SECONDS = 0.5
"""How late a delivery that became due may be noticed when another worker scheduled it."""

AHEAD_SECONDS = 0.02
AHEAD_MOST = 400
"""How many claims may wait for a slot: as many as were lately attempted in that time. So slots
never wait for the server, and where deliveries are slow, none is held back from others."""

PROMOTE_BATCH = 200

T = TypeVar("T")


class Lane:
    """Runs the deliveries of one channel, at most ``concurrency`` at a time in this process.

    Claims are renewed until they are settled. When the queue is away, what was attempted is kept
    and settled first when it returns.
    """

    def __init__(
        self,
        channel: Channel,
        queue: Queue,
        consumer: str,
        quarantine: Quarantine,
        lease_seconds: float,
        stopping: asyncio.Event,
        *,
        concurrency: int | None = None,
    ) -> None:
        self.name = channel.name
        self._queue = queue
        self._consumer = consumer
        self._quarantine = quarantine
        self._timeout_seconds = channel.config.timeout_seconds
        self._lease_seconds = lease_seconds
        self._stopping = stopping
        self._patience = Patience(stopping)
        self._drain_patience = Patience(asyncio.Event())
        self._slots = concurrency or channel.config.concurrency
        self._attempter = Attempter(channel, self._slots)
        self._holdings = Holdings(channel.name, queue, lease_seconds)
        self._waiting: deque[Claim] = deque()
        self._running: dict[str, Run] = {}
        self._alone: dict[str, asyncio.Task[None]] = {}
        self._attempted = self._attempted_then = 0
        self._asked_at = 0.0
        self._ahead = 0
        self._is_away = False
        self._is_stuck = False
        self._back_at = float("-inf")
        self._to_settle = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """How many claims are held: waiting for a slot, running, or not yet settled."""
        return len(self._holdings)

    async def run(self) -> None:
        """Work until ``stopping`` is set, then finish what runs. Cancelling it gives up on what
        still runs; call ``release`` afterwards."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                steps = (self._settle, self._renew, self._reclaim, self._promote, self._notice)
                tasks = [group.create_task(step()) for step in steps]
                await self._claim()
                await self._drain()
                for task in tasks:
                    task.cancel()
        finally:
            for run in self._running.values():
                run.cancel()

    async def release(self) -> None:
        """Settle what was attempted and give the rest back, unattempted."""
        await self._holdings.release()

    # --- claim ---------------------------------------------------------------------------

    async def _claim(self) -> None:
        while not self._stopping.is_set():
            if self._wanted() <= 0:
                await self._change()
            else:
                await self._ask(self._fetch, "claiming")

    async def _fetch(self) -> bool:
        asked_at = _now()
        pace = (self._attempted - self._attempted_then) / max(asked_at - self._asked_at, 0.001)
        self._asked_at, self._attempted_then = asked_at, self._attempted
        self._ahead = min(AHEAD_MOST, int(pace * AHEAD_SECONDS))
        claims = await self._queue.fetch(
            self.name, self._consumer, self._free() + self._ahead, FETCH_BLOCK_SECONDS
        )
        self._take(claims, asked_at)
        return True

    def _wanted(self) -> int:
        """How many to claim; not a few at a time, as long as enough are there."""
        free = self._free()
        wanted = free + self._ahead
        return wanted if free > 0 or 2 * wanted > self._ahead else 0

    def _take(self, claims: Sequence[Claim], asked_at: float) -> None:
        new = self._holdings.take(claims, asked_at)
        self._waiting += (claim for claim in new if not claim.suspect)
        # What a dead worker held has waited longest.
        self._waiting.extendleft(claim for claim in reversed(new) if claim.suspect)
        self._start()

    def _free(self) -> int:
        """How many more claims could be attempted at once."""
        return min(self._slots - self._busy(), self._attempter.room) - len(self._waiting)

    def _busy(self) -> int:
        return len(self._running) + len(self._alone)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _notice(self) -> None:
        """Wake up who waits for a change, since what it waits for may take long to come."""
        await self._stopping.wait()
        self._changed.set()

    async def _drain(self) -> None:
        """Give back what did not begin to run, and wait for the rest."""
        unstarted = list(self._waiting)
        self._waiting.clear()
        with contextlib.suppress(QueueUnavailable):
            await self._holdings.give_back(unstarted)
        while self._running or self._alone or self._holdings.has_unsettled:
            await self._change()

    # --- attempt -------------------------------------------------------------------------

    def _start(self) -> None:
        """Attempt what waits, as far as there are slots, and never what may be somebody else's."""
        if self._stopping.is_set():
            return
        while self._waiting and self._holdings.is_sure(self._waiting[0]):
            if self._busy() >= self._slots or self._attempter.room <= 0:
                return
            claim = self._waiting.popleft()
            if claim.suspect:
                self._alone[claim.id] = self._group.create_task(self._attempt_alone(claim))
            else:
                self._running[claim.id] = self._attempter.start(claim, self._ended)

    def _ended(self, settlement: Settlement) -> None:
        del self._running[settlement.claim.id]
        self._attempted += 1
        self._settled(settlement)
        self._start()

    async def _attempt_alone(self, claim: Claim) -> None:
        """What a dead worker held runs in a process of its own: it may be what killed it."""
        try:
            # This process may stand still while it waits for its turn.
            sure = partial(self._holdings.is_sure, claim)
            self._settled(await self._quarantine.attempt(claim, self._timeout_seconds, sure))
        except Postponed:
            self._waiting.appendleft(claim)
        except Died as death:
            await self._strike(claim, str(death))
        except Unfinished as unfinished:
            settlement = self._attempter.give_up(claim, str(unfinished), unfinished.took_seconds)
            if isinstance(settlement.fate, Later):
                settlement = replace(settlement, fate=replace(settlement.fate, suspect=True))
            self._settled(settlement)
        finally:
            # It may have been lost meanwhile, and even claimed and begun anew.
            if self._alone.get(claim.id) is asyncio.current_task():
                del self._alone[claim.id]
        self._changed.set()
        self._start()

    async def _strike(self, claim: Claim, reason: str) -> None:
        """A death while alone. The second makes it a dead letter, the first gives it a chance."""
        before = await self._drain_patience.attempt(
            lambda: self._queue.strike(self.name, claim), f"striking in lane {self.name!r}"
        )
        if before:
            self._settled(self._attempter.condemn(claim, reason))
        else:
            self._waiting.append(claim)

    # --- settle --------------------------------------------------------------------------

    def _settled(self, settlement: Settlement) -> None:
        self._holdings.add(settlement)
        self._to_settle.set()
        self._changed.set()

    async def _settle(self) -> None:
        while True:
            await self._to_settle.wait()
            self._to_settle.clear()
            while self._holdings.has_unsettled:
                await self._ask(self._holdings.settle, "settling", self._drain_patience)
                self._changed.set()

    # --- keep alive ----------------------------------------------------------------------

    async def _renew(self) -> None:
        while True:
            due = _now() + self._lease_seconds / 3
            await asyncio.sleep(self._lease_seconds / 3)
            if _now() > due + self._lease_seconds / 3:
                # This process stood still, and maybe the whole machine.
                self._back_at = _now()
            while await self._ask(self._renew_once, "renewing", self._drain_patience) is None:
                pass

    async def _renew_once(self) -> bool:
        self._let_go(await self._holdings.renew())
        self._look_at_threads()
        self._start()
        return True

    def _let_go(self, lost: Sequence[Claim]) -> None:
        """Not begun, or ended, what somebody else runs now; what cannot be ended goes on."""
        ids = {claim.id for claim in lost}
        alone = [claim for claim in lost if claim.id in self._alone]
        self._holdings.forget([*alone, *(claim for claim in self._waiting if claim.id in ids)])
        self._waiting = deque(claim for claim in self._waiting if claim.id not in ids)
        for claim in alone:
            self._alone.pop(claim.id).cancel()

    def _look_at_threads(self) -> None:
        """Hooks that were left behind may have ended; where none does, somebody should know."""
        is_stuck = self._attempter.room <= 0 and not self._running
        if is_stuck and not self._is_stuck:
            logger.error(
                "lane.stuck channel=%s: every thread hangs in its hook, so its deliveries wait "
                "for another worker. Restart this one; give what the hook calls a time-out.",
                self.name,
            )
        self._is_stuck = is_stuck
        self._changed.set()

    async def _reclaim(self) -> None:
        """Take over what dead workers held; after an absence of the queue not before all who live
        had a whole lease to renew theirs."""
        while not self._stopping.is_set():
            await self._patience.pause(self._lease_seconds / 4)
            is_settled_in = _now() > self._back_at + self._lease_seconds
            if self._room_for_suspects() > 0 and is_settled_in and not self._is_away:
                await self._patience.attempt(self._reclaim_once, self._what("reclaiming"))

    async def _reclaim_once(self) -> None:
        asked_at = _now()
        claims = await self._queue.reclaim(
            self.name, self._consumer, self._lease_seconds, self._room_for_suspects()
        )
        self._take(claims, asked_at)

    def _room_for_suspects(self) -> int:
        """Up to half of the slots even where none is free: in a lane that always has work, what
        dead workers held would wait for ever."""
        if self._attempter.room <= 0:
            return 0
        held = len(self._alone) + sum(claim.suspect for claim in self._waiting)
        return max(self._free(), max(1, self._slots // 2) - held)

    async def _promote(self) -> None:
        while not self._stopping.is_set():
            moved = await self._patience.attempt(self._promote_once, self._what("retrying"))
            await self._patience.pause(PROMOTE_SECONDS if moved is None else moved)

    async def _promote_once(self) -> float:
        moved, next_due = await self._queue.promote(self.name, PROMOTE_BATCH)
        if moved == PROMOTE_BATCH:
            return 0.0
        return min(PROMOTE_SECONDS, PROMOTE_SECONDS if next_due is None else next_due)

    # --- the queue's absence -------------------------------------------------------------

    async def _ask(
        self, step: Callable[[], Awaitable[T]], verb: str, patience: Patience | None = None
    ) -> T | None:
        """As ``Patience.attempt``, and remember when the queue came back."""
        result = await (patience or self._patience).attempt(step, self._what(verb))
        if self._is_away and result is not None:
            self._back_at = _now()
        self._is_away = result is None
        return result

    def _what(self, verb: str) -> str:
        return f"{verb} in lane {self.name!r}"


def _now() -> float:
    return asyncio.get_running_loop().time()
