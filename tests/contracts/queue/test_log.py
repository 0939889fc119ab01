"""The log: what is appended stays, in order and once, and lanes begin where they should."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

from kinto_dispatch.errors import QueueUnavailable
from kinto_dispatch.queue.log import StreamsLog
from kinto_dispatch.queue.streams import StreamsQueue
from kinto_dispatch.queue.values import START_OF_LOG, DeadEntry, Entry
from kinto_dispatch.testing.waiting import eventually


MANY = 20_000
"""More than twice what Lua passes to one function."""


def events(count: int, first: int = 0) -> list[tuple[str, bytes]]:
    return [(f"event-{number}", b"%d" % number) for number in range(first, first + count)]


async def logged(queue: StreamsQueue, after: str = START_OF_LOG) -> list[bytes]:
    return [entry.body for entry in await queue.read_log(after, 100_000)]


# --- append ------------------------------------------------------------------------------


async def test_events_stand_in_the_log_in_the_order_of_their_appends(
    log: StreamsLog, queue: StreamsQueue
) -> None:
    """Whoever appends, the log has one order, and reading goes on where it stopped."""
    log.append(events(2))
    await queue.append(events(2, first=2))
    entries = await queue.read_log(START_OF_LOG, 3)
    assert [entry.body for entry in entries] == [b"0", b"1", b"2"]
    assert await logged(queue, entries[-1].id) == [b"3"]


async def test_an_event_is_appended_once(log: StreamsLog, queue: StreamsQueue) -> None:
    """A repeat, whole or in part, adds only what is missing."""
    log.append(events(3))
    log.append(events(5))
    await queue.append(events(5))
    assert await logged(queue) == [b"0", b"1", b"2", b"3", b"4"]


async def test_the_window_of_known_ids_is_bounded(
    log: StreamsLog, server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only so many ids are remembered, the newest, and none for longer than the window."""
    monkeypatch.setattr("kinto_dispatch.queue.commands.WINDOW_EVENTS", 10)
    for number in range(30):
        log.append(events(1, first=number))
    assert server.zcard("kd:{log}:seen") == 10
    server.zadd("kd:{log}:seen", {"long-ago": 1_000_000})
    log.append(events(1, first=30))
    assert server.zscore("kd:{log}:seen", "long-ago") is None


async def test_many_events_go_in_one_call(log: StreamsLog, queue: StreamsQueue) -> None:
    """No size of a batch is too much."""
    log.append(events(MANY))
    assert await logged(queue) == [body for _, body in events(MANY)]


async def test_large_events_arrive_whole(log: StreamsLog, queue: StreamsQueue) -> None:
    """Bodies of megabytes, of any bytes, are divided neither by us nor by the server."""
    bodies = [bytes([number]) * 5_000_000 for number in range(4)]
    log.append([(f"event-{number}", body) for number, body in enumerate(bodies)])
    first = await queue.read_log(START_OF_LOG, 100)
    rest = await queue.read_log(first[-1].id, 100)
    assert [entry.body for entry in (*first, *rest)] == bodies


async def test_nothing_to_append_is_no_error(log: StreamsLog, queue: StreamsQueue) -> None:
    """An empty batch leaves the log as it is."""
    log.append([])
    assert await queue.append([])
    assert await logged(queue) == []


async def test_threads_share_a_log(log: StreamsLog, queue: StreamsQueue) -> None:
    """Threads append at the same time, and each event is there once."""
    threads = [
        threading.Thread(target=log.append, args=(events(50, first=50 * number),))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert sorted(map(int, await logged(queue))) == list(range(400))


async def test_a_fork_has_connections_of_its_own(log: StreamsLog, queue: StreamsQueue) -> None:
    """Parent and child go on appending after a fork, and neither reads the other's replies."""
    log.append(events(1))
    context = multiprocessing.get_context("fork")
    child = context.Process(target=append_each, args=(log, events(200, first=1)))
    child.start()
    await asyncio.to_thread(append_each, log, events(200, first=201))
    await asyncio.to_thread(child.join)
    assert child.exitcode == 0
    assert sorted(map(int, await logged(queue))) == list(range(401))


def append_each(log: StreamsLog, batch: list[tuple[str, bytes]]) -> None:
    for event in batch:
        log.append([event])


# --- marks -------------------------------------------------------------------------------


async def test_a_mark_is_kept_with_what_it_stands_for(
    queue: StreamsQueue, server: redis.Redis
) -> None:
    """The mark of the last batch and the run id of the server tell what the log remembers."""
    run_id = server.info("server")["run_id"]
    assert await queue.mark() == (run_id, None)
    assert await queue.append(events(1), "m1")
    assert await queue.mark() == (run_id, "m1")


async def test_a_batch_is_appended_only_behind_the_mark_before_it(queue: StreamsQueue) -> None:
    """A log that lost its memory cannot hide that behind a newer mark."""
    assert not await queue.append(events(1), "m2", after="m1")
    assert await queue.append(events(1), "m1")
    assert not await queue.append(events(1, first=1), "m2", after=None)
    assert not await queue.append(events(1, first=1), "m3", after="m2")
    assert await queue.append(events(1, first=1), "m2", after="m1")
    assert await logged(queue) == [b"0", b"1"]


async def test_a_repeated_batch_is_told_that_it_is_there(queue: StreamsQueue) -> None:
    """Where the reply was lost, the repeat answers true and changes nothing."""
    assert await queue.append(events(3_000), "m1")
    assert await queue.append(events(3_000), "m1")
    assert await queue.append(events(3_000, first=3_000), "m2", after="m1")
    assert await queue.append(events(3_000, first=3_000), "m2", after="m1")
    assert len(await logged(queue)) == 6_000


@pytest.mark.parametrize("size", [0, 3_000])
async def test_what_a_mark_stands_for_goes_in_one_call(
    queue: StreamsQueue, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """However many events, and bytes: a server that falls back between two calls to where the mark
    before stands would take the second one, and its mark would hide that the first is lost."""
    append, calls = queue._append, 0

    async def counting(*args: Any) -> bool:
        nonlocal calls
        calls += 1
        return await append(*args)

    monkeypatch.setattr(queue, "_append", counting)
    batch = [(str(number), bytes(size)) for number in range(3_000)]
    assert await queue.append(batch, "m1")
    assert calls == 1
    assert len(await logged(queue)) == 3_000


# --- where lanes begin -------------------------------------------------------------------


async def test_a_worker_that_comes_late_misses_nothing(
    log: StreamsLog, queue: StreamsQueue
) -> None:
    """What Kinto wrote before the first worker ever started reaches every lane it knew."""
    log.append(events(3))
    cursors = await queue.cursors(["ops", "admins"])
    assert cursors == {"ops": START_OF_LOG, "admins": START_OF_LOG}
    assert await logged(queue, cursors["ops"]) == [b"0", b"1", b"2"]


async def test_a_new_lane_begins_at_the_end_of_the_log(
    log: StreamsLog, queue: StreamsQueue, url: str
) -> None:
    """A channel added today gets what is appended from now on, not the log's history."""
    log.append(events(3))
    await queue.register(["new"])
    log.append(events(1, first=3))
    cursors = await queue.cursors(["ops", "new"])
    assert await logged(queue, cursors["new"]) == [b"3"]
    assert len(await logged(queue, cursors["ops"])) == 4


async def test_a_lane_begins_before_the_first_append_that_knows_it(
    log: StreamsLog, queue: StreamsQueue, url: str
) -> None:
    """A process with a new ini makes its channel known by the append itself."""
    log.append(events(1))
    newer = StreamsLog(lambda: url, "kd", ("ops", "admins", "new"), 5.0)
    newer.append(events(1, first=1))
    newer.close()
    log.append(events(1, first=2))
    assert await logged(queue, (await queue.cursors(["new"]))["new"]) == [b"1", b"2"]


async def test_an_emptied_log_still_knows_its_end(log: StreamsLog, queue: StreamsQueue) -> None:
    """A lane that begins where all has been trimmed begins behind the last entry ever."""
    log.append(events(3))
    last = (await queue.read_log(START_OF_LOG, 10))[-1].id
    await queue.trim_log(1 << 42, f"{1 << 42}-0", 1 << 40)
    assert (await queue.cursors(["new"]))["new"] == last


async def test_registering_again_moves_no_lane(log: StreamsLog, queue: StreamsQueue) -> None:
    """A lane that is known stays where it is."""
    before = await queue.cursors(["ops"])
    log.append(events(1))
    await queue.register(["ops", "admins"])
    assert await queue.cursors(["ops"]) == before


async def test_a_server_without_memory_gets_all_that_comes_after(
    log: StreamsLog, queue: StreamsQueue, server: redis.Redis
) -> None:
    """After a flush under running processes, every append that succeeds reaches every lane."""
    log.append(events(1))
    await queue.cursors(["ops", "admins"])
    server.flushall()
    log.append(events(2, first=1))
    await queue.append(events(1, first=3))
    cursors = await queue.cursors(["ops", "admins"])
    assert set(cursors.values()) == {START_OF_LOG}
    assert await logged(queue) == [b"1", b"2", b"3"]


# --- routing -----------------------------------------------------------------------------


async def test_routing_moves_the_cursor_with_the_deliveries(
    log: StreamsLog, queue: StreamsQueue
) -> None:
    """What is routed stands in the lane, in order, and the cursor behind it."""
    log.append(events(2))
    upto = (await queue.read_log(START_OF_LOG, 10))[-1].id
    entries = [Entry("k0", b"0"), Entry("k1", b"1", attempt=3, replay=True)]
    assert await queue.route("ops", START_OF_LOG, upto, entries, []) == START_OF_LOG
    await queue.cursors(["ops"])
    assert await queue.route("ops", START_OF_LOG, upto, entries, []) == upto
    assert await queue.cursors(["ops", "admins"]) == {"ops": upto, "admins": START_OF_LOG}
    first, second = await queue.fetch("ops", "a", 10, 0)
    assert (first.key, first.body, first.attempt, first.replay) == ("k0", b"0", 1, False)
    assert (second.key, second.body, second.attempt, second.replay) == ("k1", b"1", 3, True)


async def test_a_router_that_comes_late_changes_nothing(queue: StreamsQueue) -> None:
    """Where the cursor has moved meanwhile, nothing is appended, and it says where it stands."""
    await queue.cursors(["ops"])
    assert await queue.route("ops", START_OF_LOG, "5-0", [Entry("k", b"")], []) == "5-0"
    late = [Entry("k", b"")], [DeadEntry("d", b"", "failed", "")]
    assert await queue.route("ops", START_OF_LOG, "7-0", *late) == "5-0"
    (lane,) = await queue.status(["ops"])
    assert (lane.waiting, lane.dead) == (1, 0)


async def test_a_router_from_before_a_flush_changes_nothing(
    queue: StreamsQueue, server: redis.Redis
) -> None:
    """Without a cursor nothing is routed, so what was read before the flush cannot hide what
    is appended after it."""
    await queue.cursors(["ops"])
    server.flushall()
    assert await queue.route("ops", START_OF_LOG, "7-0", [Entry("k", b"")], []) == START_OF_LOG
    assert (await queue.status(["ops"]))[0].waiting == 0


async def test_two_routers_at_once_route_each_event_once(
    log: StreamsLog, queue: StreamsQueue, other: StreamsQueue
) -> None:
    """However they interleave, each event is in the lane once, in log order."""
    log.append(events(500))

    async def router(queue: StreamsQueue) -> None:
        while True:
            cursor = (await queue.cursors(["ops"]))["ops"]
            found = await queue.read_log(cursor, 7)
            if not found:
                return
            entries = [Entry(entry.id, entry.body) for entry in found]
            await queue.route("ops", cursor, found[-1].id, entries, [])

    await asyncio.gather(router(queue), router(other), router(queue), router(other))
    claims = await queue.fetch("ops", "a", 1_000, 0)
    assert [int(claim.body) for claim in claims] == list(range(500))


async def test_what_cannot_be_routed_becomes_a_dead_letter(queue: StreamsQueue) -> None:
    """It stands among the dead letters at once, as never attempted, whatever its reason says."""
    await queue.cursors(["ops"])
    dead = [DeadEntry("k", b"\xff", "failed", "bad \udc80 route")]
    await queue.route("ops", START_OF_LOG, "5-0", [], dead)
    (letter,) = await queue.dead_letters("ops")
    assert (letter.key, letter.body, letter.kind, letter.attempts) == ("k", b"\xff", "failed", 0)
    assert "route" in letter.reason
    assert letter.lane == "ops"


async def test_many_entries_are_routed_in_one_call(queue: StreamsQueue) -> None:
    """No size of a batch is too much."""
    await queue.cursors(["ops"])
    entries = [Entry(f"k{number}", b"%d" % number) for number in range(MANY)]
    assert await queue.route("ops", START_OF_LOG, "5-0", entries, []) == "5-0"
    assert (await queue.status(["ops"]))[0].waiting == MANY


# --- reading and trimming ----------------------------------------------------------------


async def test_reading_waits_for_the_first_event(queue: StreamsQueue, other: StreamsQueue) -> None:
    """A reader is told at once, well before its time is over."""
    reader = asyncio.create_task(queue.read_log(START_OF_LOG, 10, block_seconds=60))
    await asyncio.sleep(0.05)
    await other.append(events(1))
    assert [entry.body for entry in await asyncio.wait_for(reader, 10)] == [b"0"]


async def test_reading_returns_when_nothing_comes(queue: StreamsQueue) -> None:
    """An empty log is no error."""
    assert await queue.read_log(START_OF_LOG, 10, block_seconds=0.05) == []
    assert await queue.read_log(START_OF_LOG, 10) == []


async def test_trimming_forgets_by_age_but_keeps_what_must_be_routed(
    queue: StreamsQueue, server: redis.Redis
) -> None:
    """Entries older than the limit go, unless they are at or behind the cursor."""
    for number in range(1, 11):
        server.xadd("kd:{log}:stream", {"body": b"%d" % number}, id=f"{number}000-0")
    assert await queue.trim_log(4_000, "9000-0", 1 << 40) == 3
    assert await logged(queue) == [b"4", b"5", b"6", b"7", b"8", b"9", b"10"]
    assert await queue.trim_log(9_000, "6000-0", 1 << 40) == 2
    assert (await logged(queue))[0] == b"6"
    assert await queue.trim_log(-5, START_OF_LOG, 1 << 40) == 0


async def test_a_log_above_its_size_forgets_more_but_never_what_must_be_routed(
    queue: StreamsQueue, server: redis.Redis
) -> None:
    """The oldest go first, until it fits; the cursor is the limit even where it never does."""
    for number in range(1, 1_001):
        server.xadd("kd:{log}:stream", {"body": b"x" * 1_000}, id=f"{number}-0")
    await queue.trim_log(0, "900-0", 500_000)
    kept = server.xlen("kd:{log}:stream")
    assert 100 <= kept < 600
    await queue.trim_log(0, "900-0", 1_000)
    assert (await queue.read_log(START_OF_LOG, 1))[0].id == "900-0"


async def test_memory_that_is_full_is_told(
    log: StreamsLog, queue: StreamsQueue, configure: Callable[[str, Any], None]
) -> None:
    """An append raises, says maxmemory and what to do, and has appended nothing."""
    log.append(events(1))
    configure("maxmemory", 1)
    with pytest.raises(QueueUnavailable, match=r"maxmemory is reached.*Raise maxmemory"):
        log.append(events(2))
    with pytest.raises(QueueUnavailable, match="maxmemory"):
        await queue.append(events(2), "m1")
    assert await logged(queue) == [b"0"]
    configure("maxmemory", 0)
    log.append(events(2))
    eventually(lambda: log.summary(), "the log to answer")
    assert await logged(queue) == [b"0", b"1"]
