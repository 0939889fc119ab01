"""Where a kill -9, of a worker or of the server, leaves the log and the lanes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import threading
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from kinto_dispatch.errors import QueueUnavailable
from kinto_dispatch.queue.log import StreamsLog
from kinto_dispatch.queue.streams import StreamsQueue
from kinto_dispatch.queue.values import START_OF_LOG, Dead, Entry, Later, Settlement
from kinto_dispatch.testing.valkey import LocalValkey
from kinto_dispatch.testing.waiting import eventually, eventually_async


LEAST_EVENTS = 500
WORKERS = 3
WORKER_KILLS = 12
SERVER_KILLS = 5
SEED = 20261123
LEASE_SECONDS = 0.5

WORKER = """
import asyncio, contextlib, os, sys
from kinto_dispatch.errors import QueueUnavailable
from kinto_dispatch.queue.values import Done, Entry, Later, Settlement
from kinto_dispatch.queue.streams import StreamsQueue

URL, LEDGER, LEASE = sys.argv[1], sys.argv[2], float(sys.argv[3])


async def route(queue):
    cursor = (await queue.cursors(["ops"]))["ops"]
    found = await queue.read_log(cursor, 20)
    if found:
        entries = [Entry(entry.body.decode(), entry.body) for entry in found]
        await queue.route("ops", cursor, found[-1].id, entries, [])


def attempt(ledger, claim):
    os.write(ledger, b"%s %d\\n" % (claim.body, claim.attempt))
    # Every third delivery is put off once.
    retries = int(claim.body) % 3 == 0 and claim.attempt == 1
    return Settlement(claim, Later(0.01, 2) if retries else Done(), b"{}")


async def work(queue, ledger, name):
    await route(queue)
    await queue.promote("ops", 50)
    claims = [*await queue.reclaim("ops", name, LEASE, 20)]
    claims += await queue.fetch("ops", name, 20, 0.02)
    for start in range(0, len(claims), 5):
        await queue.settle("ops", [attempt(ledger, claim) for claim in claims[start:start + 5]])
        await queue.renew("ops", claims[start + 5:])


async def main():
    queue = StreamsQueue(lambda: URL, "kd", ["ops"], 2.0)
    ledger = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        try:
            await work(queue, ledger, f"worker-{os.getpid()}")
        except QueueUnavailable:
            await asyncio.sleep(0.02)


asyncio.run(main())
"""

STOPPED = """
import asyncio, sys
from kinto_dispatch.queue.values import Dead, Later, Settlement
from kinto_dispatch.queue.streams import StreamsQueue


async def main():
    queue = StreamsQueue(lambda: sys.argv[1], "kd", ["ops"])
    later, dead = await queue.fetch("ops", "stopped", 2, 5)
    print("claimed", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print(len(await queue.renew("ops", [later, dead])), flush=True)
    fates = [Settlement(later, Later(0, 2), b""), Settlement(dead, Dead("refused", ""), b"")]
    print(*await queue.settle("ops", fates), flush=True)
    await queue.close()


asyncio.run(main())
"""


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[LocalValkey]:
    """A server that the test may kill; what it acknowledged is on disk."""
    with LocalValkey(tmp_path) as server:
        yield server


@pytest.fixture
async def queue(valkey: LocalValkey) -> AsyncIterator[StreamsQueue]:
    """The test's own look at the queue."""
    queue = StreamsQueue(lambda: valkey.url, "kd", ["ops"])
    yield queue
    await queue.close()


class Workers:
    """Worker processes, of which one dies now and then and is replaced."""

    def __init__(self, url: str, ledger: Path) -> None:
        self._arguments = (sys.executable, "-c", WORKER, url, str(ledger), str(LEASE_SECONDS))
        self._processes: list[Process] = []

    async def start(self) -> None:
        self._processes.append(await asyncio.create_subprocess_exec(*self._arguments))

    async def kill(self, number: int) -> None:
        process = self._processes.pop(number)
        process.kill()
        await process.wait()

    async def freeze(self, number: int, seconds: float) -> None:
        """As a machine that swaps does: the process wakes up when its leases are over."""
        process = self._processes[number]
        os.kill(process.pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        os.kill(process.pid, signal.SIGCONT)

    async def __aenter__(self) -> Workers:
        for _ in range(WORKERS):
            await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._processes:
            await self.kill(0)


class Producer:
    """As Kinto does: appends one event after the other, each until it is known to have worked,
    for as long as there are faults."""

    def __init__(self, valkey: LocalValkey) -> None:
        self._log = StreamsLog(lambda: valkey.url, "kd", ["ops"], 1.0)
        self._ending = threading.Event()
        self.appended = 0

    async def __aenter__(self) -> Producer:
        self._task = asyncio.create_task(asyncio.to_thread(self._produce))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending.set()
        await self._task
        self._log.close()

    def _produce(self) -> None:
        while not self._ending.wait(0.001):
            eventually(partial(append, self._log, self.appended), "the log to take it", 30)
            self.appended += 1


def append(log: StreamsLog, number: int) -> bool:
    try:
        log.append([(f"event-{number}", b"%d" % number)])
    except QueueUnavailable:
        return False
    return True


async def is_idle(queue: StreamsQueue) -> bool:
    """Everything that was appended is routed and settled."""
    with contextlib.suppress(QueueUnavailable):
        (lane,) = await queue.status(["ops"])
        counts = lane.waiting, lane.in_flight, lane.retry
        return counts == (0, 0, 0) and lane.oldest_waiting_seconds is None
    return False


def attempts_in(ledger: Path) -> Counter[tuple[int, int]]:
    """How often each attempt of each event was run."""
    lines = ledger.read_text().splitlines()
    return Counter((int(line.split()[0]), int(line.split()[1])) for line in lines)


def expected_attempts(events: int) -> set[tuple[int, int]]:
    first = {(number, 1) for number in range(events)}
    return first | {(number, 2) for number in range(0, events, 3)}


@pytest.mark.timeout(240)
async def test_workers_that_are_killed_or_frozen_lose_nothing(
    valkey: LocalValkey, queue: StreamsQueue, tmp_path: Path
) -> None:
    """Every event is delivered, with its retries and no other attempt; only what was in flight at
    a death is delivered again, under the same number (R1)."""
    chance = random.Random(SEED)
    ledger = tmp_path / "ledger"
    async with Workers(valkey.url, ledger) as workers:
        async with Producer(valkey) as producer:
            for _ in range(WORKER_KILLS):
                await asyncio.sleep(chance.uniform(0.05, 0.4))
                if chance.random() < 0.3:
                    await workers.freeze(chance.randrange(WORKERS), LEASE_SECONDS * 2)
                else:
                    await workers.kill(chance.randrange(WORKERS))
                    await workers.start()
        await eventually_async(lambda: is_idle(queue), "the lane to be empty", 120)
    assert producer.appended > LEAST_EVENTS
    attempts = attempts_in(ledger)
    assert set(attempts) == expected_attempts(producer.appended)
    repeated = sum(attempts.values()) - len(attempts)
    assert repeated <= 20 * WORKER_KILLS
    (lane,) = await queue.status(["ops"])
    assert lane.dead == 0


@pytest.mark.timeout(240)
async def test_a_server_that_is_killed_loses_nothing_that_it_acknowledged(
    valkey: LocalValkey, queue: StreamsQueue, tmp_path: Path
) -> None:
    """Each event is in the log once, goes through its lane, and every worker goes on
    (R11, R12)."""
    chance = random.Random(SEED)
    ledger = tmp_path / "ledger"
    async with Workers(valkey.url, ledger):
        async with Producer(valkey) as producer:
            for _ in range(SERVER_KILLS):
                await asyncio.sleep(chance.uniform(0.2, 0.6))
                await asyncio.to_thread(valkey.kill)
                await asyncio.sleep(chance.uniform(0.0, 0.2))
                await asyncio.to_thread(valkey.start)
        await eventually_async(lambda: is_idle(queue), "the lane to be empty", 120)
    bodies = [int(entry.body) for entry in await queue.read_log(START_OF_LOG, 100_000)]
    assert bodies == list(range(producer.appended))
    assert set(attempts_in(ledger)) == expected_attempts(producer.appended)


async def test_a_worker_that_wakes_up_late_changes_nothing(
    valkey: LocalValkey, queue: StreamsQueue
) -> None:
    """Stopped until its leases were over and others had its deliveries: it is told that it lost
    them, and neither its retry nor its rejection counts."""
    await queue.enqueue("ops", [Entry("k0", b""), Entry("k1", b"")])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STOPPED, valkey.url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"claimed\n"
    os.kill(process.pid, signal.SIGSTOP)
    taken: list[str] = []

    async def take_over() -> bool:
        claims = await queue.reclaim("ops", "other", 0.1, 9)
        taken.extend(claim.key for claim in claims)
        return len(taken) == 2

    await eventually_async(take_over, "both leases to end")
    os.kill(process.pid, signal.SIGCONT)
    output, _ = await asyncio.wait_for(process.communicate(b"\n"), 20)
    assert output.split() == [b"2", b"False", b"False"]
    (lane,) = await queue.status(["ops"])
    assert (lane.in_flight, lane.retry, lane.dead) == (2, 0, 0)


async def test_what_waits_outlives_the_server(valkey: LocalValkey, queue: StreamsQueue) -> None:
    """Retries and their delays, dead letters, strikes, a pause: all is there after a kill -9
    (R12)."""
    await queue.enqueue("ops", [Entry(f"k{number}", b"\xff") for number in range(3)])
    later, dead, held = await queue.fetch("ops", "a", 3, 0)
    fates = [Settlement(later, Later(1.0, 2), b"{}"), Settlement(dead, Dead("failed", ""), b"{}")]
    assert await queue.settle("ops", fates) == [True, True]
    await queue.strike("ops", held)
    await queue.pause("ops", True)
    await asyncio.to_thread(valkey.kill)
    with pytest.raises(QueueUnavailable):
        await queue.promote("ops", 9)
    await asyncio.to_thread(valkey.start)
    (lane,) = await queue.status(["ops"])
    assert (lane.in_flight, lane.retry, lane.dead, lane.paused) == (1, 1, 1, True)
    assert await queue.strike("ops", held) == 1
    assert await queue.renew("ops", [held]) == []
    assert [letter.key for letter in await queue.dead_letters("ops")] == ["k1"]
    await queue.pause("ops", False)

    async def come_back() -> bool:
        return (await queue.promote("ops", 9))[0] == 1

    await eventually_async(come_back, "the retry to be due")
    (claim,) = await queue.fetch("ops", "b", 9, 0)
    assert (claim.key, claim.body, claim.attempt) == ("k0", b"\xff", 2)


async def test_who_lives_has_time_to_renew_after_a_restart(
    valkey: LocalValkey, queue: StreamsQueue
) -> None:
    """While the server was away all leases ended. A worker that is quick to reclaim takes nothing
    before one lease is over, and then only what nobody has renewed."""
    lease_seconds = 3.0
    await queue.enqueue("ops", [Entry("living", b""), Entry("dead", b"")])
    living, dead = await queue.fetch("ops", "a", 2, 0)
    await asyncio.to_thread(valkey.kill)
    # As a long absence: with this much idle time the leases are over whenever the server is back.
    await asyncio.sleep(lease_seconds)
    await asyncio.to_thread(valkey.start)
    assert await queue.reclaim("ops", "b", lease_seconds, 9) == []
    found: list[str] = []

    async def take_over() -> bool:
        assert await queue.renew("ops", [living]) == []
        claims = await queue.reclaim("ops", "b", lease_seconds, 9)
        found.extend(claim.id for claim in claims)
        return bool(found)

    await eventually_async(take_over, "the lease after the restart to end")
    assert found == [dead.id]
