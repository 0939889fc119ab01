"""What a lane may be sure of, when its process may have stood still at any point."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from kinto_dispatch.lane.holdings import Holdings
from kinto_dispatch.queue.protocol import Claim, Entry
from kinto_dispatch.queue.streams import StreamsQueue


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
