"""The claims that a lane holds: how sure it may be of them, and how they are settled."""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.values import Claim, Dead, Settlement


logger = logging.getLogger(__name__)

SETTLE_BATCH = 500


class Holdings:
    """Claims of one lane from the moment they are made until they are settled or given back.

    Every method that asks the queue may raise ``QueueUnavailable`` and can then be called again.
    """

    def __init__(self, lane: str, queue: Queue, lease_seconds: float) -> None:
        self._lane = lane
        self._queue = queue
        self._lease_seconds = lease_seconds
        self._claims: dict[str, Claim] = {}
        self._lost: set[str] = set()
        self._unsettled: deque[Settlement] = deque()
        self._asked_at: dict[str, float] = {}
        self.final: Dead | None = None
        """Set where the destination wants nothing else either. Until whoever began attempts has
        given back the others, and set it to ``None``, no attempt may begin."""

    def __len__(self) -> int:
        return len(self._claims)

    def __contains__(self, claim_id: str) -> bool:
        return claim_id in self._claims

    @property
    def has_unsettled(self) -> bool:
        """Whether attempts have ended that the queue does not know of yet."""
        return bool(self._unsettled)

    def is_sure(self, claim: Claim) -> bool:
        """Whether nobody else can have taken this claim over, even if this process stood still
        since it asked for it: then the answer may have waited longer than the lease lasts."""
        return _now() < self._asked_at.get(claim.id, 0.0) + self._lease_seconds

    def is_lost(self, claim: Claim) -> bool:
        """Whether the queue has said that somebody else has it."""
        return claim.id in self._lost

    def take(self, claims: Iterable[Claim], asked_at: float) -> list[Claim]:
        """Hold what was claimed by a call made at ``asked_at``; those that were not held before.

        Others are ours already, and their leases ran out while this process stood still: their
        attempts go on, and are settled with the new token.
        """
        new = []
        for claim in claims:
            if claim.id not in self._claims:
                new.append(claim)
            self._claims[claim.id] = claim
            self._asked_at[claim.id] = asked_at
            self._lost.discard(claim.id)
        return new

    def amend(self, claim: Claim) -> None:
        """Hold this claim as it is now known."""
        if claim.id in self._claims:
            self._claims[claim.id] = claim

    async def renew(self) -> Sequence[Claim]:
        """Prolong all leases; the claims that turned out to be lost to somebody else."""
        asked_at = _now()
        claims = [claim for claim in self._claims.values() if claim.id not in self._lost]
        answer = await self._queue.renew(self._lane, claims) if claims else ()
        for claim in claims:
            # Not those that were claimed meanwhile, by a call that may be much older.
            if self._claims.get(claim.id) is claim:
                self._asked_at[claim.id] = asked_at
        # One may have been settled, or claimed anew, between the question and the answer.
        lost = [claim for claim in answer if self._claims.get(claim.id) is claim]
        for claim in lost:
            self._lost.add(claim.id)
            logger.warning("delivery.lost_lease key=%s: another worker has it", claim.key)
        return lost

    def forget(self, claims: Iterable[Claim]) -> None:
        """Hold these no longer: somebody else does."""
        for claim in claims:
            self._claims.pop(claim.id, None)
            self._asked_at.pop(claim.id, None)
            self._lost.discard(claim.id)

    def add(self, settlement: Settlement) -> None:
        """Keep a settlement for ``settle``."""
        self._unsettled.append(settlement)
        if isinstance(settlement.fate, Dead) and settlement.fate.pause:
            self.final = self.final or settlement.fate

    async def settle(self) -> Sequence[Settlement]:
        """Settle what was added first, at most ``SETTLE_BATCH``; those of them that counted.

        Where there is a ``final`` one the lane is paused before, so that whoever dies between has
        paused it.
        """
        if self.final is not None:
            await self._pause(self.final)
        batch = [
            replace(settlement, claim=self._claims.get(settlement.claim.id, settlement.claim))
            for settlement in itertools.islice(self._unsettled, SETTLE_BATCH)
        ]
        counted = await self._queue.settle(self._lane, batch)
        for settlement, counts in zip(batch, counted, strict=True):
            self._unsettled.popleft()
            self.forget([settlement.claim])
            if not counts:
                key = settlement.claim.key
                logger.warning("delivery.stale key=%s: settled elsewhere meanwhile", key)
        return list(itertools.compress(batch, counted))

    async def _pause(self, final: Dead) -> None:
        (status,) = await self._queue.status([self._lane])
        if not status.paused:
            await self._queue.pause(self._lane, True)
            text = "channel.paused channel=%s reason=%r: go on with: kinto-dispatch resume %s"
            logger.warning(text, self._lane, final.reason, self._lane)

    async def give_back(self, claims: Sequence[Claim]) -> None:
        """Let others have these, unattempted."""
        await self._queue.release(self._lane, claims)
        self.forget(claims)

    async def release(self) -> None:
        """Settle what was attempted and give back the rest."""
        while self._unsettled:
            await self.settle()
        await self.give_back(list(self._claims.values()))


def _now() -> float:
    # The clock of the event loop, also in a thread.
    return time.monotonic()
