"""What a lane may be sure of, when its process may have stood still at any point."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis

from kinto_dispatch.errors import DispatchError
from kinto_dispatch.lane.holdings import Holdings
from kinto_dispatch.queue.streams import StreamsQueue
from kinto_dispatch.queue.values import Claim, Dead, Done, Entry, Settlement


LANE = "ops"
LEASE_SECONDS = 2.0


@pytest.fixture
async def queue(queue_url: str) -> AsyncIterator[StreamsQueue]:
    """A real queue."""
    queue = StreamsQueue(lambda: queue_url, "kd", [LANE])
    yield queue
    await queue.close()


@pytest.fixture
def holdings(queue: StreamsQueue) -> Holdings:
    """What the lane of one worker holds."""
    return Holdings(LANE, queue, LEASE_SECONDS)


async def claim(queue: StreamsQueue, key: str) -> Claim:
    """A delivery, claimed by this worker."""
    await queue.enqueue(LANE, [Entry(key, b"{}")])
    (claim,) = await queue.fetch(LANE, "me", 1, 0.0)
    return claim


def now() -> float:
    """The clock that leases are measured with."""
    return asyncio.get_running_loop().time()


async def test_an_answer_that_waited_longer_than_the_lease_is_not_trusted(
    queue: StreamsQueue, holdings: Holdings
) -> None:
    """A worker that was stopped finds claims in its socket that others may have taken over; it
    is sure of them again once they are renewed."""
    late = await claim(queue, "late")
    await holdings.renew()
    holdings.take([late], asked_at=now() - LEASE_SECONDS - 0.1)
    assert not holdings.is_sure(late)
    await holdings.renew()
    assert holdings.is_sure(late)


async def test_renewing_one_claim_makes_no_other_sure(
    queue: StreamsQueue, holdings: Holdings
) -> None:
    """A claim that comes in while others are renewed was not renewed with them."""
    early, late = await claim(queue, "early"), await claim(queue, "late")
    holdings.take([early], asked_at=now())
    renewing = asyncio.ensure_future(holdings.renew())
    await asyncio.sleep(0)
    holdings.take([late], asked_at=now() - LEASE_SECONDS - 0.1)
    await renewing
    assert holdings.is_sure(early)
    assert not holdings.is_sure(late)


async def test_a_lane_is_paused_before_the_dead_letter_that_asks_for_it(
    queue: StreamsQueue, holdings: Holdings, queue_url: str
) -> None:
    """Whoever dies between the two has paused it, and the delivery comes again after that."""
    final = await claim(queue, "final")
    holdings.take([final], asked_at=now())
    with redis.Redis.from_url(queue_url) as server:
        server.set("kd:{lane:ops}:attempts", "in the way of settling")
    holdings.add(Settlement(final, Dead("refused", "no more", True, pause=True), b""))
    with pytest.raises(DispatchError):
        await holdings.settle()
    (status,) = await queue.status([LANE])
    assert status.paused
    assert holdings.has_unsettled


async def test_the_answer_pauses_the_lane_also_where_somebody_else_settles_the_delivery(
    queue: StreamsQueue, holdings: Holdings
) -> None:
    """It was said, whoever has the delivery now."""
    final = await claim(queue, "final")
    holdings.take([final], asked_at=now())
    (taken,) = await queue.reclaim(LANE, "other", 0.0, 1)
    assert await queue.settle(LANE, [Settlement(taken, Done(), b"")]) == [True]
    holdings.add(Settlement(final, Dead("refused", "no more", True, pause=True), b""))
    assert await holdings.settle() == []
    (status,) = await queue.status([LANE])
    assert (status.paused, status.dead) == (True, 0)


async def test_another_dead_letter_pauses_nothing(queue: StreamsQueue, holdings: Holdings) -> None:
    """One delivery was refused, not all."""
    refused = await claim(queue, "refused")
    holdings.take([refused], asked_at=now())
    holdings.add(Settlement(refused, Dead("refused", "no", True), b""))
    await holdings.settle()
    (status,) = await queue.status([LANE])
    assert (status.paused, status.dead) == (False, 1)
