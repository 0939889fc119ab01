"""Whether a lane's destination answers, as far as all workers together know."""

from __future__ import annotations

import logging
import random as _random
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from kinto_dispatch.attempt import AttemptRecord
from kinto_dispatch.breaker import (
    CLOSED,
    PROBING_SECONDS,
    Breaker,
    answered,
    failed,
    probe_failed,
    probe_told_nothing,
    probed,
    throttled,
    wait_seconds,
)
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.values import Claim, Dead, Done, Later, Settlement


logger = logging.getLogger(__name__)

AGAIN_SECONDS = 0.05
"""After another worker was quicker."""

PASS_OVER_SECONDS = 1.0
"""How long retries are passed over to find a delivery to probe with that did not fail before: some
hundred of them. Each takes a token of a rate limit, so a slow one leaves no choice."""

_decode = msgspec.json.Decoder(AttemptRecord).decode


class Destination:
    """Tells whether deliveries of a lane may be attempted: freely, only one as a probe, or none.

    What attempts tell is learned from their settlements and shared through the breaker in the
    queue, see ``breaker.py``. ``worker`` names this worker there. The methods that ask the queue
    may raise ``QueueUnavailable`` and can then be called again.
    """

    def __init__(
        self,
        lane: str,
        queue: Queue,
        worker: str,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._lane = lane
        self._queue = queue
        self._worker = worker
        self._random = random
        self._answered = False
        self._failed: set[str] = set()
        self._probe_failed = False
        self._rest_seconds = 0.0
        self._last_failure: Settlement | None = None
        self._passed: set[str] = set()
        self._passes_until = 0.0
        self.probe = ""
        """The id of the claim that is attempted as a probe, if there is one."""
        self.is_trusted = True
        """Whether any number of deliveries may be attempted."""
        self._see(CLOSED)

    @property
    def needs_permission(self) -> bool:
        """Whether a probe is claimed as one: the queue gives out nothing else."""
        return not self._breaker.is_closed

    def may_attempt(self, claim: Claim) -> bool:
        """Whether this one may be begun."""
        return self.is_trusted or claim.id == self.probe

    # --- ask -----------------------------------------------------------------------------

    async def look(self) -> None:
        """See what the other workers know."""
        text, _ = await self._queue.breaker(self._lane)
        self._see(Breaker.decode(text))

    async def ask_to_probe(self) -> float:
        """The seconds until one delivery may be attempted; 0 if it may now, and then no other
        worker may until this one has learned what came of it."""
        text, now_ms = await self._queue.breaker(self._lane)
        before = Breaker.decode(text)
        self._see(before)
        wait = wait_seconds(before, now_ms)
        if self._is_probing(before):
            if wait > PROBING_SECONDS / 2:
                return 0.0
        elif wait > 0:
            return wait
        after = probed(before, self._worker, now_ms)
        if after != before and not await self._move(text, after):
            return AGAIN_SECONDS
        return 0.0

    def takes(self, claims: Sequence[Claim]) -> None:
        """One of these is the probe, if any is fit to be; the others may not be attempted, and
        their places in the lane are behind what is there."""
        for claim in claims:
            if not self._passes_over(claim):
                self.probe = claim.id
                self._passed.clear()
                return

    def _passes_over(self, claim: Claim) -> bool:
        """Whether to look for a better probe. What has failed before may do so for a reason of
        its own, however well the destination is: first what is new, if the lane has anything."""
        now = time.monotonic()
        if not self._passed:
            self._passes_until = now + PASS_OVER_SECONDS
        if claim.attempt == 1 or claim.key in self._passed or now > self._passes_until:
            return False
        self._passed.add(claim.key)
        return True

    async def leave(self) -> None:
        """Let others probe, since this worker ends."""
        if not self._is_probing(self._breaker):
            return
        text, now_ms = await self._queue.breaker(self._lane)
        before = Breaker.decode(text)
        after = probe_told_nothing(before, self._worker, now_ms)
        if after != before:
            await self._move(text, after)

    # --- learn ---------------------------------------------------------------------------

    def learn(self, settlements: Iterable[Settlement]) -> None:
        """What these tell, in the order of their ends, for ``share``."""
        for settlement in settlements:
            is_probe = settlement.claim.id == self.probe
            if is_probe:
                self.probe = ""
            match settlement.fate:
                case Done() | Dead(answered=True):
                    self._answered = True
                    self._failed.clear()
                case Later(rest_seconds=rest) | Dead(rest_seconds=rest) if rest > 0:
                    self._rest_seconds = max(self._rest_seconds, rest)
                    self._last_failure = settlement
                case Later() | Dead(answered=False):
                    self._failed.add(settlement.claim.key)
                    self._probe_failed |= is_probe
                    self._last_failure = settlement

    @property
    def has_news(self) -> bool:
        """Whether something was learned that other workers have to know."""
        # To a breaker that is closed, an answer was told in the call that settled it.
        is_answered = self._answered and self._breaker != CLOSED
        return is_answered or bool(self._failed) or self._rest_seconds > 0

    async def share(self) -> None:
        """Let the breaker follow from what was learned, and say in the log if it moves."""
        while self.has_news:
            text, now_ms = await self._queue.breaker(self._lane)
            before = Breaker.decode(text)
            after = self._follow(before, now_ms)
            if after == before or await self._move(text, after):
                self._see(after)
                self._say(before, after, wait_seconds(after, now_ms))
                break
        self._answered, self._probe_failed, self._rest_seconds = False, False, 0.0
        self._failed.clear()

    def _follow(self, breaker: Breaker, now_ms: int) -> Breaker:
        if self._answered:
            breaker = answered(breaker)
        if self._probe_failed:
            breaker = probe_failed(breaker, self._worker, now_ms, self._random)
        if self._rest_seconds > 0:
            return throttled(breaker, self._rest_seconds, now_ms)
        return failed(breaker, self._failed, now_ms, self._random)

    async def _move(self, before: str, after: Breaker) -> bool:
        if not await self._queue.move_breaker(self._lane, before, after.encode()):
            return False
        self._see(after)
        return True

    def _see(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self.is_trusted = breaker.is_closed and not breaker.is_in_doubt

    def _is_probing(self, breaker: Breaker) -> bool:
        return breaker.state == "half-open" and breaker.prober == self._worker

    # --- say -----------------------------------------------------------------------------

    def _say(self, before: Breaker, after: Breaker, rests_seconds: float) -> None:
        if after.is_closed:
            if not before.is_closed:
                level = logging.WARNING if before.has_failed else logging.INFO
                logger.log(level, "breaker.closed channel=%s: it answers again", self._lane)
        elif before.state != after.state:
            verb = "throttled" if after.state == "throttled" else "opened"
            text = "breaker.%s channel=%s rests_seconds=%.1f probes=%d reason=%r"
            is_new = before.is_closed and after.has_failed
            level = logging.WARNING if is_new else logging.INFO
            logger.log(level, text, verb, self._lane, rests_seconds, after.probes, self._reason())

    def _reason(self) -> str | None:
        failure = self._last_failure
        return None if failure is None else _decode(failure.record).reason
