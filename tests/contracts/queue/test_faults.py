"""What must not strand a lane, lose a delivery or keep a worker waiting for ever: rejected
requests, servers that changed places, dead connections, lanes that are taken apart."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from kinto_dispatch.errors import QueueRejected, QueueUnavailable
from kinto_dispatch.limit import RateLimit
from kinto_dispatch.queue import commands
from kinto_dispatch.queue.log import StreamsLog
from kinto_dispatch.queue.streams import StreamsQueue
from kinto_dispatch.queue.values import START_OF_LOG, Claim, Dead, Done, Entry, Later, Settlement
from kinto_dispatch.testing.valkey import LocalValkey


STREAM = "kd:{lane:ops}:stream"
STRIKES = "kd:{lane:ops}:strikes"


class Way:
    """A way to a server that can lead elsewhere, or nowhere, from one moment to the next."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.delay_seconds = 0.0
        self.is_cut = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Way:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """From now on nothing passes on the connections that are open, and nobody is told."""
        self.is_cut.set()
        self.is_cut = asyncio.Event()

    async def _carry(self, reader: Any, writer: Any) -> None:
        path = self.target.removeprefix("unix://").partition("?")[0]
        far_reader, far_writer = await asyncio.open_unix_connection(path)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pass_on(source, sink, self.is_cut))
            self._tasks.add(task)

    async def _pass_on(self, source: Any, sink: Any, is_cut: asyncio.Event) -> None:
        with contextlib.closing(sink):
            while data := await source.read(65_536):
                if is_cut.is_set():
                    continue
                await asyncio.sleep(self.delay_seconds)
                sink.write(data)


@pytest.fixture
async def second(tmp_path: Path) -> AsyncIterator[LocalValkey]:
    """Another server."""
    (tmp_path / "second").mkdir()
    with LocalValkey(tmp_path / "second") as server:
        yield server


# --- refusals ----------------------------------------------------------------------------


async def test_a_request_that_is_rejected_is_no_absence_of_the_queue(
    queue: StreamsQueue, server: redis.Redis, claimed: Callable[..., Any]
) -> None:
    """Whoever waits for the queue would wait for ever, so this is another, loud error."""
    (claim,) = await claimed()
    server.hset(STRIKES, claim.id, "no number")
    with pytest.raises(QueueRejected, match=r"not an integer.*bug of kinto-dispatch"):
        await queue.strike("ops", claim)
    with pytest.raises(QueueRejected, match="Invalid stream ID"):
        await queue.read_log("nonsense", 1)


async def test_an_error_within_a_script_is_rejected_too(
    queue: StreamsQueue, log: StreamsLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On both sides, and nothing of the script has happened."""
    monkeypatch.setattr(commands, "WINDOW_MS", "no number")
    with pytest.raises(QueueRejected, match="arithmetic"):
        await queue.append([("event", b"")])
    with pytest.raises(QueueRejected, match="arithmetic"):
        log.append([("event", b"")])


async def test_a_database_that_is_not_there_is_a_matter_of_the_url(url: str) -> None:
    """The server rejects its number, which is the operator's to correct."""
    beyond = f"{url.removesuffix('/0')}{'?db=' if url.startswith('unix') else '/'}4711"
    queue = StreamsQueue(lambda: beyond, "kd", ("ops",))
    with pytest.raises(QueueUnavailable, match=r"no database of that number.*queue_url"):
        await queue.mark()
    await queue.close()


# --- another server ----------------------------------------------------------------------


async def test_a_primary_that_became_a_replica_is_looked_for_again(
    valkey: LocalValkey, second: LocalValkey
) -> None:
    """A connection stays open when the server at its end is demoted; the next call makes a new
    one, which leads to whoever is the primary now (R13)."""
    async with Way(valkey.url) as way:
        queue = StreamsQueue(lambda: way.url, "kd", ("ops",))
        log = StreamsLog(lambda: way.url, "kd", ("ops",), 5.0)
        await queue.enqueue("ops", [Entry("k", b"")])
        await asyncio.to_thread(log.append, [("event-0", b"0")])
        with redis.Redis.from_url(valkey.url) as server:
            server.replicaof("127.0.0.1", 1)
        way.target = second.url
        with pytest.raises(QueueUnavailable, match="replica"):
            await queue.enqueue("ops", [Entry("k", b"")])
        with pytest.raises(QueueUnavailable, match="replica"):
            await asyncio.to_thread(log.append, [("event-1", b"1")])
        await queue.enqueue("ops", [Entry("k", b"")])
        await asyncio.to_thread(log.append, [("event-1", b"1")])
        assert [entry.body for entry in await queue.read_log(START_OF_LOG, 9)] == [b"1"]
        log.close()
        await queue.close()


async def test_connections_that_died_unnoticed_cost_one_call(valkey: LocalValkey) -> None:
    """As behind a firewall that forgets them: the first call to run into one clears the others
    away, so the next one works."""
    async with Way(valkey.url) as way:
        queue = StreamsQueue(lambda: way.url, "kd", ("ops",), 0.5)
        log = StreamsLog(lambda: way.url, "kd", ("ops",), 0.5)
        await asyncio.gather(*(queue.mark() for _ in range(5)))
        threads = [asyncio.to_thread(log.summary) for _ in range(5)]
        await asyncio.gather(*threads)
        way.cut()
        with pytest.raises(QueueUnavailable, match="did not answer in time"):
            await queue.mark()
        with pytest.raises(QueueUnavailable, match="did not answer in time"):
            await asyncio.to_thread(log.summary)
        assert await queue.mark()
        assert await asyncio.to_thread(log.summary)
        log.close()
        await queue.close()


async def test_a_wait_on_a_dead_connection_ends(valkey: LocalValkey) -> None:
    """Whoever waits for deliveries or events hears of it soon after its own time is over."""
    async with Way(valkey.url) as way:
        queue = StreamsQueue(lambda: way.url, "kd", ("ops",), 0.5)
        started = time.monotonic()
        fetching = asyncio.create_task(queue.fetch("ops", "a", 1, 0.5))
        reading = asyncio.create_task(queue.read_log(START_OF_LOG, 1, 0.5))
        await asyncio.sleep(0.2)
        way.cut()
        errors = await asyncio.gather(fetching, reading, return_exceptions=True)
        assert [type(error) for error in errors] == [QueueUnavailable, QueueUnavailable]
        assert time.monotonic() - started < 5
        assert await queue.fetch("ops", "a", 1, 0) == []
        await queue.close()


async def test_a_port_that_never_answers_costs_the_time_that_was_granted() -> None:
    """It takes connections and says nothing, not even no, as a black hole does (R8)."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://:s3cr3t@127.0.0.1:{silent.getsockname()[1]}/0"
        queue = StreamsQueue(lambda: url, "kd", ("ops",), 0.5)
        log = StreamsLog(lambda: url, "kd", ("ops",), 0.2)
        started = time.monotonic()
        said = r"did not answer in time.*whether a firewall swallows what is sent"
        with pytest.raises(QueueUnavailable, match=said) as error:
            await queue.fetch("ops", "a", 1, 0.1)
        assert "s3cr3t" not in str(error.value)
        assert time.monotonic() - started < 2
        started = time.monotonic()
        with pytest.raises(QueueUnavailable, match="did not answer in time"):
            log.append([("event", b"")])
        assert time.monotonic() - started < 1
        log.close()
        await queue.close()


async def test_numbers_of_many_lanes_come_together(valkey: LocalValkey) -> None:
    """Over a slow way, too, Kinto's heartbeat soon knows of fifty lanes: that events wait in the
    log for each of them, and that no worker was ever seen."""
    lanes = [f"lane-{number}" for number in range(50)]
    async with Way(valkey.url) as way:
        log = StreamsLog(lambda: way.url, "kd", lanes, 5.0)
        await asyncio.to_thread(log.append, [("event", b"")])
        await asyncio.to_thread(log.summary)
        way.delay_seconds = 0.05
        started = time.monotonic()
        found, was_seen = await asyncio.to_thread(log.summary)
        # A round trip for each lane would take five seconds.
        assert time.monotonic() - started < 2
        assert [lane.channel for lane in found] == lanes
        assert all(lane.oldest_waiting_seconds is not None for lane in found)
        assert not was_seen
        log.close()


async def test_connections_are_as_many_as_calls_at_a_time(
    queue: StreamsQueue, server: redis.Redis
) -> None:
    """Calls that end, well or not, leave none behind that is not used again."""
    before = len(server.client_list())
    for _ in range(10):
        waiting = [asyncio.create_task(queue.fetch("ops", "a", 1, 30)) for _ in range(10)]
        await asyncio.sleep(0.02)
        for task in waiting[:5]:
            task.cancel()
        await queue.enqueue("ops", [Entry("k", b"")] * 5)
        await asyncio.gather(*waiting, return_exceptions=True)
    assert len(server.client_list()) - before <= 12


# --- lanes that are taken apart ----------------------------------------------------------


async def test_a_lane_that_is_deleted_again_and_again_breaks_nobody(
    queue: StreamsQueue, server: redis.Redis
) -> None:
    """Who waits in it comes back with nothing, and the next call finds what was added."""
    await queue.fetch("ops", "a", 1, 0)
    waiting = asyncio.create_task(queue.fetch("ops", "a", 1, 30))
    while not waiting.done():
        await asyncio.sleep(0.05)
        server.delete(STREAM)
    assert await waiting == []
    await queue.enqueue("ops", [Entry("k", b"")])
    assert [claim.key for claim in await queue.fetch("ops", "a", 1, 0)] == ["k"]


async def test_strikes_go_with_an_entry_that_was_deleted(
    queue: StreamsQueue,
    server: redis.Redis,
    claimed: Callable[..., Any],
    idle: Callable[[Claim, float], Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is left of it, and it is said that it is gone."""
    (claim,) = await claimed()
    await queue.strike("ops", claim)
    await idle(claim, 0.05)
    server.xdel(STREAM, claim.id)
    assert await queue.reclaim("ops", "b", 0.05, 9) == []
    assert not server.exists(STRIKES)
    assert f"lane.entry_gone lane=ops id={claim.id}" in caplog.text
    assert server.xpending(STREAM, "workers")["pending"] == 0


# --- late settlements --------------------------------------------------------------------


async def test_the_fence_holds_where_the_group_was_lost(
    queue: StreamsQueue, other: StreamsQueue, server: redis.Redis, claimed: Callable[..., Any]
) -> None:
    """A new group counts deliveries anew, so tokens come again: it is the worker that differs."""
    (claim,) = await claimed()
    server.xgroup_destroy(STREAM, "workers")
    (taken,) = await other.fetch("ops", "b", 9, 0)
    assert (taken.id, taken.token) == (claim.id, claim.token)
    assert await queue.renew("ops", [claim]) == [claim]
    assert await queue.settle("ops", [Settlement(claim, Later(0, 2), b"")]) == [False]
    await queue.release("ops", [claim])
    assert await other.settle("ops", [Settlement(taken, Later(0, 2), b"")]) == [True]


async def test_what_a_stopped_worker_delivered_is_not_retried(
    queue: StreamsQueue,
    other: StreamsQueue,
    server: redis.Redis,
    claimed: Callable[..., Any],
    idle: Callable[[Claim, float], Any],
) -> None:
    """A late delivery calls off the retry that another worker has put off meanwhile."""
    (claim,) = await claimed()
    await idle(claim, 0.05)
    (taken,) = await other.reclaim("ops", "b", 0.05, 9)
    assert await other.settle("ops", [Settlement(taken, Later(60, 2), b"")]) == [True]
    assert await queue.settle("ops", [Settlement(claim, Done(), b"{}")]) == [True]
    (lane,) = await queue.status(["ops"])
    assert (lane.waiting, lane.in_flight, lane.retry, lane.dead) == (0, 0, 0, 0)
    assert not server.exists("kd:{lane:ops}:held")
    assert await queue.settle("ops", [Settlement(claim, Done(), b"{}")]) == [False]
    assert len(await queue.attempts("ops")) == 2


# --- large events ------------------------------------------------------------------------


async def test_the_log_is_read_in_parts_that_fit(
    queue: StreamsQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many bytes as one call may carry, or one event alone; nothing is left out."""
    monkeypatch.setattr(commands, "READ_BYTES", 1_000)
    sizes = [400, 400, 400, 2_000, 10, 10, 990]
    await queue.append([(f"event-{number}", b"x" * size) for number, size in enumerate(sizes)])
    after, parts = START_OF_LOG, []
    while part := await queue.read_log(after, 100):
        parts.append([len(entry.body) for entry in part])
        after = part[-1].id
    assert parts == [[400, 400], [400], [2_000], [10, 10], [990]]


async def test_reading_stops_at_the_count(queue: StreamsQueue) -> None:
    """Also where the count is no multiple of what is looked at in one go."""
    await queue.append([(f"event-{number}", b"%d" % number) for number in range(130)])
    assert len(await queue.read_log(START_OF_LOG, 120)) == 120
    assert len(await queue.read_log(START_OF_LOG, 100)) == 100
    assert [entry.body for entry in await queue.read_log(START_OF_LOG, 1)] == [b"0"]
    assert len(await queue.read_log(START_OF_LOG, 1_000)) == 130


async def test_a_dead_letter_of_many_attempts_keeps_their_number(
    queue: StreamsQueue, server: redis.Redis
) -> None:
    """However odd the number is that stood in the lane."""
    server.xadd(STREAM, {b"key": b"k", b"attempt": b"%d" % 10**15})
    (claim,) = await queue.fetch("ops", "a", 1, 0)
    assert await queue.settle("ops", [Settlement(claim, Dead("failed", ""), b"")]) == [True]
    (letter,) = await queue.dead_letters("ops")
    assert letter.attempts == claim.attempt == 10**15


# --- large claims ------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, RateLimit(10_000, 1.0)])
async def test_no_more_is_claimed_than_an_answer_can_hold(
    queue: StreamsQueue, monkeypatch: pytest.MonkeyPatch, limit: RateLimit | None
) -> None:
    """About as many bytes as one call may bring, with a rate limit and without; only what comes
    first of large ones is not known to be large. Small ones come as many as were asked for."""
    monkeypatch.setattr(commands, "CLAIM_BYTES", 100_000)
    sizes = [30_000] * 40 + [10] * 300
    await queue.enqueue("ops", [Entry(f"k{n}", b"x" * size) for n, size in enumerate(sizes)])
    claims = list(await queue.fetch("ops", "a", 300, 0, limit=limit))
    assert len(claims) == 16
    while len(claims) < 40:
        some = await queue.fetch("ops", "a", 300, 0, limit=limit)
        assert sum(len(claim.body) for claim in some) <= 16 * 30_000
        claims += some
    while some := await queue.fetch("ops", "a", 100, 0, limit=limit):
        claims += some
    assert [claim.key for claim in claims] == [f"k{n}" for n in range(len(sizes))]
    await queue.enqueue("ops", [Entry(f"k{n}", b"") for n in range(300)])
    assert len(await queue.fetch("ops", "a", 300, 0, limit=limit)) == 300


async def test_no_more_is_taken_over_than_an_answer_can_hold(
    queue: StreamsQueue,
    monkeypatch: pytest.MonkeyPatch,
    claimed: Callable[..., Any],
    idle: Callable[[Claim, float], Any],
) -> None:
    """Of what a dead worker held; the rest is for the next call."""
    monkeypatch.setattr(commands, "CLAIM_BYTES", 100_000)
    await queue.enqueue("ops", [Entry(f"k{n}", b"x" * 40_000) for n in range(10)])
    claims: list[Claim] = []
    while some := await queue.fetch("ops", "a", 20, 0):
        claims += some
    await idle(claims[-1], 0.05)
    parts = [await queue.reclaim("ops", "b", 0.05, 20) for _ in range(4)]
    assert [len(part) for part in parts] == [3, 3, 3, 1]


async def test_dead_letters_are_listed_in_parts_that_fit(
    queue: StreamsQueue, server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of large ones is shorter, and none is left out."""
    monkeypatch.setattr(commands, "READ_BYTES", 100_000)
    for number in range(7):
        server.xadd("kd:{lane:ops}:dead", {"key": f"k{number}", "body": b"x" * 40_000})
    after, pages = START_OF_LOG, []
    while page := await queue.dead_letters("ops", after):
        pages.append([letter.key for letter in page])
        after = page[-1].id
    assert pages == [["k0", "k1"], ["k2", "k3"], ["k4", "k5"], ["k6"]]
