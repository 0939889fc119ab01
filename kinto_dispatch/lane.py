"""One channel's lane in one worker: claim, attempt, settle, and keep the claims alive."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from kinto_dispatch.attempt import Attempter
from kinto_dispatch.patience import Patience
from kinto_dispatch.plugins import Channel
from kinto_dispatch.quarantine import CHILDREN, Died, Quarantine
from kinto_dispatch.queue.protocol import Claim, Queue, Settlement


logger = logging.getLogger(__name__)

FETCH_BLOCK_SECONDS = 0.5
"""How long an idle lane waits in one call for work: the longest an idle worker takes to stop."""

PROMOTE_SECONDS = 0.5
"""How late a delivery that became due may be noticed when another worker scheduled it."""

AHEAD_MOST = 400
"""How many claims may wait for a slot at most, where deliveries are quick."""

PROMOTE_BATCH = 200
SETTLE_BATCH = 500


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
        self._attempter = Attempter(channel)
        self._ready: asyncio.Queue[Claim] = asyncio.Queue()
        self._suspects: asyncio.Queue[Claim] = asyncio.Queue()
        self._unstarted = 0
        self._running = 0
        self._attempted = 0
        self._ahead = 0
        self._held: dict[str, Claim] = {}
        self._unsettled: deque[Settlement] = deque()
        self._to_settle = asyncio.Event()
        self._room = asyncio.Event()
        self._drained = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """How many claims are held: waiting for a slot, running, or not yet settled."""
        return len(self._held)

    async def run(self) -> None:
        """Work until ``stopping`` is set, then finish what is held. Cancelling it gives up on
        what still runs; call ``release`` afterwards."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._work()) for _ in range(self._slots)]
            tasks += [group.create_task(self._work_alone()) for _ in range(CHILDREN)]
            tasks += [
                group.create_task(step())
                for step in (self._settle, self._renew, self._reclaim, self._promote)
            ]
            await self._claim()
            await self._until_drained()
            for task in tasks:
                task.cancel()

    async def release(self) -> None:
        """Settle what was attempted and give the rest back, unattempted."""
        while self._unsettled:
            await self._settle_batch()
        await self._queue.release(self.name, list(self._held.values()))
        self._held.clear()

    # --- claim ---------------------------------------------------------------------------

    async def _claim(self) -> None:
        while not self._stopping.is_set():
            if self._free() <= 0:
                await self._wait_for_room()
                continue
            claims = await self._patience.attempt(self._fetch, f"lane {self.name!r}")
            self._take(claims or ())

    async def _fetch(self) -> Sequence[Claim]:
        """Claim for the slots that are free, and as many ahead as were attempted during the last
        claim: with quick deliveries the slots never wait for the server, with slow ones nothing
        is held back from other workers."""
        before = self._attempted
        claims = await self._queue.fetch(
            self.name, self._consumer, self._free() + self._ahead, FETCH_BLOCK_SECONDS
        )
        self._ahead = min(self._attempted - before, AHEAD_MOST)
        return claims

    def _take(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            known = claim.id in self._held
            self._held[claim.id] = claim
            # Ours already, if its lease ran out while this process was stopped: the attempt
            # under way goes on and is settled with the new token.
            if known:
                continue
            if claim.suspect:
                self._suspects.put_nowait(claim)
            else:
                self._unstarted += 1
                self._ready.put_nowait(claim)

    def _free(self) -> int:
        return self._slots - self._unstarted - self._running

    async def _wait_for_room(self) -> None:
        self._room.clear()
        await self._room.wait()

    async def _until_drained(self) -> None:
        while self._held:
            self._drained.clear()
            await self._drained.wait()

    # --- attempt -------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            claim = await self._ready.get()
            self._unstarted -= 1
            self._running += 1
            try:
                self._settled(await self._attempter.attempt(claim))
            finally:
                self._running -= 1
                self._attempted += 1
                self._room.set()

    async def _work_alone(self) -> None:
        """What a dead worker held runs in a process of its own: it may be what killed it."""
        while True:
            claim = await self._suspects.get()
            try:
                self._settled(await self._quarantine.attempt(claim, self._timeout_seconds))
            except Died as death:
                await self._strike(claim, str(death))
            except (TimeoutError, OSError) as error:
                self._settled(self._attempter.give_up(claim, f"alone in a process: {error!r}"))

    async def _strike(self, claim: Claim, reason: str) -> None:
        """A death while alone. The second makes it a dead letter, the first gives it a chance."""
        before = await self._drain_patience.attempt(
            lambda: self._queue.strike(self.name, claim), f"striking in lane {self.name!r}"
        )
        if before:
            self._settled(self._attempter.condemn(claim, reason))
        else:
            self._suspects.put_nowait(claim)

    def _settled(self, settlement: Settlement) -> None:
        self._unsettled.append(settlement)
        self._to_settle.set()

    # --- settle --------------------------------------------------------------------------

    async def _settle(self) -> None:
        while True:
            await self._to_settle.wait()
            self._to_settle.clear()
            while self._unsettled:
                await self._drain_patience.attempt(
                    self._settle_batch, f"settling lane {self.name!r}"
                )

    async def _settle_batch(self) -> None:
        batch = [
            replace(settlement, claim=self._held.get(settlement.claim.id, settlement.claim))
            for settlement in itertools.islice(self._unsettled, SETTLE_BATCH)
        ]
        counted = await self._queue.settle(self.name, batch)
        for settlement, counts in zip(batch, counted, strict=True):
            self._unsettled.popleft()
            self._held.pop(settlement.claim.id, None)
            if not counts:
                logger.warning(
                    "delivery.stale key=%s: settled elsewhere meanwhile", settlement.claim.key
                )
        if not self._held:
            self._drained.set()

    # --- keep alive ----------------------------------------------------------------------

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            if self._held:
                await self._drain_patience.attempt(
                    self._renew_once, f"leases of lane {self.name!r}"
                )

    async def _renew_once(self) -> None:
        for claim in await self._queue.renew(self.name, list(self._held.values())):
            # It may have been settled between the question and the answer.
            if self._held.get(claim.id) is not claim:
                continue
            logger.warning("delivery.lost_lease key=%s: another worker has it", claim.key)

    async def _reclaim(self) -> None:
        while True:
            await self._patience.pause(self._lease_seconds / 4)
            if self._stopping.is_set():
                return
            if self._free() > 0:
                claims = await self._patience.attempt(
                    self._reclaim_once, f"reclaiming in lane {self.name!r}"
                )
                self._take(claims or ())

    async def _reclaim_once(self) -> Sequence[Claim]:
        return await self._queue.reclaim(
            self.name, self._consumer, self._lease_seconds, self._free()
        )

    async def _promote(self) -> None:
        while not self._stopping.is_set():
            moved = await self._patience.attempt(self._promote_once, f"retries of {self.name!r}")
            await self._patience.pause(PROMOTE_SECONDS if moved is None else moved)

    async def _promote_once(self) -> float:
        moved, next_due = await self._queue.promote(self.name, PROMOTE_BATCH)
        if moved == PROMOTE_BATCH:
            return 0.0
        return min(PROMOTE_SECONDS, PROMOTE_SECONDS if next_due is None else next_due)
