"""Which dead letters are meant, and what is done to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kinto_dispatch.cli.pages import dead_letters, is_about
from kinto_dispatch.cli.printing import progress


if TYPE_CHECKING:
    from kinto_dispatch.queue.protocol import Queue
    from kinto_dispatch.queue.values import DeadLetter


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which dead letters are meant. Times are seconds since the epoch; ``None`` means any."""

    lanes: Sequence[str]
    event_id: str | None = None
    reason: str | None = None
    since: float | None = None
    until: float | None = None

    def wants(self, letter: DeadLetter) -> bool:
        """Whether all that was asked holds for this letter."""
        at = letter.at_ms / 1000
        return (
            (self.event_id is None or is_about(letter, self.event_id))
            and (self.reason is None or self.reason.lower() in letter.reason.lower())
            and (self.since is None or at >= self.since)
            and (self.until is None or at <= self.until)
        )

    async def pages(self, queue: Queue) -> AsyncIterator[list[DeadLetter]]:
        """What is meant, lane by lane, oldest first; never an empty page."""
        for lane in self.lanes:
            async for page in dead_letters(queue, lane):
                if wanted := [letter for letter in page if self.wants(letter)]:
                    yield wanted


@dataclass(frozen=True, slots=True)
class Action:
    """What is done to dead letters: ``verb`` in questions, ``done`` in results. ``needs_channel``
    tells whether that is of use only where their channel is configured."""

    verb: str
    done: str
    method: Callable[[Queue, str, Sequence[DeadLetter]], Any]
    needs_channel: bool = False


ACTIONS = {
    "replay": Action(
        "Replay",
        "replayed",
        lambda queue, lane, letters: queue.replay_dead(lane, letters),
        needs_channel=True,
    ),
    "purge": Action(
        "Destroy", "purged", lambda queue, lane, letters: queue.purge_dead(lane, letters)
    ),
}


Plan = dict[str, tuple[int, float]]
"""For each lane how many letters are meant, and when the last of them died."""


async def count(queue: Queue, chosen: Filter) -> Plan:
    """What there is to do."""
    plan: Plan = {}
    async for page in chosen.pages(queue):
        found, _ = plan.get(page[0].lane, (0, 0.0))
        plan[page[0].lane] = found + len(page), page[-1].at_ms / 1000
    return plan


async def carry_out(queue: Queue, action: Action, chosen: Filter, plan: Plan) -> int:
    """Do it to the letters that were counted, page by page; how many.

    What died after that is left alone, or a replay that fails at once would never end.
    """
    done = 0
    with progress(action.verb, sum(found for found, _ in plan.values())) as advance:
        for lane, (_, last) in plan.items():
            async for page in replace(chosen, lanes=[lane], until=last).pages(queue):
                done += await action.method(queue, lane, page)
                advance(len(page))
    return done
