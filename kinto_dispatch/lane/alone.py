"""Attempts of one lane that run in a process of their own."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from kinto_dispatch.attempt import Attempter
from kinto_dispatch.lane.holdings import Holdings
from kinto_dispatch.patience import Patience
from kinto_dispatch.quarantine import Died, Postponed, Quarantine, Unfinished
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.values import Claim, Later, Settlement


STRIKES = 2
"""How many deaths while alone make a delivery a dead letter."""


class Alone:
    """Runs what may kill or block the process that runs it.

    ``patience`` outlives the lane's stopping: a strike is noted or the delivery is kept.
    """

    def __init__(
        self,
        quarantine: Quarantine,
        attempter: Attempter,
        queue: Queue,
        holdings: Holdings,
        timeout_seconds: float,
        patience: Patience,
    ) -> None:
        self._quarantine = quarantine
        self._attempter = attempter
        self._queue = queue
        self._holdings = holdings
        self._timeout_seconds = timeout_seconds
        self._patience = patience

    async def attempt(self, claim: Claim) -> Settlement | Claim | None:
        """The settlement; or the claim, to be attempted again; ``None`` if it is lost."""
        # This process may stand still while it waits for its turn.
        sure = partial(self._holdings.is_sure, claim)
        try:
            return await self._quarantine.attempt(claim, self._timeout_seconds, sure)
        except Postponed:
            return claim
        except Died as death:
            return await self._strike(claim, str(death))
        except Unfinished as unfinished:
            settlement = self._attempter.give_up(claim, str(unfinished), unfinished.took_seconds)
            if isinstance(settlement.fate, Later):
                settlement = replace(settlement, fate=replace(settlement.fate, suspect=True))
            return settlement

    async def _strike(self, claim: Claim, reason: str) -> Settlement | Claim | None:
        """A death while alone. The first gives it a chance."""
        what, strikes = f"striking in lane {claim.lane!r}", None
        while strikes is None:
            strikes = await self._patience.attempt(
                lambda: self._queue.strike(claim.lane, claim), what
            )
        if strikes >= STRIKES:
            return self._attempter.condemn(claim, reason)
        if not strikes:
            self._holdings.forget([claim])
            return None
        again = replace(claim, suspect=True, strikes=strikes)
        self._holdings.amend(again)
        return again
