"""Lanes: who holds a delivery, what becomes of it, and what a late settlement can still do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import redis
from msgspec import msgpack

from kinto_dispatch.queue.streams import StreamsQueue
from kinto_dispatch.queue.values import Claim, Dead, Done, Entry, Fate, Later, Settlement


MANY = 20_000
"""More than twice what Lua passes to one function."""

STREAM = "kd:{lane:ops}:stream"
RECORD = b'{"outcome":"delivered"}'


def settling(claims: Sequence[Claim], fate: Fate, record: bytes = RECORD) -> list[Settlement]:
    return [Settlement(claim, fate, record) for claim in claims]


async def numbers(queue: StreamsQueue) -> tuple[int, int, int, int]:
    """Waiting, in flight, to be retried, dead."""
    (lane,) = await queue.status(["ops"])
    return lane.waiting, lane.in_flight, lane.retry, lane.dead


async def records(queue: StreamsQueue) -> list[bytes]:
    return [record for _, record in await queue.attempts("ops")]


# --- fetch -------------------------------------------------------------------------------


async def test_deliveries_are_claimed_in_lane_order(queue: StreamsQueue) -> None:
    """Each is claimed by one worker, oldest first, with a token to show."""
    await queue.enqueue("ops", [Entry(f"k{number}", b"") for number in range(5)])
    first = await queue.fetch("ops", "a", 2, 0)
    second = await queue.fetch("ops", "b", 10, 0)
    assert [claim.key for claim in (*first, *second)] == ["k0", "k1", "k2", "k3", "k4"]
    assert {(claim.consumer, claim.token, claim.suspect) for claim in first} == {("a", 1, False)}
    assert await numbers(queue) == (0, 5, 0, 0)
    assert await queue.fetch("ops", "a", 0, 60) == []


async def test_fetching_waits_for_the_first_delivery(
    queue: StreamsQueue, other: StreamsQueue
) -> None:
    """A worker that waits is told at once, and several lanes wait at the same time."""
    waiting = [asyncio.create_task(queue.fetch(lane, "a", 9, 60)) for lane in ("ops", "admins")]
    await asyncio.sleep(0.05)
    await other.enqueue("admins", [Entry("k1", b"")])
    await other.enqueue("ops", [Entry("k0", b"")])
    ops, admins = await asyncio.wait_for(asyncio.gather(*waiting), 10)
    assert [claim.key for claim in (*ops, *admins)] == ["k0", "k1"]


async def test_fetching_returns_when_nothing_comes(queue: StreamsQueue) -> None:
    """An empty lane is no error; the wait is as long as asked."""
    started = time.monotonic()
    assert await queue.fetch("ops", "a", 9, 0.2) == []
    assert 0.15 < time.monotonic() - started < 5


async def test_nothing_comes_from_a_paused_lane(
    queue: StreamsQueue, other: StreamsQueue, idle: Callable[[Claim, float], Any]
) -> None:
    """While paused a lane fills: not even a waiting worker gets anything, nor what was held by
    one that died. Resumed, everything comes, with its attempt number."""
    await queue.enqueue("ops", [Entry("held", b"")])
    (held,) = await queue.fetch("ops", "dead", 1, 0)
    waiting = asyncio.create_task(queue.fetch("ops", "a", 9, 0.4))
    await asyncio.sleep(0.1)
    await other.pause("ops", True)
    await other.enqueue("ops", [Entry("k", b"body", attempt=2)])
    assert await waiting == []
    assert await queue.fetch("ops", "a", 9, 0.05) == []
    assert await other.fetch("ops", "b", 9, 0) == []
    await idle(held, 0.05)
    assert await queue.reclaim("ops", "a", 0.05, 9) == []
    (lane,) = await queue.status(["ops"])
    assert (lane.waiting, lane.paused) == (1, True)
    await queue.pause("ops", False)
    (claim,) = await queue.fetch("ops", "a", 9, 0)
    assert (claim.key, claim.body, claim.attempt) == ("k", b"body", 2)
    assert not (await queue.status(["ops"]))[0].paused
    assert [claim.key for claim in await queue.reclaim("ops", "a", 0.05, 9)] == ["held"]


async def test_whatever_stands_in_a_lane_can_be_claimed_and_settled(
    queue: StreamsQueue, server: redis.Redis
) -> None:
    """Entries that were added by hand, of any form, come out as claims like others."""
    server.xadd(STREAM, {b"\xff": b"\xfe"})
    server.xadd(STREAM, {b"key": b"\xff", b"body": b"\xff", b"attempt": b"x", b"flags": b"?"})
    server.xadd(STREAM, {b"attempt": b"9" * 50})
    server.xadd(STREAM, {f"field-{number}": b"" for number in range(9_000)})
    claims = await queue.fetch("ops", "a", 9, 0)
    assert [claim.body for claim in claims] == [b"", b"\xff", b"", b""]
    assert {claim.attempt for claim in claims} == {1}
    fates: list[Fate] = [Done(), Later(0, 2), Dead("failed", "?"), Later(0, 2)]
    for claim, fate in zip(claims, fates, strict=True):
        assert await queue.settle("ops", settling([claim], fate)) == [True]
    assert (await queue.promote("ops", 9))[0] == 2
    assert await numbers(queue) == (2, 0, 0, 1)
    again = await queue.fetch("ops", "a", 9, 0)
    await queue.release("ops", again)
    (letter,) = await queue.dead_letters("ops")
    assert await queue.replay_dead("ops", [letter]) == 1
    assert len(await queue.fetch("ops", "a", 9, 0)) == 3


@pytest.mark.parametrize("command", ["XGROUP DESTROY {0} workers", "DEL {0}", "FLUSHALL"])
async def test_a_lane_whose_group_is_gone_goes_on(
    queue: StreamsQueue, server: redis.Redis, claimed: Callable[..., Any], command: str
) -> None:
    """Every call on a lane that somebody has taken apart works, and fetching puts it right."""
    claims = await claimed(2)
    run: Any = server.execute_command
    run(*command.format(STREAM).split())
    assert await queue.renew("ops", claims) == claims
    assert await queue.reclaim("ops", "a", 0, 9) == []
    assert await queue.settle("ops", settling(claims, Later(0, 2))) == [False, False]
    await queue.release("ops", claims)
    await queue.retire("a", ["ops"], ["a"])
    assert await queue.prune("ops", 0, 0) == 0
    assert (await queue.status(["ops"]))[0].in_flight == 0
    await queue.enqueue("ops", [Entry("new", b"")])
    kept = 2 if "GROUP" in command else 0
    assert len(await queue.fetch("ops", "a", 9, 0)) == kept + 1


async def test_a_worker_that_waits_survives_the_loss_of_its_lane(
    queue: StreamsQueue, server: redis.Redis
) -> None:
    """Who waits while the lane is deleted gets what comes after."""
    await queue.fetch("ops", "a", 1, 0)
    waiting = asyncio.create_task(queue.fetch("ops", "a", 9, 5))
    await asyncio.sleep(0.1)
    server.delete(STREAM)
    await asyncio.sleep(0.1)
    server.xadd(STREAM, {b"key": b"k"})
    assert [claim.key for claim in await asyncio.wait_for(waiting, 10)] == ["k"]


async def test_what_was_delivered_is_not_delivered_again_by_a_new_group(
    queue: StreamsQueue, server: redis.Redis, claimed: Callable[..., Any]
) -> None:
    """A delivery closes its entry even where the group is lost that it was claimed from."""
    claims = await claimed(2)
    server.xgroup_destroy(STREAM, "workers")
    assert await queue.settle("ops", settling(claims, Done())) == [True, True]
    assert await queue.fetch("ops", "a", 9, 0) == []


# --- settle ------------------------------------------------------------------------------


async def test_what_is_done_leaves_the_lane(
    queue: StreamsQueue, server: redis.Redis, claimed: Callable[..., Any]
) -> None:
    """Nothing of it is left but the record of its attempt."""
    claims = await claimed(3)
    assert await queue.settle("ops", settling(claims[:2], Done())) == [True, True]
    assert await numbers(queue) == (0, 1, 0, 0)
    assert server.xlen(STREAM) == 1
    assert await records(queue) == [RECORD, RECORD]


async def test_a_settlement_counts_once(queue: StreamsQueue, claimed: Callable[..., Any]) -> None:
    """A repeat, in the same call or in another, changes nothing and leaves no record."""
    claims = await claimed(2)
    assert await queue.settle("ops", settling([*claims, claims[0]], Done())) == [True, True, False]
    for fate in (Done(), Later(0, 2), Dead("failed", "")):
        assert await queue.settle("ops", settling(claims, fate)) == [False, False]
    assert len(await records(queue)) == 2
    assert await numbers(queue) == (0, 0, 0, 0)


async def test_fates_are_mixed_in_one_call(
    queue: StreamsQueue, claimed: Callable[..., Any]
) -> None:
    """Each delivery has its own fate and its own record, in order."""
    fates: list[Fate] = [Done(), Later(60, 2), Dead("refused", "no"), Done()]
    claims = await claimed(4)
    settlements = [
        Settlement(claim, fate, b"%d" % number)
        for number, (claim, fate) in enumerate(zip(claims, fates, strict=True))
    ]
    assert await queue.settle("ops", settlements) == [True] * 4
    assert await numbers(queue) == (0, 0, 1, 1)
    assert await records(queue) == [b"0", b"1", b"2", b"3"]
    assert await queue.settle("ops", []) == []


async def test_a_retry_comes_back_after_its_delay_and_not_before(
    queue: StreamsQueue, server: redis.Redis, claimed: Callable[..., Any]
) -> None:
    """By the server's clock: the wait is told, and what comes back has its attempt number."""
    (claim,) = await claimed()
    await queue.settle("ops", settling([claim], Later(0.3, 2)))
    due: Any = server.zrange("kd:{lane:ops}:due", 0, -1, withscores=True)
    moved, wait = await queue.promote("ops", 10)
    assert moved == 0
    assert wait is not None
    assert 0 < wait <= 0.3
    while not moved:
        moved, wait = await queue.promote("ops", 10)
    seconds, microseconds = server.time()
    assert seconds * 1000 + microseconds / 1000 >= due[0][1]
    assert (moved, wait) == (1, None)
    (again,) = await queue.fetch("ops", "b", 10, 0)
    assert (again.key, again.body, again.attempt) == (claim.key, claim.body, 2)
    assert again.id != claim.id
    assert not server.exists("kd:{lane:ops}:due", "kd:{lane:ops}:held")


async def test_promoting_takes_the_earliest_first_and_at_most_so_many(
    queue: StreamsQueue, claimed: Callable[..., Any]
) -> None:
    """What is left over is due at once; where nothing waits there is nothing to wait for."""
    claims = await claimed(3)
    delays = (0.6, 0.4, 0.2)
    # In one call: by the server's clock they fall due in this order.
    settlements = [
        Settlement(claim, Later(delay, 2), RECORD)
        for claim, delay in zip(claims, delays, strict=True)
    ]
    await queue.settle("ops", settlements)
    await asyncio.sleep(0.8)
    assert await queue.promote("ops", 2) == (2, 0)
    assert await queue.promote("ops", 2) == (1, None)
    assert await queue.promote("ops", 2) == (0, None)
    again = await queue.fetch("ops", "a", 9, 0)
    assert [claim.body for claim in again] == [b"2", b"1", b"0"]


@pytest.mark.parametrize("delay", [-5.0, float("inf")])
async def test_a_delay_that_makes_no_sense_is_bounded(
    queue: StreamsQueue, claimed: Callable[..., Any], delay: float
) -> None:
    """A negative delay is none, an endless one ends after years."""
    claims = await claimed()
    assert await queue.settle("ops", settling(claims, Later(delay, 2))) == [True]
    moved, wait = await queue.promote("ops", 1)
    assert (moved, wait) == (1, None) if delay < 0 else wait and wait > 1e8


DAMAGED = {
    "nothing": None,
    "text": b"nonsense",
    "cut off": msgpack.encode(["key", "k", "body", "b"])[:-1],
    "half a field": msgpack.encode(["key"]),
    "no fields": msgpack.encode([]),
    "a mapping": msgpack.encode({"key": "k"}),
    "numbers": msgpack.encode([1, {}]),
}


@pytest.mark.parametrize("held", DAMAGED.values(), ids=DAMAGED)
async def test_what_was_held_and_cannot_be_read_becomes_a_dead_letter(
    queue: StreamsQueue, server: redis.Redis, claimed: Callable[..., Any], held: bytes | None
) -> None:
    """It does not come up again and again, is not gone without a word, and holds nothing up."""
    await queue.settle("ops", settling(await claimed(), Later(0, 2)))
    server.zadd("kd:{lane:ops}:due", {"1-1": 1})
    if held is not None:
        server.hset("kd:{lane:ops}:held", "1-1", held)
    assert await queue.promote("ops", 10) == (2, None)
    assert await numbers(queue) == (1, 0, 0, 1)
    (letter,) = await queue.dead_letters("ops")
    assert (letter.key, letter.kind, letter.body) == ("unknown:1-1", "failed", held or b"")
    assert "somebody else changed the queue" in letter.reason


async def test_many_entries_are_settled_and_promoted_in_one_call(queue: StreamsQueue) -> None:
    """No size of a batch is too much, for any fate."""
    await queue.enqueue("ops", [Entry(f"k{number}", b"") for number in range(MANY)])
    claims = await queue.fetch("ops", "a", MANY, 0)
    assert len(claims) == MANY
    assert await queue.renew("ops", claims) == []
    assert all(await queue.settle("ops", settling(claims, Later(0, 2))))
    assert await queue.promote("ops", MANY) == (MANY, None)
    claims = await queue.fetch("ops", "a", MANY, 0)
    await queue.release("ops", claims)
    claims = await queue.fetch("ops", "a", MANY, 0)
    assert [claim.attempt for claim in claims] == [2] * MANY
    assert all(await queue.settle("ops", settling(claims, Dead("failed", ""))))
    letters = await queue.dead_letters("ops", count=MANY)
    assert await queue.replay_dead("ops", letters) == MANY
    claims = await queue.fetch("ops", "a", MANY, 0)
    assert all(await queue.settle("ops", settling(claims, Done())))
    assert len(await queue.attempts("ops", count=4 * MANY)) == 3 * MANY
    assert await numbers(queue) == (0, 0, 0, 0)


# --- leases and the fence ----------------------------------------------------------------


async def test_a_lease_that_is_renewed_is_not_taken(
    queue: StreamsQueue, claimed: Callable[..., Any], idle: Callable[[Claim, float], Any]
) -> None:
    """Renewing keeps a claim, and the token with it."""
    claims = await claimed(2)
    await idle(claims[1], 0.1)
    assert await queue.renew("ops", claims) == []
    assert await queue.reclaim("ops", "b", 0.1, 9) == []
    assert await queue.settle("ops", settling(claims, Later(0, 2))) == [True, True]


async def test_a_lease_that_ran_out_is_taken_over(
    queue: StreamsQueue, claimed: Callable[..., Any], idle: Callable[[Claim, float], Any]
) -> None:
    """The new holder gets the delivery as it was: with its attempt number, and as a suspect."""
    await queue.enqueue("ops", [Entry("k", b"body", attempt=4, replay=True)])
    (claim,) = await queue.fetch("ops", "a", 1, 0)
    assert await queue.reclaim("ops", "b", 60, 9) == []
    await idle(claim, 0.05)
    (taken,) = await queue.reclaim("ops", "b", 0.05, 9)
    assert taken == replace(claim, consumer="b", token=2, suspect=True)


async def test_what_ran_out_first_is_taken_first_and_at_most_so_many(
    queue: StreamsQueue, claimed: Callable[..., Any], idle: Callable[[Claim, float], Any]
) -> None:
    """The rest is left for others."""
    claims = await claimed(5)
    await idle(claims[-1], 0.05)
    assert await queue.reclaim("ops", "b", 0.05, 0) == []
    taken = [*await queue.reclaim("ops", "b", 0.05, 2), *await queue.reclaim("ops", "c", 0.05, 9)]
    assert [claim.id for claim in taken] == [claim.id for claim in claims]
    assert [claim.consumer for claim in taken] == ["b", "b", "c", "c", "c"]


async def test_entries_that_are_gone_do_not_stand_in_the_way(
    queue: StreamsQueue,
    server: redis.Redis,
    claimed: Callable[..., Any],
    idle: Callable[[Claim, float], Any],
) -> None:
    """Any number of entries that were deleted while they were pending is let go of in one call."""
    claims = await claimed(350)
    await idle(claims[-1], 0.05)
    server.xdel(STREAM, *[claim.id for claim in claims[:-1]])
    (taken,) = await queue.reclaim("ops", "b", 0.05, 9)
    assert taken.id == claims[-1].id
    assert server.xpending(STREAM, "workers")["pending"] == 1


async def test_a_worker_that_was_stopped_cannot_take_back_what_it_lost(
    queue: StreamsQueue,
    other: StreamsQueue,
    claimed: Callable[..., Any],
    idle: Callable[[Claim, float], Any],
) -> None:
    """Woken up, it is told what it lost, and its retry or rejection changes nothing."""
    claims = await claimed(2)
    await idle(claims[0], 0.05)
    taken = await other.reclaim("ops", "b", 0.05, 9)
    assert await queue.renew("ops", claims) == claims
    assert await queue.settle("ops", settling(claims, Later(0, 2))) == [False, False]
    assert await queue.settle("ops", settling(claims, Dead("refused", ""))) == [False, False]
    await queue.release("ops", claims)
    assert await numbers(queue) == (0, 2, 0, 0)
    assert await records(queue) == []
    assert await other.renew("ops", taken) == []
    assert await other.settle("ops", settling(taken, Done())) == [True, True]


async def test_what_a_stopped_worker_delivered_is_closed(
    queue: StreamsQueue,
    other: StreamsQueue,
    claimed: Callable[..., Any],
    idle: Callable[[Claim, float], Any],
) -> None:
    """A late delivery is a delivery: nobody has to repeat it, and the new holder learns that."""
    (claim,) = await claimed()
    await idle(claim, 0.05)
    (taken,) = await other.reclaim("ops", "b", 0.05, 9)
    assert await queue.settle("ops", settling([claim], Done())) == [True]
    assert await other.renew("ops", [taken]) == [taken]
    assert await other.settle("ops", settling([taken], Later(0, 2))) == [False]
    assert await other.settle("ops", settling([taken], Done())) == [False]
    assert await numbers(queue) == (0, 0, 0, 0)


async def test_a_claim_that_came_back_to_the_same_worker_has_a_new_token(
    queue: StreamsQueue, claimed: Callable[..., Any], idle: Callable[[Claim, float], Any]
) -> None:
    """From one worker to another and back: only the last token opens the fence."""
    (first,) = await claimed()
    await idle(first, 0.05)
    (second,) = await queue.reclaim("ops", "b", 0.05, 9)
    await idle(second, 0.05)
    (third,) = await queue.reclaim("ops", "a", 0.05, 9)
    assert [claim.token for claim in (first, second, third)] == [1, 2, 3]
    assert await queue.renew("ops", [first, second, third]) == [first, second]
    for stale in (first, second):
        assert await queue.settle("ops", settling([stale], Later(0, 2))) == [False]
    assert await queue.settle("ops", settling([third], Later(0, 2))) == [True]


async def test_two_workers_that_reclaim_at_once_share_nothing(
    queue: StreamsQueue,
    other: StreamsQueue,
    claimed: Callable[..., Any],
    idle: Callable[[Claim, float], Any],
) -> None:
    """Each entry is taken over by one of them."""
    claims = await claimed(200)
    # Longer than all these calls take together, or what was taken over is idle for long again.
    await idle(claims[-1], 1.5)
    halves = await asyncio.gather(
        *(queue.reclaim("ops", f"b{number}", 1.5, 30) for number in range(10)),
        *(other.reclaim("ops", f"c{number}", 1.5, 30) for number in range(10)),
    )
    taken = [claim.id for half in halves for claim in half]
    assert sorted(taken) == sorted(claim.id for claim in claims)


# --- give back, strike -------------------------------------------------------------------


async def test_what_is_given_back_is_there_for_others_at_once(
    queue: StreamsQueue, other: StreamsQueue
) -> None:
    """With the same attempt number, since it was not attempted."""
    await queue.enqueue("ops", [Entry("k", b"body", attempt=3, replay=True)])
    claims = await queue.fetch("ops", "a", 1, 0)
    await queue.release("ops", claims)
    (again,) = await other.fetch("ops", "b", 1, 0)
    assert (again.key, again.body, again.attempt, again.replay) == ("k", b"body", 3, True)
    assert (again.suspect, again.token) == (False, 1)
    assert await records(queue) == []
    await queue.release("ops", [])


async def test_strikes_stay_with_a_delivery(
    queue: StreamsQueue, claimed: Callable[..., Any], idle: Callable[[Claim, float], Any]
) -> None:
    """They are counted, and seen by whoever takes it over next, or gets it given back."""
    (claim,) = await claimed()
    await idle(claim, 0.05)
    (suspect,) = await queue.reclaim("ops", "b", 0.05, 1)
    assert suspect.strikes == 0
    assert await queue.strike("ops", suspect) == 1
    await idle(suspect, 0.05)
    (suspect,) = await queue.reclaim("ops", "c", 0.05, 1)
    assert (suspect.suspect, suspect.strikes) == (True, 1)
    assert await queue.strike("ops", suspect) == 2
    await queue.release("ops", [suspect])
    (again,) = await queue.fetch("ops", "d", 1, 0)
    assert (again.suspect, again.strikes, again.attempt) == (True, 2, 1)


async def test_a_strike_counts_once(
    queue: StreamsQueue,
    claimed: Callable[..., Any],
    idle: Callable[[Claim, float], Any],
    configure: Callable[[str, Any], None],
) -> None:
    """However often it is noted, where its reply was lost; also where memory is full."""
    (claim,) = await claimed()
    await idle(claim, 0.05)
    (suspect,) = await queue.reclaim("ops", "b", 0.05, 1)
    configure("maxmemory", 1)
    assert [await queue.strike("ops", suspect) for _ in range(3)] == [1, 1, 1]
    again = replace(suspect, strikes=1)
    assert [await queue.strike("ops", again) for _ in range(2)] == [2, 2]
    assert await queue.renew("ops", [suspect]) == []


async def test_who_lost_a_delivery_strikes_nobody(
    queue: StreamsQueue,
    server: redis.Redis,
    claimed: Callable[..., Any],
    idle: Callable[[Claim, float], Any],
) -> None:
    """Neither what somebody else holds nor what is gone; and nothing is left behind."""
    claims = await claimed(2)
    await idle(claims[-1], 0.05)
    taken = await queue.reclaim("ops", "b", 0.05, 2)
    assert await queue.strike("ops", claims[0]) == 0
    await queue.settle("ops", settling([taken[1]], Done()))
    assert await queue.strike("ops", taken[1]) == 0
    assert not server.exists("kd:{lane:ops}:strikes")


async def test_strikes_end_with_the_attempt(
    queue: StreamsQueue,
    server: redis.Redis,
    claimed: Callable[..., Any],
    idle: Callable[[Claim, float], Any],
) -> None:
    """What was attempted to the end is suspect no longer, whatever came of it."""
    claims = await claimed(3)
    await idle(claims[-1], 0.05)
    suspects = await queue.reclaim("ops", "b", 0.05, 3)
    for suspect in suspects:
        await queue.strike("ops", suspect)
    fates: list[Fate] = [Done(), Later(0, 2), Dead("poison", "")]
    for suspect, fate in zip(suspects, fates, strict=True):
        await queue.settle("ops", settling([suspect], fate))
    assert not server.exists("kd:{lane:ops}:strikes")
    await queue.promote("ops", 1)
    (again,) = await queue.fetch("ops", "a", 1, 0)
    assert (again.suspect, again.strikes) == (False, 0)
