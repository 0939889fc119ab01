"""One lane in one process, on a real queue: claims, attempts, settlements, leases."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from kinto_dispatch.lane import Lane
from kinto_dispatch.plugins import Configuration, configure
from kinto_dispatch.quarantine import Quarantine
from kinto_dispatch.queue import open_queue
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.values import Claim, Entry, LaneStatus
from kinto_dispatch.settings import DispatchSettings
from kinto_dispatch.testing.builders import make_change, make_event
from kinto_dispatch.testing.valkey import LocalValkey
from kinto_dispatch.testing.waiting import eventually_async


PLUGIN = """
import asyncio, os
from kinto_dispatch import Delivered, Rejected, Retry, hookimpl

begun, done, most, running = [], [], 0, 0
gate = asyncio.Event()


@hookimpl
async def on_event_async(event, delivery):
    global most, running
    begun.append(delivery.key)
    running += 1
    most = max(most, running)
    try:
        outcome = await eval(event.changes[0].new["do"], globals())
    finally:
        running -= 1
    done.append(delivery.key)
    return outcome


async def say(outcome=None):
    return outcome


async def hold(outcome=None):
    await gate.wait()
    return outcome


async def note(path, go=None):
    # Die, and leave a mark; where there is a file to wait for, when it is there.
    with open(path, "a") as file:
        file.write("x")
    while go and not os.path.exists(go):
        await asyncio.sleep(0.01)
    os._exit(3)


async def spin():
    while True:
        pass


async def call_off():
    asyncio.current_task().cancel()
    await asyncio.sleep(9)


async def swallow():
    while not gate.is_set():
        try:
            await gate.wait()
        except asyncio.CancelledError:
            pass
"""

PLAIN = """
import threading
from kinto_dispatch import hookimpl

gate = threading.Event()


@hookimpl
def on_event_async(event, delivery):
    if event.changes[0].new["do"] == "hang":
        gate.wait(60)
"""

LEASE = 2.0
BASE = "kinto.event_listeners.dispatch."


class Bench:
    """Lanes on a queue, and a connection to look at what is there."""

    def __init__(self, directory: Path, url: str) -> None:
        self.url = url
        self._directory = directory
        self.other = self.connect()
        self.stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._queues = [self.other]
        self._quarantines: list[Quarantine] = []

    def connect(self) -> Queue:
        """A connection of its own."""
        url = SecretStr(self.url)
        settings = DispatchSettings(channels=(), queue_url=url, queue_dir=self._directory)
        return open_queue(settings, ("ops",))

    def lane(self, plugin: str = "lane_plugin", consumer: str = "me", **settings: object) -> Lane:
        """A lane, not yet running."""
        configuration = _configuration(plugin, **settings)
        queue, quarantine = self.connect(), Quarantine(configuration.source, grace_seconds=0.5)
        self._queues.append(queue)
        self._quarantines.append(quarantine)
        (channel,) = configuration.channels
        return Lane(channel, queue, consumer, quarantine, LEASE, self.stopping)

    def run(self, lane: Lane) -> asyncio.Task[None]:
        """Run it until the test ends or stops it."""
        task = asyncio.ensure_future(lane.run())
        self._tasks.append(task)
        return task

    async def stop(self) -> None:
        """Stop all lanes, as the worker does."""
        self.stopping.set()
        await asyncio.wait_for(asyncio.gather(*self._tasks), 20)

    async def enqueue(self, *what: str, start: int = 0) -> None:
        """Deliveries ``0:ops``, ``1:ops`` ... with what their hook shall do."""
        entries = []
        for number, do in enumerate(what, start):
            change = make_change(new={"do": do})
            body = make_event(id=str(number), changes=(change,)).encode()
            entries.append(Entry(f"{number}:ops", body))
        await self.other.enqueue("ops", entries)

    async def status(self) -> LaneStatus:
        (status,) = await self.other.status(["ops"])
        return status

    async def settled(self) -> list[dict[str, Any]]:
        """The attempt records."""
        records = await self.other.attempts("ops", count=100_000)
        return [json.loads(record) for _, record in records]

    async def all_settled(self, count: int, seconds: float = 20) -> list[dict[str, Any]]:
        """The attempt records, once there are so many."""

        async def enough() -> list[dict[str, Any]]:
            records = await self.settled()
            return records if len(records) >= count else []

        return await eventually_async(enough, f"{count} attempts to be settled", seconds)

    async def close(self) -> None:
        for name in ("lane_plugin", "plain_plugin"):
            if plugin := sys.modules.get(name):
                plugin.gate.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for quarantine in self._quarantines:
            quarantine.close()
        for queue in self._queues:
            await queue.close()


def _configuration(plugin: str, **settings: object) -> Configuration:
    options = {f"{BASE}channels.ops.{name}": str(value) for name, value in settings.items()}
    listeners = {"kinto.event_listeners": "dispatch", f"{BASE}use": "kinto_dispatch"}
    channel = {f"{BASE}channels": "ops", f"{BASE}channels.ops.plugin": plugin}
    return configure({**listeners, **channel, **options}, {})


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A plugin whose records say what its hook shall do, and one of plain functions."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lane_plugin.py").write_text(PLUGIN)
    (tmp_path / "plain_plugin.py").write_text(PLAIN)
    yield tmp_path
    for name in ("lane_plugin", "plain_plugin"):
        sys.modules.pop(name, None)


@pytest.fixture
async def bench(plugins: Path, queue_url: str) -> AsyncIterator[Bench]:
    """On an empty queue."""
    bench = Bench(plugins, queue_url)
    yield bench
    await bench.close()


@pytest.fixture
async def own_valkey(tmp_path: Path) -> AsyncIterator[LocalValkey]:
    """A server that the test may kill."""
    directory = tmp_path / "valkey"
    await asyncio.to_thread(directory.mkdir)
    server = LocalValkey(directory)
    await asyncio.to_thread(server.start)
    yield server
    await asyncio.to_thread(server.stop)


@pytest.fixture
async def on_own(plugins: Path, own_valkey: LocalValkey) -> AsyncIterator[Bench]:
    """A bench on that server."""
    bench = Bench(plugins, own_valkey.url)
    yield bench
    await bench.close()


def plugin(name: str = "lane_plugin") -> Any:
    return sys.modules[name]


async def becomes(condition: Callable[[], object], what: str, seconds: float = 10) -> None:
    async def holds() -> bool:
        return bool(condition())

    await eventually_async(holds, what, seconds)


async def becomes_status(bench: Bench, **expected: object) -> None:
    """Wait until the lane is as expected."""

    async def holds() -> bool:
        status = await bench.status()
        return {name: getattr(status, name) for name in expected} == expected

    await eventually_async(holds, f"the lane to have {expected}", 20)


# --- is it live? ---------------------------------------------------------------------------------


async def test_a_lane_comes_round_whatever_keeps_it_from_work(
    on_own: Bench, own_valkey: LocalValkey
) -> None:
    """Idle, paused, with an open breaker, or with a queue that is away: nobody may take it for
    one that stands still."""
    lane = on_own.lane()
    on_own.run(lane)
    for hold in (None, "pause", "breaker", "away"):
        if hold == "pause":
            await on_own.other.pause("ops", True)
        if hold == "breaker":
            before_it, now_ms = await on_own.other.breaker("ops")
            rests = f"open 10 {now_ms} 0 {now_ms + 50_000} "
            assert await on_own.other.move_breaker("ops", before_it, rests)
        if hold == "away":
            await asyncio.to_thread(own_valkey.kill)
        before = lane.rounds
        await becomes(lambda before=before: lane.rounds > before + 1, f"it to go on ({hold})", 30)
        assert lane.has_room


async def test_a_lane_that_is_busy_has_no_room(bench: Bench) -> None:
    """So it need not ask for more, however long that takes."""
    lane = bench.lane(concurrency=1)
    bench.run(lane)
    await becomes(lambda: lane.has_room, "room for one")
    await bench.enqueue("hold()")
    await becomes(lambda: plugin().begun and not lane.has_room, "it to be busy", 20)
    plugin().gate.set()
    await becomes(lambda: lane.has_room, "room again", 20)


# --- attempts ------------------------------------------------------------------------------------


async def test_deliveries_are_attempted_and_settled(bench: Bench) -> None:
    """Each once; the lane is empty then."""
    await bench.enqueue(*["say()"] * 1000)
    bench.run(bench.lane())
    records = await bench.all_settled(1000)
    assert {record["key"] for record in records} == {f"{n}:ops" for n in range(1000)}
    status = await bench.status()
    assert (status.waiting, status.in_flight, status.retry, status.dead) == (0, 0, 0, 0)


async def test_each_fate_goes_its_way(bench: Bench) -> None:
    """What is refused is a dead letter at once, what is put off comes again (R20)."""
    await bench.enqueue("say(Rejected('no'))", "say(Retry('busy'))", "say()")
    bench.run(bench.lane(retry_delays_seconds="0.1", max_attempts=3))
    records = await bench.all_settled(5)
    attempts = [(one["key"], one["attempt"], one["outcome"]) for one in records]
    assert sorted(attempts) == [
        ("0:ops", 1, "rejected"),
        ("1:ops", 1, "retry"),
        ("1:ops", 2, "retry"),
        ("1:ops", 3, "retry"),
        ("2:ops", 1, "delivered"),
    ]
    letters = {letter.key: letter for letter in await bench.other.dead_letters("ops")}
    assert letters["0:ops"].reason == "no"
    assert letters["1:ops"].reason == "busy (attempt 3 of 3)"


async def test_a_destination_that_wants_no_more_pauses_the_lane(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is attempted after the answer, also of what was claimed by then; what waits stays,
    and comes once somebody resumes the lane (R20)."""
    await bench.enqueue("say(Rejected('no more', pause=True))", *["say()"] * 999)
    bench.run(bench.lane(concurrency=1))
    await bench.all_settled(1)
    await becomes_status(bench, waiting=999, in_flight=0, dead=1, paused=True)
    assert plugin().begun == ["0:ops"]
    warnings = [one.getMessage() for one in caplog.records if "paused" in one.getMessage()]
    assert warnings == [
        "channel.paused channel=ops reason='no more': go on with: kinto-dispatch resume ops"
    ]
    await bench.other.pause("ops", False)
    await bench.all_settled(1000)
    assert sorted(plugin().begun) == sorted(f"{n}:ops" for n in range(1000))


async def test_what_runs_when_the_lane_is_paused_still_ends(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Each with its own outcome, and one warning for all who say the same (R20)."""
    said = ["hold(Rejected('no more', pause=True))"] * 4
    await bench.enqueue(*said, *["hold()"] * 4, *["say()"] * 100)
    bench.run(bench.lane(concurrency=8))
    await becomes(lambda: len(plugin().begun) == 8, "all slots to be taken")
    plugin().gate.set()
    await becomes_status(bench, waiting=100, in_flight=0, dead=4, paused=True)
    assert len(plugin().begun) == 8
    assert caplog.text.count("channel.paused") == 1


async def test_no_more_run_than_there_are_slots(bench: Bench) -> None:
    """However many wait; and there is always the next one."""
    await bench.enqueue(*["asyncio.sleep(0.01)"] * 60)
    bench.run(bench.lane(concurrency=7))
    await bench.all_settled(60)
    assert plugin().most == 7


async def test_slow_deliveries_leave_the_rest_to_others(bench: Bench) -> None:
    """Nothing is claimed ahead where it would have to wait."""
    await bench.enqueue(*["hold()"] * 20)
    bench.run(bench.lane(concurrency=5))
    bench.run(bench.lane(concurrency=5, consumer="other"))
    await becomes(lambda: len(plugin().begun) == 10, "both to be busy")
    status = await bench.status()
    assert (status.in_flight, status.waiting) == (10, 10)
    plugin().gate.set()
    await bench.all_settled(20)


async def test_quick_deliveries_are_claimed_ahead(bench: Bench) -> None:
    """Even where they come one by one, the server is not waited for after each."""
    await bench.enqueue(*["say()"] * 500, "hold()", *["say()"] * 500)
    lane = bench.lane(concurrency=1)
    bench.run(lane)
    await becomes(lambda: plugin().running == 1, "the slot to wait")
    assert lane.in_flight > 1
    plugin().gate.set()
    await bench.all_settled(1001)


async def test_a_hook_that_does_not_end_gives_up_its_slot(bench: Bench) -> None:
    """A second after its deadline, also when it swallows its cancellation."""
    await bench.enqueue("swallow()", *["say()"] * 5)
    bench.run(bench.lane(concurrency=1, timeout_seconds=0.2))
    records = await bench.all_settled(6)
    assert records[0]["outcome"] == "failed"
    assert "did not end when it was cancelled" in records[0]["reason"]
    assert [record["outcome"] for record in records[1:]] == ["delivered"] * 5


async def test_a_hook_that_cancels_itself_keeps_no_slot(bench: Bench) -> None:
    """Nor its delivery."""
    await bench.enqueue("call_off()", *["say()"] * 5)
    bench.run(bench.lane(concurrency=1))
    records = await bench.all_settled(6)
    assert records[0]["reason"] == "the hook was cancelled from within"
    assert [record["outcome"] for record in records[1:]] == ["delivered"] * 5


async def test_what_the_destination_asks_for_is_honoured(bench: Bench) -> None:
    """It is not attempted again before the time that a ``Retry`` names, however soon it would be
    otherwise (R20)."""
    await bench.enqueue("say(Retry('busy', after=1.5))", "say(Retry('busy'))")
    bench.run(bench.lane(retry_delays_seconds="0.1", max_attempts=2))
    records = await bench.all_settled(4)
    times: dict[str, list[float]] = {}
    for one in records:
        times.setdefault(one["key"], []).append(one["at"])
    assert min(times["0:ops"][1:]) - times["0:ops"][0] >= 1.5
    assert min(times["1:ops"][1:]) - times["1:ops"][0] < 1.5


async def test_threads_that_hang_hold_nothing_up(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """While some are free the lane goes on with them; when none is, with processes, in which what
    hangs can be ended, until threads come free; and somebody is told (R17)."""
    lane = bench.lane("plain_plugin", concurrency=2, timeout_seconds=0.1, max_attempts=2)
    hanging = 2 + 8  # its two and the spare ones
    await bench.enqueue(*["hang"] * (hanging - 1), *["say"] * 20)
    bench.run(lane)
    records = await bench.all_settled(hanging - 1 + 20)
    assert sorted(one["outcome"] for one in records) == ["delivered"] * 20 + ["failed"] * 9
    await bench.enqueue("hang", start=100)
    await becomes(lambda: lane.is_stuck, "the last thread to hang")
    await bench.enqueue("hang", *["say"] * 5, start=101)
    records = await bench.all_settled(hanging + 20 + 6, 40)
    ends = {one["key"]: (one["outcome"], one["reason"]) for one in records if "reason" in one}
    assert ends["101:ops"][0] == "failed"
    keys = [one["key"] for one in records if one["outcome"] == "delivered"]
    assert {f"{n}:ops" for n in range(102, 107)} <= set(keys)
    await becomes(lambda: "lane.stuck channel=ops" in caplog.text, "the lane to say so")
    plugin("plain_plugin").gate.set()
    await becomes(lambda: "lane.unstuck channel=ops" in caplog.text, "the threads to return")
    assert not lane.is_stuck


# --- stopping ------------------------------------------------------------------------------------


async def test_stopping_lets_what_runs_finish(bench: Bench) -> None:
    """And gives back at once what had not begun, with its attempt number."""
    await bench.enqueue(*["say()"] * 200, *["hold()"] * 30)
    lane = bench.lane(concurrency=5)
    running = bench.run(lane)
    await becomes(lambda: plugin().running == 5, "all slots to wait")
    bench.stopping.set()

    async def is_given_back() -> bool:
        return (await bench.status()).in_flight == 5

    await eventually_async(is_given_back, "the rest to be given back")
    assert not running.done()
    plugin().gate.set()
    await asyncio.wait_for(running, 10)
    await lane.release()
    status = await bench.status()
    assert (status.waiting, status.in_flight) == (25, 0)
    assert len(await bench.settled()) == 205
    (claim, *_) = await bench.other.fetch("ops", "next", 1, 0)
    assert claim.attempt == 1


async def test_giving_up_gives_everything_back(bench: Bench) -> None:
    """What still ran is cancelled and not counted as an attempt."""
    await bench.enqueue(*["hold()"] * 3)
    lane = bench.lane()
    running = bench.run(lane)
    await becomes(lambda: plugin().running == 3, "all to run")
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await lane.release()
    await becomes(lambda: plugin().running == 0, "the hooks to be cancelled")
    status = await bench.status()
    assert (status.waiting, status.in_flight) == (3, 0)
    assert await bench.settled() == []


async def test_an_idle_lane_stops_at_once(bench: Bench) -> None:
    """Within the time of one call."""
    await bench.enqueue("say()")
    bench.run(bench.lane())
    await bench.all_settled(1)
    started = time.monotonic()
    await bench.stop()
    assert time.monotonic() - started < 2


# --- leases --------------------------------------------------------------------------------------


async def test_leases_are_renewed(bench: Bench) -> None:
    """A delivery may take much longer than its lease, and nobody else gets it (R25)."""
    await bench.enqueue("hold()", "hold()")
    bench.run(bench.lane())
    bench.run(bench.lane(consumer="other", concurrency=50))
    await becomes(lambda: plugin().running == 2, "both to run")
    await asyncio.sleep(LEASE * 1.6)  # what is shown is that nothing happens in this time
    plugin().gate.set()
    records = await bench.all_settled(2)
    assert len(records) == len(plugin().begun) == 2


async def test_what_nobody_renews_is_taken_over(bench: Bench) -> None:
    """After its lease, and run alone."""
    await bench.enqueue("say()", "say()")
    dead = await bench.other.fetch("ops", "dead", 10, 0)
    assert len(dead) == 2
    bench.run(bench.lane())
    started = time.monotonic()
    records = await bench.all_settled(2)
    assert time.monotonic() - started < LEASE + 8
    assert [record["attempt"] for record in records] == [1, 1]
    assert plugin().begun == []  # in this process


async def test_what_may_be_somebody_elses_is_not_begun(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that stood still for longer than a lease asks first."""
    quick = ["say()"] * 500
    await bench.enqueue(*quick, *["hold()", *["say()"] * 4] * 50)
    lane = bench.lane(concurrency=2)
    bench.run(lane)
    await becomes(lambda: plugin().running == 2, "both slots to wait")
    assert lane.in_flight > 2, "nothing was claimed ahead"
    before = set(plugin().begun)
    taken: list[Claim] = []

    def reclaim() -> None:
        async def run() -> None:
            queue = bench.connect()
            taken.extend(await queue.reclaim("ops", "other", LEASE, 1000))
            await queue.close()

        enough = time.monotonic() + LEASE * 1.5
        while time.monotonic() < enough or not taken:
            asyncio.run(run())

    thief = threading.Thread(target=reclaim)
    thief.start()
    plugin().gate.set()
    thief.join(20)  # the event loop stands still
    stolen = {claim.key for claim in taken}
    assert len(stolen) > 2
    await becomes(lambda: lane.in_flight == 0, "what was lost to be known")
    await bench.stop()
    assert stolen & set(plugin().begun) <= before
    assert "delivery.lost_lease" in caplog.text


async def test_what_stood_still_when_it_was_about_to_begin(bench: Bench) -> None:
    """Between the look at its lease and its hook a process may stand still: what somebody else
    took over meanwhile is not begun."""
    lane = bench.lane()
    start = lane._attempter.start
    taken: list[Claim] = []

    def reclaim() -> None:
        async def run() -> None:
            queue = bench.connect()
            taken.extend(await queue.reclaim("ops", "other", LEASE, 1000))
            await queue.close()

        enough = time.monotonic() + 20
        while not taken and time.monotonic() < enough:
            asyncio.run(run())

    def slow_start(*arguments: Any) -> Any:
        run = start(*arguments)
        if not taken:
            thief = threading.Thread(target=reclaim)
            thief.start()
            thief.join(20)  # the event loop stands still
        return run

    lane._attempter.start = slow_start
    await bench.enqueue("say()")
    bench.run(lane)
    await becomes(lambda: bool(taken) and lane.in_flight == 0, "what was lost to be known")
    await bench.stop()
    assert plugin().begun == []


async def test_a_stale_outcome(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Of a delivery that somebody else took over: delivered is delivered, the rest is ignored."""
    await bench.enqueue("hold(Delivered())", "hold(Retry('busy'))", "hold(Rejected('no'))")
    bench.run(bench.lane())
    await becomes(lambda: plugin().running == 3, "all to run")
    taken = await bench.other.reclaim("ops", "other", 0.0, 10)
    assert len(taken) == 3
    plugin().gate.set()
    await becomes(lambda: caplog.text.count("delivery.stale") == 2, "the settlements")
    assert (await bench.status()).in_flight == 2
    assert await bench.other.dead_letters("ops") == []


# --- the queue's absence -------------------------------------------------------------------------


async def test_what_was_attempted_is_kept_while_the_queue_is_away(
    on_own: Bench, own_valkey: LocalValkey
) -> None:
    """And settled when it is back; nothing is attempted twice."""
    await on_own.enqueue(*["hold()"] * 10)
    lane = on_own.lane()
    on_own.run(lane)
    await becomes(lambda: plugin().running == 10, "all to run")
    own_valkey.kill()
    plugin().gate.set()
    await becomes(lambda: len(plugin().done) == 10, "the hooks to end")
    assert lane.in_flight == 10
    await asyncio.to_thread(own_valkey.start)
    records = await on_own.all_settled(10)
    assert len(records) == len(plugin().begun) == 10


async def test_after_an_absence_those_who_live_keep_what_they_hold(
    on_own: Bench, own_valkey: LocalValkey
) -> None:
    """The server counts the time in which it was away; nobody takes over before all who live had
    a lease to say so."""
    await on_own.enqueue(*["hold()"] * 4)
    on_own.run(on_own.lane(concurrency=4))
    await becomes(lambda: plugin().running == 4, "all to run")
    on_own.run(on_own.lane(consumer="idle"))
    await asyncio.sleep(0.2)
    own_valkey.kill()
    await asyncio.sleep(LEASE * 1.5)
    await asyncio.to_thread(own_valkey.start)
    await asyncio.sleep(LEASE * 2)  # what is shown is that nothing happens in this time
    assert (await on_own.status()).in_flight == 4
    plugin().gate.set()
    records = await on_own.all_settled(4)
    assert len(records) == len(plugin().begun) == 4


# --- suspects ------------------------------------------------------------------------------------


async def test_one_poison_among_many(bench: Bench, plugins: Path) -> None:
    """It ran three times at most, of which the first brought down its worker; the 200 that were
    in flight with it are delivered, once each (R15)."""
    note = f"note({str(plugins / 'deaths')!r})"
    await bench.enqueue(*["say()"] * 100, note, *["say()"] * 100)
    assert len(await bench.other.fetch("ops", "dead", 300, 0)) == 201
    (plugins / "deaths").write_text("x")  # the worker that held them
    bench.run(bench.lane(concurrency=50))
    records = await bench.all_settled(201, 60)
    outcomes = sorted((one["outcome"], one["attempt"]) for one in records)
    assert outcomes == [("delivered", 1)] * 200 + [("poison", 1)]
    assert (plugins / "deaths").read_text() == "xxx"
    (letter,) = await bench.other.dead_letters("ops")
    assert (letter.key, letter.kind) == ("100:ops", "poison")
    assert letter.reason == "the process that ran 100:ops alone died (exit code 3)"


async def test_a_death_is_noted_when_the_queue_is_back(
    on_own: Bench, own_valkey: LocalValkey, plugins: Path
) -> None:
    """A poison that strikes while the queue is away has no more lives than another (R15)."""
    deaths, go = plugins / "deaths", plugins / "go"
    await on_own.enqueue(f"note({str(deaths)!r}, {str(go)!r})")
    assert len(await on_own.other.fetch("ops", "dead", 9, 0)) == 1
    on_own.run(on_own.lane())
    await becomes(deaths.exists, "it to run alone", 20)
    own_valkey.kill()
    go.touch()
    await asyncio.sleep(0.5)  # it dies, and the server is asked in vain
    await asyncio.to_thread(own_valkey.start)
    (record,) = await on_own.all_settled(1)
    assert record["outcome"] == "poison"
    assert deaths.read_text() == "xx"


async def test_what_has_to_be_killed_is_no_poison(bench: Bench) -> None:
    """It failed, comes again, and runs alone again."""
    await bench.enqueue("spin()")
    assert len(await bench.other.fetch("ops", "dead", 100, 0)) == 1
    bench.run(bench.lane(timeout_seconds=0.2, retry_delays_seconds="0.1", max_attempts=3))
    records = await bench.all_settled(3)
    assert [record["attempt"] for record in records] == [1, 2, 3]
    assert {record["outcome"] for record in records} == {"failed"}
    late = "no answer within 0.2 s (timeout_seconds), and its process had to be killed"
    assert {record["reason"] for record in records} == {late}
    (letter,) = await bench.other.dead_letters("ops")
    assert (letter.kind, letter.reason) == ("failed", f"{late} (attempt 3 of 3)")
    assert plugin().begun == []  # never in this process


async def test_suspects_keep_to_the_slots(bench: Bench) -> None:
    """They are deliveries of the channel like others."""
    await bench.enqueue(*["asyncio.sleep(0.3)"] * 6)
    assert len(await bench.other.fetch("ops", "dead", 100, 0)) == 6
    bench.run(bench.lane(concurrency=2))
    records = await bench.all_settled(6)
    times = [(one["at"], one["at"] + one["duration_seconds"]) for one in records]
    for start, _ in times:
        assert sum(begin <= start < end for begin, end in times) <= 2
