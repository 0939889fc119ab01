"""What holds a lane back: its rate limit, its breaker, and how much of what is due it takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from kinto_dispatch.limit import RateLimit
from kinto_dispatch.queue.streams import StreamsQueue
from kinto_dispatch.queue.values import Claim, Dead, Done, Entry, Fate, Later, Settlement


BREAKER = "kd:{lane:ops}:breaker"
LIMIT = "kd:{lane:ops}:limit"
STREAM = "kd:{lane:ops}:stream"
TEN = RateLimit(10, 1.0)


async def fill(queue: StreamsQueue, count: int) -> None:
    await queue.enqueue("ops", [Entry(f"k{number}", b"") for number in range(count)])


async def settle(queue: StreamsQueue, claim: Claim, fate: Fate) -> None:
    assert await queue.settle("ops", [Settlement(claim, fate, b"")]) == [True]


def milliseconds(server: redis.Redis) -> float:
    """The server's clock."""
    seconds, microseconds = server.time()
    return float(seconds * 1000 + microseconds / 1000)


# --- rate limit --------------------------------------------------------------------------


async def test_no_more_is_claimed_than_the_limit_grants(queue: StreamsQueue) -> None:
    """After a rest as much as one second brings; the rest waits in the lane, not in flight."""
    await fill(queue, 50)
    assert len(await queue.fetch("ops", "a", 50, 0, limit=TEN)) == 10
    assert await queue.fetch("ops", "b", 50, 0, limit=TEN) == []
    (lane,) = await queue.status(["ops"])
    assert (lane.waiting, lane.in_flight) == (40, 10)


async def test_two_workers_share_one_limit(
    queue: StreamsQueue, other: StreamsQueue, server: redis.Redis
) -> None:
    """Over any stretch of time they claim no more together than the limit and one burst."""
    limit = RateLimit(50, 1.0)
    await fill(queue, 1000)
    began, claimed = milliseconds(server), []

    async def work(at: StreamsQueue, consumer: str) -> None:
        for _ in range(6):
            claims = await at.fetch("ops", consumer, 7, 0.3, limit=limit)
            claimed.append((milliseconds(server), len(claims)))

    while milliseconds(server) - began < 1500:
        await asyncio.gather(work(queue, "a"), work(other, "b"))
    total = sum(count for _, count in claimed)
    for start, _ in claimed:
        for end, _ in [one for one in claimed if one[0] >= start]:
            within = sum(count for at, count in claimed if start < at <= end)
            # A claim is noted after it was made: what the first of them took a while to say.
            assert within <= limit.burst + 50 * (end - start + 100) / 1000
    # And no less, where there is enough to do.
    assert total >= 0.9 * 50 * (milliseconds(server) - began) / 1000


@pytest.mark.parametrize(("count", "seconds"), [(3, 1.0), (7, 1.0), (999, 1.0), (70, 60.0)])
async def test_a_limit_that_does_not_divide_evenly_loses_nothing(
    queue: StreamsQueue, count: int, seconds: float
) -> None:
    """A full bucket holds its burst, whatever the fractions."""
    limit = RateLimit(count, seconds)
    await fill(queue, limit.burst + 5)
    claims = await queue.fetch("ops", "a", 2000, 0, limit=limit)
    assert limit.burst <= len(claims) <= limit.burst + 1


async def test_what_found_nothing_to_claim_has_spent_nothing(
    queue: StreamsQueue, other: StreamsQueue
) -> None:
    """Any number of workers may wait in an empty lane; the whole burst is there for what comes."""
    for _ in range(30):
        assert await queue.fetch("ops", "a", 50, 0, limit=TEN) == []
    waiting = asyncio.create_task(other.fetch("ops", "b", 3, 30, limit=TEN))
    await asyncio.sleep(0.1)
    await fill(queue, 12)
    first = await asyncio.wait_for(waiting, 10)
    second = await queue.fetch("ops", "a", 50, 0, limit=TEN)
    assert len(first) >= 1
    assert len([*first, *second, *await other.fetch("ops", "b", 50, 0, limit=TEN)]) == 10


async def test_who_waits_for_a_token_gets_it_when_it_is_there(queue: StreamsQueue) -> None:
    """Neither earlier nor much later; and no longer than it was told to wait."""
    limit = RateLimit(2, 1.0)
    await fill(queue, 5)
    await queue.fetch("ops", "a", 5, 0, limit=limit)
    started = time.monotonic()
    assert await queue.fetch("ops", "a", 5, 0.1, limit=limit) == []
    assert len(await queue.fetch("ops", "a", 5, 10, limit=limit)) == 1
    assert 0.4 < time.monotonic() - started < 3


async def test_a_changed_limit_holds_at_once(queue: StreamsQueue) -> None:
    """Nobody waits for an hour because the limit was one an hour until now."""
    await fill(queue, 9)
    assert len(await queue.fetch("ops", "a", 9, 0, limit=RateLimit(1, 3600.0))) == 1
    assert await queue.fetch("ops", "a", 9, 0, limit=RateLimit(1, 3600.0)) == []
    assert len(await queue.fetch("ops", "a", 1, 5, limit=TEN)) == 1


async def test_a_full_bucket_is_forgotten(queue: StreamsQueue, server: redis.Redis) -> None:
    """What is kept of a limit goes by itself."""
    await fill(queue, 1)
    await queue.fetch("ops", "a", 1, 0, limit=TEN)
    assert 0 < server.pttl(LIMIT) <= 100


async def test_what_a_dead_worker_held_takes_tokens_too(
    queue: StreamsQueue, claimed: Callable[..., Any], idle: Callable[[Claim, float], Any]
) -> None:
    """It is attempted once more."""
    claims = await claimed(15)
    await idle(claims[0], 0.05)
    taken = await queue.reclaim("ops", "b", 0.05, 50, limit=TEN)
    assert len(taken) == 10
    await fill(queue, 5)
    assert len(await queue.fetch("ops", "b", 50, 0, limit=TEN)) <= 1


async def test_a_limited_lane_drains_where_memory_is_full(
    queue: StreamsQueue, server: redis.Redis, configure: Callable[[str, Any], None]
) -> None:
    """Or what waits could never get out."""
    await fill(queue, 5)
    await queue.fetch("ops", "a", 1, 0, limit=TEN)
    configure("maxmemory", 1)
    (claim,) = await queue.fetch("ops", "a", 1, 0, limit=TEN)
    assert await queue.settle("ops", [Settlement(claim, Done(), b"")]) == [True]


async def test_a_limited_lane_without_a_group_gets_one(
    queue: StreamsQueue, server: redis.Redis
) -> None:
    """Also where the server forgot the group of a lane that has deliveries."""
    await fill(queue, 2)
    await queue.fetch("ops", "a", 1, 0, limit=TEN)
    server.xgroup_destroy(STREAM, "workers")
    claims = await queue.fetch("ops", "a", 9, 0, limit=TEN)
    assert [claim.key for claim in claims] == ["k0", "k1"]


async def test_a_paused_lane_with_a_limit_gives_nothing(queue: StreamsQueue) -> None:
    """And goes on when it is resumed, with all its tokens."""
    await fill(queue, 10)
    await queue.pause("ops", True)
    started = time.monotonic()
    assert await queue.fetch("ops", "a", 10, 0.2, limit=TEN, probe=True) == []
    assert time.monotonic() - started > 0.15
    await queue.pause("ops", False)
    assert len(await queue.fetch("ops", "a", 10, 0, limit=TEN)) == 10


# --- breaker -----------------------------------------------------------------------------


async def test_a_breaker_is_moved_only_from_where_it_was_seen(
    queue: StreamsQueue, other: StreamsQueue, server: redis.Redis
) -> None:
    """Of two that decide at the same time one sees that it came too late."""
    assert (await queue.breaker("ops"))[0] == ""
    assert abs((await queue.breaker("ops"))[1] - milliseconds(server)) < 5_000
    assert await queue.move_breaker("ops", "", "open 1")
    assert not await other.move_breaker("ops", "", "open 2")
    assert (await other.breaker("ops"))[0] == "open 1"
    assert await other.move_breaker("ops", "open 1", "")
    assert not server.exists(BREAKER)
    assert (await queue.breaker("admins"))[0] == ""


async def test_a_breaker_moves_where_memory_is_full(
    queue: StreamsQueue, configure: Callable[[str, Any], None]
) -> None:
    """Or a lane could never be read again."""
    configure("maxmemory", 1)
    assert await queue.move_breaker("ops", "", "open 1")
    assert await queue.move_breaker("ops", "open 1", "half-open 1")
    assert await queue.move_breaker("ops", "half-open 1", "")
    assert (await queue.breaker("ops"))[0] == ""


@pytest.mark.parametrize("state", ["open", "half-open"])
@pytest.mark.parametrize("limit", [None, TEN])
async def test_from_a_lane_that_is_not_closed_only_probes_come(
    queue: StreamsQueue, state: str, limit: RateLimit | None
) -> None:
    """Nobody else claims, and nobody takes over what a dead worker held; once it is closed, all
    comes as before."""
    await fill(queue, 3)
    await queue.move_breaker("ops", "", f"{state} 10 0")
    assert await queue.fetch("ops", "a", 9, 0, limit=limit) == []
    assert await queue.fetch("ops", "a", 9, 0.05, limit=limit) == []
    (probe,) = await queue.fetch("ops", "a", 1, 0, limit=limit, probe=True)
    assert probe.key.startswith("k")
    assert await queue.reclaim("ops", "b", 0, 9, limit=limit) == []
    (lane,) = await queue.status(["ops"])
    assert (lane.breaker, lane.waiting, lane.in_flight) == (state, 2, 1)
    await queue.move_breaker("ops", f"{state} 10 0", "")
    assert len(await queue.fetch("ops", "a", 9, 0.05, limit=limit)) == 2


async def test_a_probe_takes_over_what_a_dead_worker_held(
    queue: StreamsQueue, claimed: Callable[..., Any], idle: Callable[[Claim, float], Any]
) -> None:
    """Where there is nothing else to probe with."""
    (claim, *_) = await claimed(2)
    await queue.move_breaker("ops", "", "half-open")
    await idle(claim, 0.05)
    assert len(await queue.reclaim("ops", "b", 0.05, 1, probe=True)) == 1


async def test_what_was_claimed_in_the_moment_it_opened_goes_back(
    queue: StreamsQueue, other: StreamsQueue
) -> None:
    """Whoever waited in the lane has spent no attempt on it."""
    waiting = asyncio.create_task(queue.fetch("ops", "a", 9, 1))
    await asyncio.sleep(0.1)
    await other.move_breaker("ops", "", "open")
    await fill(other, 2)
    assert await waiting == []
    (lane,) = await queue.status(["ops"])
    assert (lane.waiting, lane.in_flight) == (2, 0)
    claims = await queue.fetch("ops", "a", 9, 0, probe=True)
    assert [claim.attempt for claim in claims] == [1, 1]


async def test_a_breaker_that_counts_holds_nobody_back(queue: StreamsQueue) -> None:
    """Failures in a row are remembered by one that is closed."""
    await fill(queue, 1)
    await queue.move_breaker("ops", "", "closed 9 0")
    assert len(await queue.fetch("ops", "a", 1, 0)) == 1
    (lane,) = await queue.status(["ops"])
    assert lane.breaker == "closed"


@pytest.mark.parametrize(
    ("fate", "left"),
    [
        (Done(), ""),
        (Dead("refused", "no", answered=True), ""),
        (Dead("failed", "out of attempts", answered=False), "closed 9 0"),
        (Dead("poison", ""), "closed 9 0"),
        (Later(60, 2), "closed 9 0"),
    ],
)
async def test_an_answer_ends_a_row_of_failures(
    queue: StreamsQueue, claimed: Callable[..., Any], fate: Fate, left: str
) -> None:
    """In the call that settles it, whoever counted them; also a refusal is an answer."""
    (claim,) = await claimed()
    await queue.move_breaker("ops", "", "closed 9 0")
    await settle(queue, claim, fate)
    assert (await queue.breaker("ops"))[0] == left


async def test_settling_leaves_a_breaker_that_is_not_closed_to_its_workers(
    queue: StreamsQueue, claimed: Callable[..., Any]
) -> None:
    """Who closes it, says so."""
    (claim,) = await claimed()
    await queue.move_breaker("ops", "", "open 10 0")
    await settle(queue, claim, Done())
    assert (await queue.breaker("ops"))[0] == "open 10 0"


async def test_a_stale_refusal_answers_for_nobody(
    queue: StreamsQueue, claimed: Callable[..., Any], idle: Callable[[Claim, float], Any]
) -> None:
    """What does not count does not count here."""
    (claim,) = await claimed()
    await idle(claim, 0.05)
    await queue.reclaim("ops", "b", 0.05, 1)
    await queue.move_breaker("ops", "", "closed 9 0")
    stale = Settlement(claim, Dead("refused", "no", answered=True), b"")
    assert await queue.settle("ops", [stale]) == [False]
    assert (await queue.breaker("ops"))[0] == "closed 9 0"


# --- what is due -------------------------------------------------------------------------


async def due(queue: StreamsQueue, count: int) -> None:
    """Deliveries that wait for their second attempt, and are due."""
    await queue.enqueue("ops", [Entry(f"r{number}", b"") for number in range(count)])
    claims = await queue.fetch("ops", "a", count, 0)
    await queue.settle("ops", [Settlement(claim, Later(0, 2), b"") for claim in claims])


async def test_what_is_due_fills_the_lane_up_to_a_mark(queue: StreamsQueue) -> None:
    """What waits, counts; what somebody holds does not. The rest is told to be due."""
    await due(queue, 100)
    assert await queue.promote("ops", 100, upto=20) == (20, 0)
    assert await queue.promote("ops", 100, upto=20) == (0, 0)
    await queue.fetch("ops", "a", 5, 0)
    assert await queue.promote("ops", 100, upto=20) == (5, 0)
    assert await queue.promote("ops", 3, upto=50) == (3, 0)
    await queue.pause("ops", True)
    assert await queue.promote("ops", 100) == (72, None)


async def test_whether_anything_is_due_can_be_asked(queue: StreamsQueue) -> None:
    """Without moving it."""
    assert await queue.promote("ops", 0) == (0, None)
    await due(queue, 2)
    assert await queue.promote("ops", 0) == (0, 0)
    (lane,) = await queue.status(["ops"])
    assert (lane.waiting, lane.retry) == (0, 2)


async def test_where_much_waits_what_is_due_gets_its_share(queue: StreamsQueue) -> None:
    """New deliveries shall not be starved by those that are due, nor these by new ones."""
    await due(queue, 50)
    await fill(queue, 40)
    assert await queue.promote("ops", 100, upto=20) == (0, 0)
    assert await queue.promote("ops", 100, upto=20, at_least=7) == (7, 0)
    assert await queue.promote("ops", 2, upto=20, at_least=7) == (2, 0)
    assert await queue.promote("ops", 100, upto=50, at_least=7) == (7, 0)


async def test_a_lane_that_nobody_ever_read_takes_what_is_due(queue: StreamsQueue) -> None:
    """Without a group nothing is held."""
    await due(queue, 5)
    assert await queue.promote("ops", 9, upto=2) == (2, 0)
