"""Claim, attempt, settle: the loops of one lane in one worker process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from kinto_dispatch.attempt import Attempter, Run
from kinto_dispatch.errors import QueueRejected, QueueUnavailable
from kinto_dispatch.lane.alone import Alone
from kinto_dispatch.lane.destination import Destination
from kinto_dispatch.lane.holdings import Holdings
from kinto_dispatch.lane.pace import Pace
from kinto_dispatch.lane.promoter import Promoter
from kinto_dispatch.lane.slots import Slots
from kinto_dispatch.patience import Patience
from kinto_dispatch.plugins import Channel
from kinto_dispatch.quarantine import Quarantine
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.values import Claim, Settlement


logger = logging.getLogger(__name__)

FETCH_BLOCK_SECONDS = 0.5
"""How long an idle lane waits in one call for work: the longest an idle worker takes to stop."""

LOOK_SECONDS = 0.5
"""How late a lane may notice that another worker found its destination to answer again."""

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
        self._lease_seconds = lease_seconds
        self._stopping = stopping
        self._patience = Patience(stopping)
        self._drain_patience = Patience(asyncio.Event())
        slots = concurrency or channel.config.concurrency
        self._attempter = Attempter(channel, slots)
        self._slots = Slots(channel.name, slots, self._attempter)
        self._holdings = Holdings(channel.name, queue, lease_seconds)
        seconds, limit = channel.config.timeout_seconds, channel.config.rate_limit
        self._solitude = Alone(
            quarantine, self._attempter, queue, self._holdings, seconds, self._drain_patience
        )
        self._destination = Destination(channel.name, queue, consumer)
        self._pace = Pace(slots, limit)
        self._promoter = Promoter(channel.name, queue, self._destination, self._pace)
        self._fetch_some = partial(queue.fetch, channel.name, consumer, limit=limit)
        self._reclaim_some = partial(queue.reclaim, channel.name, consumer, limit=limit)
        self._waiting: deque[Claim] = deque()
        self._running: dict[str, Run] = {}
        self._alone: dict[str, asyncio.Task[None]] = {}
        self._is_away = False
        self._back_at = float("-inf")
        self.takeover_seconds = lease_seconds
        """After how long without a sign what others hold is taken over: the longest lease of all
        workers that live, which may have another one than ours."""
        self.rounds = 0
        """How often it came round to ask for deliveries, or to wait until it has room for them."""
        self._to_settle = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """How many claims are held: waiting for a slot, running, or not yet settled."""
        return len(self._holdings)

    @property
    def has_room(self) -> bool:
        """Whether it should be asking for deliveries."""
        return self._wanted() > 0

    @property
    def is_stuck(self) -> bool:
        """Whether so many threads hang that not every slot has one."""
        return self._slots.is_stuck(len(self._running))

    @property
    def rejected(self) -> Mapping[str, QueueRejected]:
        """What the queue rejects, by what it is for."""
        return {**self._patience.rejected, **self._drain_patience.rejected}

    async def run(self) -> None:
        """Work until ``stopping`` is set, then finish what runs. Cancelling it gives up on what
        still runs; call ``release`` afterwards."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                promote = partial(self._promoter.run, self._stopping, self._patience)
                steps = (self._settle, self._renew, self._reclaim, promote, self._notice)
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
        await self._ask(self._look, "claiming")
        while not self._stopping.is_set():
            self.rounds += 1
            if not self._destination.is_trusted:
                await self._ask(self._hold_back, "probing")
            elif self._wanted() <= 0:
                await self._change()
            else:
                await self._ask(self._fetch, "claiming")

    async def _look(self) -> bool:
        await self._destination.look()
        return True

    async def _fetch(self) -> bool:
        asked_at = _now()
        self._pace.measure(asked_at)
        claims = await self._fetch_some(self._free() + self._pace.ahead, FETCH_BLOCK_SECONDS)
        self._take(claims, asked_at)
        # Where nothing comes, the breaker may be why.
        return bool(claims) or await self._look()

    def _wanted(self) -> int:
        """How many to claim; not a few at a time, as long as enough are there."""
        free, ahead = self._free(), self._pace.ahead
        return free + ahead if free > 0 or 2 * (free + ahead) > ahead else 0

    # --- probe ---------------------------------------------------------------------------

    async def _hold_back(self) -> bool:
        """While the destination does not answer: keep nothing, and probe when it is time."""
        await self._give_back_waiting()
        wait = await self._destination.ask_to_probe()
        is_probing = self._destination.probe in self._holdings or self._destination.has_news
        if is_probing or self._busy() >= self._slots.open(len(self._running)):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._change(), LOOK_SECONDS)
        elif wait > 0:
            await self._patience.pause(min(wait, LOOK_SECONDS))
        elif not self._destination.is_trusted:
            await self._probe()
        return True

    async def _give_back_waiting(self) -> None:
        """What was claimed and did not begin is for later, with the attempts that it has."""
        claims, self._waiting = self._waiting, deque()
        self._waiting += (one for one in claims if self._destination.may_attempt(one))
        unwanted = [one for one in claims if not self._destination.may_attempt(one)]
        try:
            await self._holdings.give_back(unwanted)
        except QueueUnavailable:
            self._waiting += unwanted
            raise

    async def _probe(self) -> None:
        """Attempt one: a new one, or one that a dead worker held."""
        probe, asked_at = self._destination.needs_permission, _now()
        claims = await self._fetch_some(1, FETCH_BLOCK_SECONDS, probe=probe)
        if not claims and self._may_reclaim():
            asked_at = _now()
            claims = await self._reclaim_some(self.takeover_seconds, 1, probe=probe)
        self._destination.takes(claims)
        self._take(claims, asked_at)

    def _take(self, claims: Sequence[Claim], asked_at: float) -> None:
        new = self._holdings.take(claims, asked_at)
        self._waiting += (claim for claim in new if not claim.suspect)
        # What a dead worker held has waited longest.
        self._waiting.extendleft(claim for claim in reversed(new) if claim.suspect)
        self._start()

    def _free(self) -> int:
        """How many more claims could be attempted at once."""
        return self._slots.open(len(self._running)) - self._busy() - len(self._waiting)

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
        with contextlib.suppress(QueueUnavailable):
            await self._destination.leave()

    # --- attempt -------------------------------------------------------------------------

    def _start(self) -> None:
        """Attempt what waits, as far as there are slots, and never what may be somebody else's."""
        if self._stopping.is_set() or self._holdings.final is not None:
            return
        slots, waiting = self._slots.open(len(self._running)), self._waiting
        while waiting and self._holdings.is_sure(waiting[0]):
            if self._busy() >= slots or not self._destination.may_attempt(waiting[0]):
                return
            claim = waiting.popleft()
            if claim.suspect or self._attempter.room <= 0:
                self._alone[claim.id] = self._group.create_task(self._attempt_alone(claim))
            else:
                self._running[claim.id] = self._attempter.start(
                    claim,
                    self._ended,
                    partial(self._holdings.is_sure, claim),
                    partial(self._postpone, claim),
                )

    def _ended(self, settlement: Settlement) -> None:
        del self._running[settlement.claim.id]
        self._settled(settlement)
        self._start()

    def _postpone(self, claim: Claim) -> None:
        """This process stood still when it was about to begin: ask first who has it."""
        del self._running[claim.id]
        if self._holdings.is_lost(claim):
            self._holdings.forget([claim])
        else:
            self._waiting.appendleft(claim)
        self._changed.set()

    async def _attempt_alone(self, claim: Claim) -> None:
        """What a dead worker held runs in a process of its own: it may be what killed it. So does
        whatever finds no thread, since the hooks of all hang: there it can be ended."""
        try:
            end = await self._solitude.attempt(claim)
            if isinstance(end, Claim):
                self._waiting.append(end)
            elif end is not None:
                self._settled(end)
        finally:
            # It may have been lost meanwhile, and even claimed and begun anew.
            if self._alone.get(claim.id) is asyncio.current_task():
                del self._alone[claim.id]
        self._changed.set()
        self._start()

    # --- settle --------------------------------------------------------------------------

    def _settled(self, settlement: Settlement) -> None:
        self._pace.count()
        self._holdings.add(settlement)
        self._to_settle.set()
        self._changed.set()

    async def _settle(self) -> None:
        while True:
            await self._to_settle.wait()
            self._to_settle.clear()
            while self._has_to_tell():
                await self._ask(self._settle_some, "settling", self._drain_patience)
                self._changed.set()

    def _has_to_tell(self) -> bool:
        holdings = self._holdings
        return holdings.has_unsettled or holdings.final is not None or self._destination.has_news

    async def _settle_some(self) -> bool:
        final = self._holdings.final
        if self._holdings.has_unsettled:
            self._destination.learn(await self._holdings.settle())
        if final is not None:
            await self._give_back_unbegun()
            self._holdings.final = None
        await self._destination.share()
        self._start()
        return True

    async def _give_back_unbegun(self) -> None:
        """The lane was paused: what was claimed and did not begin waits there, too."""
        while unbegun := list(self._waiting):
            await self._holdings.give_back(unbegun)
            self._waiting = deque(one for one in self._waiting if one.id in self._holdings)

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
        self._slots.look(len(self._running))
        self._changed.set()
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

    async def _reclaim(self) -> None:
        """Take over what dead workers held; after an absence of the queue not before all who live
        had a whole lease to renew theirs."""
        while not self._stopping.is_set():
            await self._patience.pause(self._lease_seconds / 4)
            is_trusted = self._destination.is_trusted
            if is_trusted and self._room_for_suspects() > 0 and self._may_reclaim():
                await self._patience.attempt(self._reclaim_once, self._what("reclaiming"))

    def _may_reclaim(self) -> bool:
        is_settled_in = _now() > self._back_at + self.takeover_seconds
        return is_settled_in and not self._is_away

    async def _reclaim_once(self) -> None:
        asked_at = _now()
        room = self._room_for_suspects()
        self._take(await self._reclaim_some(self.takeover_seconds, room), asked_at)

    def _room_for_suspects(self) -> int:
        """Up to half of the slots even where none is free: in a lane that always has work, what
        dead workers held would wait for ever."""
        held = len(self._alone) + sum(claim.suspect for claim in self._waiting)
        return max(self._free(), max(1, self._slots.count // 2) - held)

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
