"""What operators see of the queue and may do to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from kinto_dispatch.queue.log import StreamsLog
from kinto_dispatch.queue.streams import StreamsQueue
from kinto_dispatch.queue.values import Claim, Dead, Done, Entry, Later, Settlement


DEAD = "kd:{lane:ops}:dead"
ATTEMPTS = "kd:{lane:ops}:attempts"
STREAM = "kd:{lane:ops}:stream"


@pytest.fixture
def buried(queue: StreamsQueue, claimed: Callable[..., Any]) -> Callable[[int], Any]:
    """``await buried(3)`` makes dead letters in the lane ``ops``."""

    async def buried(count: int) -> None:
        claims = await claimed(count)
        fate = Dead("refused", "not \udcff wanted")
        await queue.settle("ops", [Settlement(claim, fate, b"{}") for claim in claims])

    return buried


# --- dead letters ------------------------------------------------------------------------


async def test_dead_letters_are_listed_oldest_first_page_by_page(
    queue: StreamsQueue, buried: Callable[[int], Any]
) -> None:
    """Each tells what it was, why it is dead, after how many attempts, and since when."""
    before_ms = time.time() * 1000
    await buried(5)
    first = await queue.dead_letters("ops", count=3)
    rest = await queue.dead_letters("ops", after=first[-1].id)
    assert [letter.body for letter in (*first, *rest)] == [b"0", b"1", b"2", b"3", b"4"]
    assert await queue.dead_letters("ops", after=rest[-1].id) == []
    letter = first[0]
    assert (letter.lane, letter.key, letter.kind, letter.attempts) == (
        "ops",
        "event-0:ops",
        "refused",
        1,
    )
    assert letter.reason == "not \\udcff wanted"
    assert abs(letter.at_ms - before_ms) < 60_000


async def test_a_replayed_dead_letter_is_a_first_attempt_with_the_same_key(
    queue: StreamsQueue, buried: Callable[[int], Any]
) -> None:
    """It is marked as replayed, leaves the dead letters, and is replayed once."""
    await buried(3)
    letters = await queue.dead_letters("ops")
    assert await queue.replay_dead("ops", letters[:2]) == 2
    assert await queue.replay_dead("ops", letters) == 1
    assert await queue.dead_letters("ops") == []
    claims = await queue.fetch("ops", "a", 9, 0)
    assert [(claim.key, claim.body, claim.attempt, claim.replay) for claim in claims] == [
        (letter.key, letter.body, 1, True) for letter in letters
    ]


async def test_purged_dead_letters_are_gone(
    queue: StreamsQueue, buried: Callable[[int], Any]
) -> None:
    """How many is told; those that are gone already do not count."""
    await buried(3)
    letters = await queue.dead_letters("ops")
    assert await queue.purge_dead("ops", letters[1:]) == 2
    assert await queue.purge_dead("ops", letters) == 1
    assert await queue.purge_dead("ops", []) == 0
    assert await queue.dead_letters("ops") == []


async def test_a_damaged_dead_letter_is_listed_all_the_same(
    queue: StreamsQueue, server: redis.Redis
) -> None:
    """What somebody added by hand is shown as far as it can be read."""
    server.xadd(DEAD, {b"\xff": b"", b"kind": b"odd", b"attempts": b"many"}, id="7000-0")
    (letter,) = await queue.dead_letters("ops")
    assert (letter.kind, letter.attempts, letter.at_ms, letter.key) == ("failed", 0, 7_000, "")


# --- attempt records ---------------------------------------------------------------------


async def test_attempt_records_are_read_page_by_page(
    queue: StreamsQueue, claimed: Callable[..., Any]
) -> None:
    """Oldest first, each once, wherever a page ends."""
    claims = await claimed(90)
    for start in range(0, 90, 3):
        batch = claims[start : start + 3]
        await queue.settle("ops", [Settlement(claim, Done(), claim.body) for claim in batch])
    read: list[bytes] = []
    after = "0-0"
    while page := await queue.attempts("ops", after, 7):
        assert len(page) <= 7
        read += [record for _, record in page]
        after = page[-1][0]
    assert read == [b"%d" % number for number in range(90)]
    assert [record for _, record in await queue.attempts("ops")] == read


async def test_what_is_older_than_its_retention_is_forgotten(
    queue: StreamsQueue, server: redis.Redis
) -> None:
    """Attempt records and dead letters go by their own age, to the very entry."""
    for number in range(1, 8):
        server.xadd(ATTEMPTS, {b"record": b"%d" % number}, id=f"{number}000-0")
        server.xadd(DEAD, {b"key": b"%d" % number}, id=f"{number}000-0")
    assert await queue.prune("ops", 3_000, 6_000) == 2 + 5
    assert len(await queue.attempts("ops")) == 5
    assert [letter.key for letter in await queue.dead_letters("ops")] == ["6", "7"]
    assert await queue.prune("ops", -1, -1) == 0


# --- workers -----------------------------------------------------------------------------


async def test_workers_are_listed_while_they_live(
    queue: StreamsQueue, server: redis.Redis
) -> None:
    """What a worker says of itself is shown until its time is over, by the server's clock."""
    await queue.beat("w1", {"name": "w1", "pid": 1}, 60)
    await queue.beat("w2", {"name": "w2"}, 0.05)
    await queue.beat("w1", {"name": "w1", "pid": 2}, 60)
    await asyncio.sleep(0.1)
    assert await queue.workers() == [{"name": "w1", "pid": 2}]
    await queue.beat("w3", {"name": "w3"}, 60)
    assert server.hkeys("kd:{workers}:info") == [b"w1", b"w3"]
    assert server.zrange("kd:{workers}:until", 0, -1) == [b"w1", b"w3"]


async def test_a_worker_that_retires_is_forgotten_but_not_what_it_still_holds(
    queue: StreamsQueue, server: redis.Redis, claimed: Callable[..., Any]
) -> None:
    """Its consumers go where nothing is pending on them; where something is, it can be taken
    over."""
    await queue.beat("w1", {"name": "w1"}, 60)
    claims = await claimed(1, consumer="w1")
    await queue.fetch("admins", "w1", 1, 0)
    await queue.retire("w1", ["ops", "admins", "never"], ["w1", "unknown"])
    assert await queue.workers() == []
    assert [consumer["name"] for consumer in server.xinfo_consumers(STREAM, "workers")] == [b"w1"]
    assert server.xinfo_consumers("kd:{lane:admins}:stream", "workers") == []
    assert await queue.settle("ops", [Settlement(claims[0], Done(), b"")]) == [True]
    await queue.retire("w1", ["ops"], ["w1"])
    assert server.xinfo_consumers(STREAM, "workers") == []
    await queue.retire("w1", ["ops"], [])


async def test_consumers_of_dead_workers_are_tidied_away(
    queue: StreamsQueue,
    server: redis.Redis,
    claimed: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of which nothing was heard for long, and on which nothing is pending."""
    await claimed(1, consumer="holds")
    (done,) = await claimed(1, consumer="empty")
    await queue.settle("ops", [Settlement(done, Done(), b"")])
    assert await queue.prune("ops", 0, 0) == 0
    assert len(server.xinfo_consumers(STREAM, "workers")) == 2
    monkeypatch.setattr("kinto_dispatch.queue.operators.IDLE_CONSUMER_SECONDS", 0.02)
    await asyncio.sleep(0.1)
    await queue.prune("ops", 0, 0)
    names = [consumer["name"] for consumer in server.xinfo_consumers(STREAM, "workers")]
    assert names == [b"holds"]


# --- numbers -----------------------------------------------------------------------------


async def test_a_lane_in_numbers(
    queue: StreamsQueue, server: redis.Redis, buried: Callable[[int], Any]
) -> None:
    """Waiting is what nobody was given, in flight what somebody holds; in the order asked."""
    await buried(1)
    await queue.enqueue("ops", [Entry(f"k{number}", b"") for number in range(3)])
    await queue.fetch("ops", "a", 1, 0)
    server.set("kd:{lane:ops}:breaker", "open")
    admins, ops = await queue.status(["admins", "ops"])
    assert (ops.channel, ops.waiting, ops.in_flight, ops.retry, ops.dead) == ("ops", 2, 1, 0, 1)
    assert (ops.breaker, admins.breaker) == ("open", "closed")
    assert ops.oldest_waiting_seconds is not None
    assert 0 <= ops.oldest_waiting_seconds < 60
    assert (admins.waiting, admins.oldest_waiting_seconds, admins.cursor) == (0, None, None)
    assert await queue.status([]) == []


async def test_the_oldest_is_the_first_that_nobody_was_given(
    queue: StreamsQueue, server: redis.Redis
) -> None:
    """By the server's clock, from when it entered the lane."""
    now_ms = server.time()[0] * 1000
    for age in (500, 300, 100):
        server.xadd(STREAM, {b"key": b"k"}, id=f"{now_ms - age * 1000}-0")
    await queue.fetch("ops", "a", 1, 0)
    (lane,) = await queue.status(["ops"])
    assert lane.oldest_waiting_seconds == pytest.approx(300, abs=30)


async def test_what_is_given_back_keeps_its_age(queue: StreamsQueue, server: redis.Redis) -> None:
    """However often: while a destination is down, deliveries go to the end of the lane again and
    again. What was attempted waits anew."""
    now_ms = server.time()[0] * 1000
    server.xadd(STREAM, {b"key": b"k", b"body": b"b"}, id=f"{now_ms - 300_000}-0")
    for _ in range(3):
        await queue.release("ops", await queue.fetch("ops", "a", 1, 0))
        (lane,) = await queue.status(["ops"])
        assert lane.oldest_waiting_seconds == pytest.approx(300, abs=30)
    (claim,) = await queue.fetch("ops", "a", 1, 0)
    await queue.settle("ops", [Settlement(claim, Later(0, 2), b"{}")])
    assert (await queue.promote("ops", 1))[0] == 1
    (lane,) = await queue.status(["ops"])
    assert lane.oldest_waiting_seconds is not None
    assert lane.oldest_waiting_seconds < 30
    (claim,) = await queue.fetch("ops", "a", 1, 0)
    assert (claim.key, claim.body, claim.attempt) == ("k", b"b", 2)


async def test_events_that_are_not_yet_routed_count_for_the_age(
    queue: StreamsQueue, log: StreamsLog, server: redis.Redis
) -> None:
    """A router that stands still shows, also for a lane that was never routed."""
    await queue.register(["ops"])
    now_ms = server.time()[0] * 1000
    server.xadd("kd:{log}:stream", {b"body": b""}, id=f"{now_ms - 200_000}-0")
    (lane,) = await queue.status(["ops"])
    assert lane.oldest_waiting_seconds == pytest.approx(200, abs=30)
    assert (lane.waiting, lane.cursor) == (0, None)
    cursors = await queue.cursors(["ops"])
    await queue.route("ops", cursors["ops"], f"{now_ms - 200_000}-0", [], [])
    (lane,) = await queue.status(["ops"])
    assert lane.oldest_waiting_seconds is None
    assert lane.cursor == f"{now_ms - 200_000}-0"


async def test_kinto_sees_the_same_numbers_and_whether_a_worker_was_ever_there(
    queue: StreamsQueue, log: StreamsLog, claimed: Callable[..., Any]
) -> None:
    """The producer's side has the lanes it was made with, in their order."""
    claims: list[Claim] = await claimed(2)
    lanes, seen = log.summary()
    assert [(lane.channel, lane.in_flight) for lane in lanes] == [("ops", 2), ("admins", 0)]
    assert not seen
    await queue.beat("w1", {}, 0.01)
    await queue.retire("w1", ["ops"], ["w1"])
    await queue.release("ops", claims)
    lanes, seen = log.summary()
    assert (lanes[0].waiting, seen) == (2, True)
