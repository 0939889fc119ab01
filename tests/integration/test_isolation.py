"""One destination that is down: its lane waits, nobody else notices, and its return is no storm.

Nothing here is measured in seconds; tests/benchmarks/test_isolation.py does that.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from kinto_dispatch.breaker import CLOSED, FAILURES, Breaker
from kinto_dispatch.lane import Lane
from kinto_dispatch.plugins import configure
from kinto_dispatch.quarantine import Quarantine
from kinto_dispatch.queue import open_queue
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.values import Entry, Later, Settlement
from kinto_dispatch.settings import DispatchSettings
from kinto_dispatch.testing.builders import make_event
from kinto_dispatch.testing.waiting import eventually_async
from kinto_dispatch.testing.worker import LocalWorker


PLUGIN = """
import asyncio
from kinto_dispatch import hookimpl

state = "up"
begun = []


@hookimpl
async def on_event_async(event, channel, delivery):
    if channel.name != "dead":
        await asyncio.sleep(0.002)
        return
    begun.append((asyncio.get_running_loop().time(), delivery.key, delivery.attempt))
    if delivery.key.startswith("odd"):
        raise KeyError("title")
    if state == "refuses":
        raise ConnectionRefusedError("nobody listens there")
    if state == "hangs":
        await asyncio.sleep(600)
"""

LEASE = 10.0
BASE = "kinto.event_listeners.dispatch."
OTHERS = [f"c{number}" for number in range(9)]
SLOTS = 10


class Site:
    """Ten lanes of one worker process, or of several, on a real queue."""

    def __init__(self, directory: Path, url: str) -> None:
        self._settings = DispatchSettings(
            channels=(), queue_url=SecretStr(url), queue_dir=directory
        )
        self.stopping = asyncio.Event()
        self._queues: list[Queue] = []
        self.queue = self._connect()
        self._tasks: list[asyncio.Task[None]] = []

    def _connect(self) -> Queue:
        self._queues.append(open_queue(self._settings, ("dead", *OTHERS)))
        return self._queues[-1]

    def start(self, names: list[str], worker: str = "me", **dead: object) -> None:
        """Run the lanes of these channels; ``dead`` are settings of that channel."""
        settings = {"kinto.event_listeners": "dispatch", f"{BASE}use": "kinto_dispatch"}
        settings[f"{BASE}channels"] = " ".join(names)
        for name in names:
            settings[f"{BASE}channels.{name}.plugin"] = "isolated_plugin"
        for option, value in {"concurrency": SLOTS, **dead}.items():
            settings[f"{BASE}channels.dead.{option}"] = str(value)
        configuration = configure(settings, {})
        queue = self._connect()
        for channel in configuration.channels:
            quarantine = Quarantine(configuration.source)
            lane = Lane(channel, queue, worker, quarantine, LEASE, self.stopping)
            self._tasks.append(asyncio.ensure_future(lane.run()))

    async def enqueue(self, lane: str, keys: list[str]) -> None:
        body = make_event().encode()
        await self.queue.enqueue(lane, [Entry(key, body) for key in keys])

    async def records(self, lane: str) -> list[dict[str, Any]]:
        found = await self.queue.attempts(lane, count=100_000)
        return [json.loads(record) for _, record in found]

    async def has_delivered(self, lane: str, count: int, seconds: float = 40) -> None:
        async def enough() -> bool:
            records = await self.records(lane)
            return sum(one.get("outcome") == "delivered" for one in records) >= count

        await eventually_async(enough, f"{count} deliveries of {lane}", seconds)

    async def breaker_is(self, state: str, seconds: float = 40) -> None:
        async def is_so() -> bool:
            (status,) = await self.queue.status(["dead"])
            return status.breaker == state

        await eventually_async(is_so, f"the breaker to be {state}", seconds)

    async def make_due(self, keys: list[str]) -> None:
        """These failed once, and are all due now."""
        await self.enqueue("dead", keys)
        claims = await self.queue.fetch("dead", "before", len(keys), 0)
        await self.queue.settle("dead", [Settlement(one, Later(0, 2), b"{}") for one in claims])

    async def open_breaker(self) -> None:
        """It has been open until now, and may be probed."""
        _, now_ms = await self.queue.breaker("dead")
        opened = replace(CLOSED, state="open", failures=FAILURES, until_ms=now_ms)
        assert await self.queue.move_breaker("dead", "", opened.encode())

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for queue in self._queues:
            await queue.close()


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A plugin whose channel ``dead`` does what its module's ``state`` says."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "isolated_plugin.py").write_text(PLUGIN)
    yield tmp_path
    sys.modules.pop("isolated_plugin", None)


@pytest.fixture
async def site(plugin: Path, queue_url: str) -> AsyncIterator[Site]:
    """On an empty queue."""
    site = Site(plugin, queue_url)
    yield site
    await site.close()


def destination() -> Any:
    return sys.modules["isolated_plugin"]


def keys(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


@pytest.mark.parametrize(("state", "timeout_seconds"), [("refuses", 30), ("hangs", 0.5)])
async def test_a_dead_destination_is_nobody_elses_business(
    site: Site, state: str, timeout_seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    """The nine others deliver everything; the dead one's lane rests after few attempts, and what
    waits there keeps its own; when it answers again, all of it is delivered (R19)."""
    site.start(["dead", *OTHERS], timeout_seconds=timeout_seconds, retry_delays_seconds=1)
    destination().state = state
    await site.enqueue("dead", keys("d", 1000))
    for name in OTHERS:
        await site.enqueue(name, keys(name, 100))
    for name in OTHERS:
        await site.has_delivered(name, 100)
    await site.breaker_is("open")
    spent = len(destination().begun)
    # All slots once, what came in until the first failures were known, and one to decide.
    assert FAILURES <= spent <= 300
    (status,) = await site.queue.status(["dead"])
    assert status.waiting + status.retry == 1000
    assert status.waiting >= 1000 - spent - 1
    assert "breaker.opened channel=dead rests_seconds=" in caplog.text
    reason = {"refuses": "nobody listens there", "hangs": "no answer within 0.5 s"}[state]
    assert reason in caplog.text.partition("breaker.opened")[2].splitlines()[0]
    destination().state = "up"
    await site.has_delivered("dead", 1000)
    assert "breaker.closed channel=dead" in caplog.text
    await site.breaker_is("closed")
    records = await site.records("dead")
    assert max(one["attempt"] for one in records) <= 3


async def test_deliveries_that_always_fail_close_nobodys_way(site: Site) -> None:
    """A plugin that has a bug with some records fails however often it is asked, but the
    destination is well: the breaker counts each delivery once, and the others are delivered at
    their first attempt."""
    _, now_ms = await site.queue.breaker("dead")
    long_ago = replace(CLOSED, failures=1, since_ms=now_ms - 60_000)
    assert await site.queue.move_breaker("dead", "", long_ago.encode())
    await site.enqueue("dead", keys("odd", 3))
    site.start(["dead"], retry_delays_seconds=0.01, max_attempts=1000)

    async def is_tried() -> bool:
        return len(destination().begun) >= 5 * FAILURES

    await eventually_async(is_tried, "many attempts in vain", 60)
    await site.breaker_is("closed")
    await site.enqueue("dead", keys("even", 20))
    await site.has_delivered("dead", 20)
    attempts = [attempt for _, key, attempt in destination().begun if key.startswith("even")]
    assert attempts == [1] * 20


async def test_a_probe_is_rather_new_than_a_retry(site: Site) -> None:
    """What failed before and stands in front may fail again for its own reason, and then what is
    new would wait for a longer rest, though the destination is back."""
    await site.make_due(keys("odd", 5))
    assert (await site.queue.promote("dead", 100))[0] == 5
    await site.enqueue("dead", keys("even", 5))
    await site.open_breaker()
    site.start(["dead"])
    await site.has_delivered("dead", 5)
    assert destination().begun[0][1] == "even0"
    await site.breaker_is("closed")


async def test_an_open_breaker_spends_no_attempts(site: Site) -> None:
    """Neither of what waits nor of what is due: while nothing answers only probes are attempted,
    by one of all workers, each after a longer rest (R19)."""
    site.start(["dead"], "one", retry_delays_seconds=0.01)
    site.start(["dead"], "two", retry_delays_seconds=0.01)
    destination().state = "refuses"
    await site.make_due(keys("due", 100))
    await site.enqueue("dead", keys("new", 100))
    await site.breaker_is("open")
    text, _ = await site.queue.breaker("dead")
    before = len(destination().begun)

    async def is_probed() -> bool:
        breaker = Breaker.decode((await site.queue.breaker("dead"))[0])
        return (breaker.state, breaker.probes) == ("open", 1)

    await eventually_async(is_probed, "the first probe to fail", 30)
    # The other worker may just have begun the one with which it was to decide.
    assert before + 1 <= len(destination().begun) <= before + 2
    first = Breaker.decode(text)
    second = Breaker.decode((await site.queue.breaker("dead"))[0])
    assert second.until_ms - first.until_ms > 7_000
    (status,) = await site.queue.status(["dead"])
    assert status.in_flight == 0


async def test_its_return_is_no_storm(site: Site) -> None:
    """However much is due at once, the limit of all workers together holds, new deliveries don't
    wait behind all of it, and it is drained (R18)."""
    limit = 300
    await site.make_due(keys("due", 2000))
    await site.open_breaker()
    for worker in ("one", "two"):
        site.start(["dead"], worker, rate_limit=f"{limit}/second", concurrency=50)
    begun = destination().begun

    async def is_going() -> bool:
        return len(begun) >= 500

    await eventually_async(is_going, "it to come back", 40)
    await site.enqueue("dead", keys("new", 50))
    at = len(begun)
    await site.has_delivered("dead", 2050, 60)
    assert len(begun) == 2050
    assert {attempt for _, key, attempt in begun if key.startswith("due")} == {2}
    last_new = max(place for place, one in enumerate(begun) if one[1].startswith("new"))
    between = sum(key.startswith("due") for _, key, _ in begun[at:last_new])
    assert between < 700, "new deliveries waited behind what was due"
    times = [at for at, _, _ in begun]
    for start in times:
        # What was claimed in time may begin late, where the machine was busy: all slots' worth,
        # and as many claimed ahead.
        assert sum(start <= at < start + 1 for at in times) <= 2 * limit + 200


async def test_a_burst_does_not_wait_for_a_dead_destination(
    site: Site, plugin: Path, queue_url: str
) -> None:
    """It ends when its breaker is open; what waits there is for the next one (R19)."""
    lines = {
        "kinto.event_listeners": "dispatch",
        f"{BASE}use": "kinto_dispatch",
        f"{BASE}queue_url": queue_url,
        f"{BASE}channels": "dead",
        f"{BASE}channels.dead.plugin": "isolated_plugin",
        f"{BASE}channels.dead.concurrency": str(SLOTS),
    }
    text = "\n".join(f"{name} = {value}" for name, value in lines.items())
    ini = plugin / "kinto.ini"
    ini.write_text(f"[app:main]\nuse = egg:kinto\n{text}\n")
    module = plugin / "isolated_plugin.py"
    module.write_text(module.read_text().replace('state = "up"', 'state = "refuses"'))
    await site.enqueue("dead", keys("d", 1000))
    with LocalWorker(ini, "--burst") as worker:
        assert await asyncio.to_thread(worker.wait, 60) == 0
        assert "breaker.opened channel=dead" in worker.said
    (status,) = await site.queue.status(["dead"])
    assert (status.breaker, status.in_flight) == ("open", 0)
    assert status.waiting > 0
    assert status.waiting + status.retry == 1000
