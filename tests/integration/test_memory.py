"""A queue that is short of memory, or full: it drains by itself, loses nothing, and says why."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from pydantic import SecretStr

from kinto_dispatch import housekeeping
from kinto_dispatch.errors import QueueFull, QueueUnavailable
from kinto_dispatch.housekeeping import Housekeeper
from kinto_dispatch.listener.heartbeat import Heartbeat
from kinto_dispatch.patience import Patience
from kinto_dispatch.plugins import Channel
from kinto_dispatch.queue import open_queue
from kinto_dispatch.queue.log import StreamsLog
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.values import Done, Settlement
from kinto_dispatch.router import Router
from kinto_dispatch.settings import DispatchSettings
from kinto_dispatch.testing.builders import make_change, make_channel, make_event
from kinto_dispatch.testing.valkey import LocalValkey
from kinto_dispatch.testing.waiting import eventually, eventually_async


if TYPE_CHECKING:
    from tests.conftest import Deploy, Deployment

LOG = "kinto-dispatch:{log}:stream"
MB = 1_000_000

PLUGIN = """
from kinto_dispatch import hookimpl

@hookimpl
async def on_event_async(event):
    pass
"""


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[LocalValkey]:
    """A server of the test's own, whose memory it may bound."""
    (tmp_path / "valkey").mkdir()
    with LocalValkey(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
def server(valkey: LocalValkey) -> Iterator[redis.Redis]:
    """The server itself."""
    with redis.Redis.from_url(valkey.url) as client:
        yield client


@pytest.fixture
def settings(valkey: LocalValkey, tmp_path: Path) -> DispatchSettings:
    """What a worker on this server is told."""
    return DispatchSettings(channels=(), queue_url=SecretStr(valkey.url), queue_dir=tmp_path)


@pytest.fixture
async def queue(settings: DispatchSettings) -> AsyncIterator[Queue]:
    """The queue on the test's own server, with two lanes."""
    queue = open_queue(settings, ("ops", "news"))
    await queue.register(["ops", "news"])
    yield queue
    await queue.close()


@pytest.fixture
def channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Channel]:
    """Two that want everything."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "memory_plugin.py").write_text(PLUGIN)
    return [make_channel("memory_plugin", name=name) for name in ("ops", "news")]


def keeper(queue: Queue, settings: DispatchSettings, *lanes: str) -> Housekeeper:
    return Housekeeper(queue, lanes or ("ops", "news"), settings, Patience(asyncio.Event()))


def bound(server: redis.Redis, spare: int) -> int:
    """Leave the server so many bytes above what it uses now."""
    info: Any = server.info("memory")
    limit = int(info["used_memory"]) + spare
    server.config_set("maxmemory", limit)
    return limit


def occupy(server: redis.Redis) -> None:
    """Thirty megabytes of somebody else, not in one piece, which would leave large buffers."""
    for number in range(300):
        server.set(f"theirs:{number}", b"x" * 100_000)


async def fill(queue: Queue, start: int = 0, size: int = 10_000) -> int:
    """Append events until the server refuses one; up to which number it has them."""
    for number in range(start, start + 10_000):
        change = make_change(object_id=str(number), new={"text": "x" * size})
        event = make_event(id=f"event-{number}", changes=(change,))
        try:
            await queue.append([(event.id, event.encode())])
        except QueueFull:
            return number
    raise AssertionError("The server has no bound.")


async def pass_all(queue: Queue, lanes: tuple[str, ...] = ("ops", "news")) -> None:
    """Move these lanes to the end of the log, with nothing for them."""
    while entries := await queue.read_log(min((await queue.cursors(lanes)).values()), 500):
        for lane, cursor in (await queue.cursors(lanes)).items():
            await queue.route(lane, cursor, entries[-1].id, [], [])


async def deliver(queue: Queue, lane: str) -> list[str]:
    """Claim and settle what is in a lane; the keys."""
    claims = await queue.fetch(lane, "test", 1_000, 0)
    await queue.settle(lane, [Settlement(claim, Done(), b"{}") for claim in claims])
    return [claim.key for claim in claims]


# --- full ----------------------------------------------------------------------------------------


def test_a_full_queue_drains_by_itself(
    deploy: Deploy, valkey: LocalValkey, server: redis.Redis
) -> None:
    """No worker ran until nothing more could be appended, and its log is all that memory holds:
    a worker that starts now delivers all of it, once, to every channel (R14). New events are taken
    again, and the worker has said why none were."""
    deployment = deploy({"ops": {}, "news": {}, "late": {}}, queue_url=valkey.url)
    deployment.publish({"id": "first"})
    # Its lane begins where the log ends now, which has to be noted though memory is full.
    limit = bound(server, 8 * MB)
    ids = publish_until_full(deployment)
    assert len(ids) > 20
    with deployment.worker() as worker:
        for channel in ("ops", "news", "late"):
            counts = deployment.await_delivered(ids, channel, 60)
            assert set(counts.values()) == {1}
        eventually(lambda: publishes(deployment, "last"), "new events to be taken", 30)
        deployment.await_delivered({"last"}, "news", 30)
        assert worker.stop() == 0
    assert f"of {limit:,} bytes of maxmemory: nothing new is taken until" in worker.said
    assert "Raise maxmemory." in worker.said
    assert "queue.fit_again" in worker.said
    assert deployment.dead_letters("ops") == []


def publish_until_full(deployment: Deployment) -> set[str]:
    ids = {"first"}
    with contextlib.suppress(QueueFull):
        for number in range(1_000):
            deployment.publish({"id": f"r{number}", "text": "x" * 200_000})
            ids.add(f"r{number}")
    return ids


def publishes(deployment: Deployment, record_id: str) -> bool:
    try:
        deployment.publish({"id": record_id})
    except QueueFull:
        return False
    return True


async def test_a_lane_that_has_work_gets_no_more_while_memory_is_full(
    queue: Queue, server: redis.Redis, channels: list[Channel]
) -> None:
    """Only an idle one does, some events at a time, so that memory is exceeded by little, and the
    other is given its own as soon as it has drained (R14)."""
    router = Router(queue, channels, Patience(asyncio.Event()))
    await queue.cursors(["ops", "news"])
    limit = bound(server, 8 * MB)
    count = await fill(queue)
    with contextlib.suppress(QueueFull):
        for _ in range(50):
            await router.route_once(0)
    info: Any = server.info("memory")
    assert info["used_memory"] < limit + 2 * 1_500_000
    ops, news = await queue.status(["ops", "news"])
    assert 0 < ops.waiting < count
    assert 0 < news.waiting < count
    got: dict[str, list[str]] = {"ops": [], "news": []}
    while len(got["ops"]) < count:
        got["ops"] += await deliver(queue, "ops")
        with contextlib.suppress(QueueFull):
            await router.route_once(0)
    assert len(got["ops"]) == len(set(got["ops"])) == count
    assert await queue.status(["news"]) != []
    while len(got["news"]) < count:
        got["news"] += await deliver(queue, "news")
        with contextlib.suppress(QueueFull):
            await router.route_once(0)
    assert len(got["news"]) == len(set(got["news"])) == count


async def test_what_no_lane_wants_leaves_a_log_that_fills_the_memory(
    queue: Queue, server: redis.Redis, settings: DispatchSettings
) -> None:
    """Cursors move where they take nothing along, and where the log's own share is not what fills
    the memory, all that was routed is forgotten: new events are taken (R14)."""
    occupy(server)
    bound(server, 8 * MB)
    await fill(queue)
    await pass_all(queue)
    await keeper(queue, settings).tidy()
    assert server.xlen(LOG) <= 1
    assert await queue.append([("new", b"{}")])


async def test_room_is_made_as_soon_as_something_is_refused(
    queue: Queue,
    server: redis.Redis,
    settings: DispatchSettings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not a minute later; and it is said (R14)."""
    monkeypatch.setattr(housekeeping, "LOOK_SECONDS", 3_600.0)
    monkeypatch.setattr(housekeeping, "SHORT_SECONDS", 0.05)
    stopping = asyncio.Event()
    running = asyncio.create_task(keeper(queue, settings).run(stopping))
    await eventually_async(lambda: _has_begun(server), "the first look")
    occupy(server)
    bound(server, 8 * MB)
    await fill(queue)
    await pass_all(queue)
    queue.full.set()

    async def takes() -> bool:
        with contextlib.suppress(QueueFull):
            return await queue.append([("new", b"{}")])
        return False

    await eventually_async(takes, "new events to be taken")
    assert "queue.unfit The server is full" in caplog.text
    # What frees the memory comes first, so an append may pass before it is told.
    await eventually_async(partial(_is_said, caplog, "housekeeping.made_room"), "it to be said")
    stopping.set()
    await asyncio.wait_for(running, 10)


async def _is_said(caplog: pytest.LogCaptureFixture, words: str) -> bool:
    return words in caplog.text


async def _has_begun(server: redis.Redis) -> bool:
    """The cursors are made by the first look."""
    return bool(server.exists("kinto-dispatch:{lane:news}:cursor"))


# --- bounds --------------------------------------------------------------------------------------


async def test_the_log_takes_a_fourth_of_the_memory_at_most(
    queue: Queue, server: redis.Redis, settings: DispatchSettings
) -> None:
    """However much ``log_max_bytes`` grants: it would keep the queue full for ever (R14)."""
    limit = bound(server, 40 * MB)
    for number in range(20):
        await queue.append([(f"{number}-{one}", b"x" * 10_000) for one in range(100)])
    await pass_all(queue)
    used: Any = server.memory_usage(LOG, samples=0)
    assert used > limit / 3
    await keeper(queue, settings).tidy()
    used = server.memory_usage(LOG, samples=0)
    assert limit / 20 < used <= limit / 4 * 1.1
    server.config_set("maxmemory", 0)
    await keeper(queue, settings).tidy()
    assert server.memory_usage(LOG, samples=0) == used


async def test_attempt_records_never_fill_the_memory(
    queue: Queue, server: redis.Redis, settings: DispatchSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All channels' together take an eighth at most, of a server without bound so many bytes each;
    the oldest go, and deliveries go on (R28)."""
    key = "kinto-dispatch:{lane:ops}:attempts"
    for number in range(3_000):
        server.xadd(key, {"record": f"{number:>2000}"})
    limit = bound(server, 16 * MB)
    await keeper(queue, settings).tidy()
    used: Any = server.memory_usage(key, samples=0)
    assert limit / 64 < used <= limit / 16 * 1.1
    records = [int(record) for _, record in await queue.attempts("ops", count=5_000)]
    assert records == list(range(records[0], 3_000))
    server.config_set("maxmemory", 0)
    monkeypatch.setattr(housekeeping, "ATTEMPTS_MAX_BYTES", MB // 2)
    await keeper(queue, settings).tidy()
    used = server.memory_usage(key, samples=0)
    assert used <= MB // 2 * 1.1


# --- lanes of others -----------------------------------------------------------------------------


async def test_nothing_is_forgotten_that_another_worker_s_lane_has_to_read(
    queue: Queue, server: redis.Redis, settings: DispatchSettings
) -> None:
    """While the ini changes, a worker of before does not know the new lane; a lane that nobody
    living routes holds the log for nobody."""
    await queue.register(["new"])
    await queue.cursors(["new"])
    await queue.append([(f"event-{number}", b"x" * 1_000) for number in range(10)])
    await pass_all(queue)
    tight = DispatchSettings(
        channels=(), queue_url=settings.queue_url, queue_dir=settings.queue_dir, log_max_bytes=1
    )
    await queue.beat("theirs", {"routes": ["ops", "new", 7]}, 60)
    await keeper(queue, tight).tidy()
    assert server.xlen(LOG) == 10
    await queue.beat("theirs", {"routes": ["soon"]}, 60)
    await keeper(queue, tight).tidy()
    assert server.xlen(LOG) == 10
    await queue.retire("theirs", [], [])
    await queue.beat("older", {"channels": ["ops"]}, 60)
    await keeper(queue, tight).tidy()
    assert server.xlen(LOG) <= 1


async def test_what_kinto_announced_is_kept_for_a_worker_that_is_about_to_start(
    queue: Queue, server: redis.Redis, settings: DispatchSettings
) -> None:
    """A lane that nobody has routed yet gets what was written since it began; but not for ever, or
    one that no worker ever runs would keep the log."""
    await queue.append([("before", b"x")])
    await queue.register(["new"])
    await queue.append([(f"event-{number}", b"x" * 1_000) for number in range(10)])
    await pass_all(queue)
    place = {"queue_url": settings.queue_url, "queue_dir": settings.queue_dir}
    await keeper(queue, DispatchSettings(channels=(), log_max_bytes=1, **place)).tidy()
    assert server.xlen(LOG) >= 10
    late = DispatchSettings(channels=(), log_max_bytes=1, log_retention_seconds=0.0, **place)
    await keeper(queue, late).tidy()
    assert server.xlen(LOG) <= 1


def test_a_worker_says_which_lanes_it_routes(deploy: Deploy) -> None:
    """All of them, also those that it does not run."""
    deployment = deploy({"ops": {}, "news": {}})
    with deployment.worker("--channels", "news"):
        (worker,) = deployment.with_queue(lambda queue: queue.workers())
    assert (worker["channels"], worker["routes"]) == (["news"], ["ops", "news"])


# --- eviction ------------------------------------------------------------------------------------


async def test_a_server_that_evicts_is_warned_of_and_survived(
    queue: Queue,
    server: redis.Redis,
    settings: DispatchSettings,
    channels: list[Channel],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What it dropped of lanes is unknown, as the warning says. But whatever is gone, what is
    appended after the policy was corrected arrives, once (R14)."""
    router = Router(queue, channels, Patience(asyncio.Event()))
    server.config_set("maxmemory-policy", "allkeys-random")
    bound(server, 2 * MB)
    for number in range(400):
        event = make_event(id=f"event-{number}", changes=(make_change(new={"t": "x" * 20_000}),))
        # One that evicts may refuse all the same, where it finds nothing to evict.
        with contextlib.suppress(QueueUnavailable):
            await queue.append([(event.id, event.encode())])
            await router.route_once(0)
            for lane in ("ops", "news"):
                await deliver(queue, lane)
    await keeper(queue, settings).tidy()
    assert "maxmemory-policy is allkeys-random" in caplog.text
    assert "nobody can tell which deliveries were among it" in caplog.text
    info: Any = server.info("stats")
    assert info["evicted_keys"] > 0
    server.config_set("maxmemory-policy", "noeviction")
    server.config_set("maxmemory", 0)
    await queue.append([("last", make_event(id="last").encode())])
    for lane in ("ops", "news"):
        assert (await _arrives(router, queue, lane)).count(f"last:{lane}") == 1


async def _arrives(router: Router, queue: Queue, lane: str) -> list[str]:
    keys: list[str] = []

    async def is_there() -> bool:
        await router.route_once(0)
        keys.extend(await deliver(queue, lane))
        return f"last:{lane}" in keys

    await eventually_async(is_there, "the last event to arrive")
    return keys + list(await deliver(queue, lane))


async def test_a_server_that_evicts_what_expires_drops_nothing_that_is_queued(
    queue: Queue, server: redis.Redis
) -> None:
    """As many hosted servers are set: full, it refuses, as one that never evicts (R14)."""
    server.config_set("maxmemory-policy", "volatile-random")
    bound(server, 2 * MB)
    health = await queue.health()
    assert (health.may_evict, health.warnings) == (False, ())
    await queue.remember("ops", "thread", b"1", 600.0)
    taken = 0
    with contextlib.suppress(QueueFull):
        for number in range(400):
            body = make_event(changes=(make_change(new={"t": "x" * 20_000}),)).encode()
            await queue.append([(f"event-{number}", body)])
            taken += 1
    server.config_set("maxmemory", 0)
    assert 10 < taken < 400
    assert server.xlen(LOG) == taken


# --- what Kinto says -----------------------------------------------------------------------------


def test_kinto_s_heartbeat_is_red_while_the_queue_is_full(
    valkey: LocalValkey, server: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """With the reason in the log; and green again when there is room (R14)."""
    log = StreamsLog(lambda: valkey.url, "kinto-dispatch", ("ops",), 5.0)
    heartbeat = Heartbeat([], log, None, None)
    assert heartbeat(None)
    server.config_set("maxmemory", 1)
    assert not heartbeat(None)
    assert "the queue server is full (1 bytes of maxmemory)" in caplog.text
    assert "raise maxmemory" in caplog.text
    server.config_set("maxmemory", 0)
    assert heartbeat(None)
    log.close()


def test_kinto_s_heartbeat_is_red_while_the_queue_may_drop_deliveries(
    valkey: LocalValkey, server: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a server that evicts nobody hears of what is lost, so it has to be told before (R14)."""
    log = StreamsLog(lambda: valkey.url, "kinto-dispatch", ("ops",), 5.0)
    heartbeat = Heartbeat([], log, None, None)
    server.config_set("maxmemory", 100 * MB)
    assert heartbeat(None)
    server.config_set("maxmemory-policy", "allkeys-lfu")
    assert not heartbeat(None)
    assert "the queue server drops what is queued when its memory is full" in caplog.text
    assert "set maxmemory-policy noeviction" in caplog.text
    server.config_set("maxmemory-policy", "volatile-lru")
    assert heartbeat(None)
    log.close()
