"""Every event of the log enters each lane whose route wants it, once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from kinto_dispatch.cli.replay import Past
from kinto_dispatch.errors import QueueUnavailable
from kinto_dispatch.event import Event, Subscription
from kinto_dispatch.patience import Patience
from kinto_dispatch.plugins import Channel
from kinto_dispatch.queue import commands, open_queue
from kinto_dispatch.queue.entries import position
from kinto_dispatch.queue.keys import LaneKeys
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.streams import StreamsQueue
from kinto_dispatch.queue.values import Claim, DeadLetter, Entry
from kinto_dispatch.router import Router, select
from kinto_dispatch.router.judging import MOST_BYTES, MOST_DELIVERIES
from kinto_dispatch.settings import DispatchSettings
from kinto_dispatch.testing.builders import make_change, make_channel, make_event
from kinto_dispatch.testing.valkey import LocalValkey
from kinto_dispatch.testing.waiting import eventually_async


MakeChannel = Callable[..., Channel]

PLUGIN = """
from kinto_dispatch import hookimpl

@hookimpl
async def on_event_async(event):
    pass
"""


@pytest.fixture
def channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeChannel]:
    """Makes channels of a plugin that does nothing."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "routed_plugin.py").write_text(PLUGIN)
    yield lambda name="ops", **settings: make_channel("routed_plugin", name=name, **settings)
    sys.modules.pop("routed_plugin", None)


@pytest.fixture
async def queue(queue_url: str, tmp_path: Path) -> AsyncIterator[Queue]:
    """An empty queue that knows two lanes."""
    url = SecretStr(queue_url)
    queue = open_queue(DispatchSettings(channels=(), queue_url=url, queue_dir=tmp_path))
    await queue.register(["ops", "news"])
    yield queue
    await queue.close()


def make_router(queue: Queue, *channels: Channel) -> Router:
    return Router(queue, channels, Patience(asyncio.Event()))


async def append(queue: Queue, *events: Event) -> None:
    await queue.append([(event.id, event.encode()) for event in events])


async def claimed(queue: Queue, lane: str = "ops") -> Sequence[Claim]:
    """All that is in a lane."""
    claims: list[Claim] = []
    while more := await queue.fetch(lane, "test", 10_000, 0.01):
        claims += more
    return claims


async def dead(queue: Queue, lane: str = "ops") -> Sequence[DeadLetter]:
    return await queue.dead_letters(lane)


def records(*names: str) -> Event:
    return make_event(
        id="e", changes=tuple(make_change(object_id=name, new={"n": name}) for name in names)
    )


async def test_a_delivery_holds_what_the_route_wants(queue: Queue, channel: MakeChannel) -> None:
    """An event nobody wants enters no lane; of one wanted in part, that part does."""
    router = make_router(
        queue, channel("ops", when="new.n != 'b'"), channel("news", users="account:nobody")
    )
    await append(queue, records("a", "b", "c"))
    await router.route_once(0)
    (claim,) = await claimed(queue)
    assert claim.key == "e:ops"
    assert [change.object_id for change in Event.decode(claim.body).changes] == ["a", "c"]
    assert await claimed(queue, "news") == []


async def test_what_is_wanted_whole_is_passed_on_as_it_came(
    queue: Queue, channel: MakeChannel
) -> None:
    """Byte by byte: nothing is decoded and encoded again."""
    event = records("a", "b")
    odd = json.dumps(json.loads(event.encode()), indent=1).encode()
    await queue.append([("e", odd)])
    await make_router(queue, channel()).route_once(0)
    (claim,) = await claimed(queue)
    assert claim.body == odd


async def test_each_change_may_be_a_delivery(queue: Queue, channel: MakeChannel) -> None:
    """With its position in the event as it was captured, so that its key is always the same."""
    router = make_router(queue, channel(split_changes="true", when="new.n != 'b'"))
    await append(queue, records("a", "b", "c"))
    await router.route_once(0)
    claims = await claimed(queue)
    assert [claim.key for claim in claims] == ["e:ops:0", "e:ops:2"]
    names = [Event.decode(claim.body).changes[0].object_id for claim in claims]
    assert names == ["a", "c"]


async def test_ten_thousand_changes_are_split_in_no_time(
    queue: Queue, channel: MakeChannel
) -> None:
    """A bulk delete must not hold up the worker."""
    await append(queue, records(*map(str, range(10_000))))
    router = make_router(queue, channel(split_changes="true"))
    started = time.process_time()
    await router.route_once(0)
    assert time.process_time() - started < 10
    assert len(await claimed(queue)) == 10_000


async def test_every_lane_keeps_its_place(queue: Queue, channel: MakeChannel) -> None:
    """One that comes later begins where the log ends then, whatever the others have."""
    await append(queue, make_event(id="1"))
    await queue.register(["late"])
    await append(queue, make_event(id="2"))
    names = ("ops", "news", "late")
    router = make_router(queue, *map(channel, names))
    while await queue.read_log((await queue.cursors(["ops"]))["ops"], 1):
        await router.route_once(0)
    keys = [[claim.key for claim in await claimed(queue, name)] for name in names]
    assert keys == [["1:ops", "2:ops"], ["1:news", "2:news"], ["2:late"]]


async def test_routers_side_by_side(queue: Queue, channel: MakeChannel) -> None:
    """Each event enters each lane exactly once, in order, whoever puts it there."""
    channels = [channel("ops"), channel("news")]
    stopping = asyncio.Event()
    routers = [make_router(queue, *channels) for _ in range(3)]
    running = [asyncio.ensure_future(router.run(stopping)) for router in routers]
    for number in range(40):
        await append(queue, *(make_event(id=f"{number:02}-{one:02}") for one in range(25)))

    async def is_done() -> bool:
        return not await queue.read_log(min((await queue.cursors(["ops", "news"])).values()), 1)

    await eventually_async(is_done, "the log to be routed", 30)
    stopping.set()
    await asyncio.wait_for(asyncio.gather(*running), 10)
    for lane in ("ops", "news"):
        keys = [claim.key for claim in await claimed(queue, lane)]
        assert len(keys) == len(set(keys)) == 1000
        assert keys == sorted(keys)


@pytest.mark.parametrize("body", [b"", b"no json", b'{"v": 99}', b"\xff", b"[" * 50_000])
async def test_what_is_no_event_is_a_dead_letter(
    queue: Queue, channel: MakeChannel, body: bytes
) -> None:
    """Of every lane, since nobody knows who would have wanted it; the next go on (R16)."""
    await queue.append([("bad", body)])
    await append(queue, make_event(id="good"))
    await make_router(queue, channel("ops"), channel("news")).route_once(0)
    for lane in ("ops", "news"):
        (letter,) = await dead(queue, lane)
        assert (letter.kind, letter.body) == ("failed", body)
        assert "Not an event of a known version" in letter.reason
        assert letter.key.startswith("log-")
        assert [claim.key for claim in await claimed(queue, lane)] == [f"good:{lane}"]


async def test_an_id_that_is_no_text_is_a_dead_letter(queue: Queue, channel: MakeChannel) -> None:
    """Somebody wrote it by hand; keys cannot be made of it."""
    body = make_event(id="MINE").encode().replace(b"MINE", b"\\ud800")
    await queue.append([("forged", body)])
    await make_router(queue, channel()).route_once(0)
    (letter,) = await dead(queue)
    assert "its id is no text" in letter.reason


async def test_a_route_that_raises_makes_a_dead_letter(queue: Queue, channel: MakeChannel) -> None:
    """Never a drop; the other lanes and the next events go on."""
    router = make_router(queue, channel("ops", when="length(new.n) == `1`"), channel("news"))
    await append(queue, make_event(id="odd", changes=(make_change(new={"n": 5}),)), records("a"))
    await router.route_once(0)
    (letter,) = await dead(queue)
    assert (letter.kind, letter.key) == ("failed", "odd:ops")
    assert "when = " in letter.reason
    assert "cannot be evaluated" in letter.reason
    assert [claim.key for claim in await claimed(queue)] == ["e:ops"]
    assert len(await claimed(queue, "news")) == 2


def test_a_bug_of_ours_makes_a_dead_letter_too(caplog: pytest.LogCaptureFixture) -> None:
    """With a stack in the log. A router that stopped would stop every lane."""

    def divide(event: Event) -> Any:
        raise ZeroDivisionError("of our own")

    broken: Any = SimpleNamespace(
        name="ops",
        route=SimpleNamespace(select=divide),
        config=SimpleNamespace(subscribable=False, split_changes=False, collects_by=None),
    )
    entry: Any = SimpleNamespace(id="1-0", body=b"body")
    entries, (letter,) = select(broken, [(entry, make_event(id="e"))])
    assert entries == []
    assert (letter.key, letter.kind) == ("e:ops", "failed")
    assert letter.reason == "ZeroDivisionError: of our own"
    assert "log.unroutable id=1-0 channel=ops" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(
    ("settings", "collected", "others"),
    [({"digest_seconds": 60.0}, 2, 2), ({"collapse": "latest"}, 6, 0)],
)
def test_what_hooks_ask_for_is_collected_for_each_alone(
    channel: MakeChannel, settings: dict[str, Any], collected: int, others: int
) -> None:
    """And what a hook of an older format asks for is not joined, since that says each object by
    itself; only the versions of one collapse."""
    changes = tuple(make_change(object_id=one, uri=f"/buckets/b/groups/{one}") for one in "12")
    ours = {"channel": "ops", "template": "{{ change.object_id }}"}
    hooks = [
        Subscription(format="kinto-dispatch", owner=owner, channel="ops", hook=ours)
        for owner in ("/buckets/b", "/buckets/b/collections/c")
    ]
    older = {"template": "{object_id}", "channel": "ops"}
    hooks.append(Subscription(format="kinto-slack", owner="/buckets/b", channel="ops", hook=older))
    event = make_event(changes=changes, subscriptions=tuple(hooks))
    entry: Any = SimpleNamespace(id="1-0", body=b"body")
    found, dead = select(channel(subscribable=True, **settings), [(entry, event)])
    assert not dead
    digests = [one.digest for one in found if one.digest]
    assert len(set(digests)) == len(digests) == collected
    assert len(found) - len(digests) == others


async def test_nothing_new_is_nothing_to_do(queue: Queue, channel: MakeChannel) -> None:
    """Nobody lost a race then."""
    assert await make_router(queue, channel()).route_once(0.01) is False


def test_positions_are_numbers() -> None:
    """As texts they would sort otherwise."""
    assert position("9-0") < position("10-0") < position("10-2") < position("10-10")


# --- large batches -------------------------------------------------------------------------------


async def test_the_loop_goes_on_while_much_is_judged(queue: Queue, channel: MakeChannel) -> None:
    """Leases are renewed and calls are answered there: no batch holds it up for as long as judging
    it takes, however large its events are."""
    channels = [
        channel(name, split_changes="true", when="new.n != 'b' && new.n != 'c'")
        for name in ("ops", "news")
    ]
    names = list(map(str, range(8_000)))
    await append(
        queue, *(make_event(id=f"{one}", changes=records(*names).changes) for one in "12")
    )
    longest, ends = 0.0, asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not ends.is_set():
            before = time.thread_time()
            await asyncio.sleep(0.001)
            longest = max(longest, time.thread_time() - before)

    watching = asyncio.create_task(watch())
    router = make_router(queue, *channels)
    await router.route_once(0)
    ends.set()
    await watching
    (entry, *_) = await queue.read_log("0-0", 1)
    started = time.thread_time()
    entries, _ = select(channels[0], [(entry, Event.decode(entry.body))])
    assert longest < (time.thread_time() - started) / 2
    assert len(entries) == 8_000
    assert [lane.waiting for lane in await queue.status(["ops", "news"])] == [16_000, 16_000]


async def test_a_batch_is_bounded(
    queue: Queue, channel: MakeChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its entries, their changes, and their bytes: each ends with the event that reaches one
    of them. All that was read is routed in one go of several."""
    monkeypatch.setattr("kinto_dispatch.router.reading.BATCH_CHANGES", 10)
    monkeypatch.setattr("kinto_dispatch.router.reading.BATCH_BYTES", 20_000)
    sizes = [4, 4, 4, 1, 50, 1]
    events = [records(*map(str, range(size))) for size in sizes]
    bodies = [event.encode() for event in events]
    large = make_event(changes=(make_change(new={"text": "x" * 30_000}),)).encode()
    await queue.append(
        [(str(number), body) for number, body in enumerate([*bodies, large, large])]
    )
    batches: list[int] = []

    def judge(channel: Channel, batch: Any) -> Any:
        batches.append(len(batch))
        return select(channel, batch)

    monkeypatch.setattr("kinto_dispatch.router.judging.select", judge)
    assert await make_router(queue, channel()).route_once(0) is False
    assert batches == [3, 2, 2, 1]
    assert (await queue.status(["ops"]))[0].waiting == 8


async def test_a_large_call_gets_time_for_its_bytes(
    queue: Queue, channel: MakeChannel, queue_url: str
) -> None:
    """A server that takes them slowly would otherwise never take them."""
    async with SlowWay(queue_url, bytes_per_second=4_000_000) as way:
        slow = StreamsQueue(lambda: way.url, "kinto-dispatch", ("ops",), 0.5)
        event = make_event(id="large", changes=(make_change(new={"text": "x" * 6_000_000}),))
        await append(queue, event)
        (entry,) = await queue.read_log("0-0", 1)
        before = (await queue.cursors(["ops"]))["ops"]
        stands = await slow.route("ops", before, entry.id, [Entry("large:ops", entry.body)], [])
        assert stands == entry.id
        await slow.close()


class SlowWay:
    """A way to a server on which bytes take their time."""

    def __init__(self, target: str, bytes_per_second: int) -> None:
        self._path = target.removeprefix("unix://").partition("?")[0]
        self._rate = bytes_per_second
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> SlowWay:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, reader: Any, writer: Any) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self._path)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            self._tasks.add(asyncio.create_task(self._pass_on(source, sink)))

    async def _pass_on(self, source: Any, sink: Any) -> None:
        with contextlib.closing(sink):
            while data := await source.read(65_536):
                sink.write(data)
                await asyncio.sleep(len(data) / self._rate)


# --- lanes that cannot be routed -----------------------------------------------------------------

LAST_ID = f"{2**64 - 1}-{2**64 - 1}"


@pytest.mark.parametrize("trouble", ["rejected", "refused"])
async def test_a_lane_that_cannot_be_routed_holds_up_no_other(
    queue: Queue,
    channel: MakeChannel,
    queue_url: str,
    caplog: pytest.LogCaptureFixture,
    trouble: str,
) -> None:
    """Whatever the server says to its calls: it rests, is tried again, and loses nothing. What is
    wrong is said once."""
    router = make_router(queue, channel("ops"), channel("news"))
    with redis.Redis.from_url(queue_url) as server:
        stream = "kinto-dispatch:{lane:ops}:stream"
        if trouble == "rejected":
            server.xadd(stream, {"key": "last"}, id=LAST_ID)
        else:
            server.set(stream, "theirs")
        for number in range(20):
            await append(queue, make_event(id=str(number)))
            await router.route_once(0)
        assert len(await claimed(queue, "news")) == 20
        assert list(router.troubles) == ["ops"]

        async def is_said() -> bool:
            await router.route_once(0)
            return "router.set_aside channel=ops" in caplog.text

        await eventually_async(is_said, "it to be said")
        server.delete(stream)

        async def has_all() -> bool:
            await router.route_once(0)
            return (await queue.status(["ops"]))[0].waiting == 20

        await eventually_async(has_all, "the lane to be routed")
    assert caplog.text.count("router.set_aside") == 1
    assert "router.goes_on channel=ops" in caplog.text
    assert router.troubles == {}


async def test_a_bug_in_one_lane_stops_no_other(
    queue: Queue,
    channel: MakeChannel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With a stack in the log."""
    router = make_router(queue, channel("ops"), channel("news"))
    await append(queue, make_event(id="e"))

    def judge(channel: Channel, batch: Any) -> Any:
        if channel.name == "ops":
            raise ZeroDivisionError("of our own")
        return select(channel, batch)

    monkeypatch.setattr("kinto_dispatch.router.judging.select", judge)
    await router.route_once(0)
    assert len(await claimed(queue, "news")) == 1
    assert "Traceback" in caplog.text


async def test_an_absence_of_the_queue_is_no_trouble_of_a_lane(
    channel: MakeChannel, tmp_path: Path
) -> None:
    """Nobody rests for it: whoever waits for the queue hears of it."""
    with LocalValkey(tmp_path) as valkey:
        queue = StreamsQueue(lambda: valkey.url, "kd", ("ops",), 5.0)
        router = make_router(queue, channel())
        await append(queue, make_event(id="e"))

        def judge(*_: Any) -> Any:
            valkey.kill()
            return [], []

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("kinto_dispatch.router.judging.select", judge)
            with pytest.raises(QueueUnavailable):
                await router.route_once(0)
        assert router.troubles == {}
        valkey.start()
        await router.route_once(0)
        assert [claim.key for claim in await claimed(queue)] == ["e:ops"]
        await queue.close()


async def test_a_lane_that_is_far_behind_holds_up_no_other(
    queue: Queue, channel: MakeChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel that comes back after a week reads a week of the log; what is new for the others
    does not wait for that."""
    monkeypatch.setattr("kinto_dispatch.router.router.BATCH", 5)
    for number in range(50):
        await append(queue, make_event(id=f"{number:02}"))
    await queue.cursors(["ops"])
    news = make_router(queue, channel("news"))
    for _ in range(10):
        await news.route_once(0)
    await append(queue, make_event(id="new"))
    await make_router(queue, channel("ops"), channel("news")).route_once(0)
    assert len(await claimed(queue, "ops")) == 5
    assert (await claimed(queue, "news"))[-1].key == "new:news"


# --- more than one call carries ------------------------------------------------------------------


def test_what_one_call_carries_is_what_a_server_takes() -> None:
    """It refuses a call of more than a million arguments, and hangs up at a gigabyte."""
    full = [Entry(f"e:ops:{number}", b"x") for number in range(MOST_DELIVERIES)]
    call = commands.route(LaneKeys("kinto", "ops"), "0-0", "1-0", full, [])
    assert len(call.by_text()) < 1024 * 1024
    assert MOST_BYTES < 2**30 / 1.5


@pytest.mark.parametrize("bound", ["MOST_DELIVERIES", "MOST_BYTES"])
async def test_an_event_that_is_too_many_deliveries_is_one_dead_letter(
    queue: Queue, channel: MakeChannel, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands around it is delivered, no lane stands still, and the command that the dead
    letter names delivers all of it."""
    names = [str(number) for number in range(9)]
    large = records(*names)
    small = [make_event(id=f"s{number}") for number in range(4)]
    limit = {"MOST_DELIVERIES": 8, "MOST_BYTES": 8 * len(records("0").encode())}[bound]
    monkeypatch.setattr(f"kinto_dispatch.router.judging.{bound}", limit)
    splitting, whole = channel("ops", split_changes="true"), channel("news")
    await append(queue, *small[:2], large, *small[2:])
    routing = make_router(queue, splitting, whole)
    while await queue.read_log((await queue.cursors(["ops"]))["ops"], 1):
        await routing.route_once(0)
    assert [claim.key for claim in await claimed(queue)] == [f"s{n}:ops:0" for n in range(4)]
    assert len(await claimed(queue, "news")) == 5
    (letter,) = await dead(queue)
    assert (letter.key, letter.kind, letter.body) == ("e:ops", "failed", large.encode())
    assert "is 9 deliveries for this channel" in letter.reason
    assert "kinto-dispatch replay --channel ops --event e." in letter.reason
    assert routing.troubles == {}

    past = Past([splitting], await queue.cursors(["ops"]), "e", None, None)
    assert await past.send(queue, 9) == 9
    again = await claimed(queue)
    assert [claim.key for claim in again] == [f"e:ops:{name}" for name in names]
    assert all(claim.replay for claim in again)


async def test_events_that_are_too_many_together_enter_one_after_the_other(
    queue: Queue, channel: MakeChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each that fits by itself enters, once and in order."""
    monkeypatch.setattr("kinto_dispatch.router.judging.MOST_DELIVERIES", 5)
    events = [
        make_event(id=f"{one}", changes=tuple(make_change(object_id=str(n)) for n in range(4)))
        for one in range(7)
    ]
    await append(queue, *events)
    routing = make_router(queue, channel(split_changes="true"))
    while await queue.read_log((await queue.cursors(["ops"]))["ops"], 1):
        await routing.route_once(0)
    keys = [claim.key for claim in await claimed(queue)]
    assert keys == [f"{one}:ops:{n}" for one in range(7) for n in range(4)]
    assert await dead(queue) == []


async def test_a_name_that_somebody_forged_is_no_command(
    queue: Queue, channel: MakeChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator copies what the dead letter says into a shell."""
    monkeypatch.setattr("kinto_dispatch.router.judging.MOST_DELIVERIES", 1)
    await append(queue, make_event(id="$(reboot)", changes=(make_change(), make_change())))
    await make_router(queue, channel(split_changes="true")).route_once(0)
    (letter,) = await dead(queue)
    assert "--event '$(reboot)'." in letter.reason
