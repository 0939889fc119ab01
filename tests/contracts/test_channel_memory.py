"""What a channel remembers, in the queue as in the memory that tests of plugins get."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

from kinto_dispatch import Channel, Event, hookimpl
from kinto_dispatch.memory import ANSWER_SECONDS, KEPT_SECONDS, LONGEST_VALUE, Memory, Notes
from kinto_dispatch.plugins import configure
from kinto_dispatch.queue.streams import StreamsQueue
from kinto_dispatch.testing import make_channel, make_delivery, make_event
from kinto_dispatch.testing.notes import LocalNotes
from kinto_dispatch.testing.valkey import LocalValkey


PREFIX = "kd"

HOSTILE = [
    "",
    " ",
    "/buckets/blog/collections/articles/records/first",
    "a:b{c}d*e\r\nSET x 1\x00\\",
    "naïve \udcff \U0001f4a5",
    "k" * 100_000,
]


@pytest.fixture(params=["queue", "local"])
async def notes(request: pytest.FixtureRequest) -> AsyncIterator[Notes]:
    """Each place where notes are kept."""
    if request.param == "local":
        yield LocalNotes()
        return
    url = request.getfixturevalue("queue_url")
    queue = StreamsQueue(lambda: url, PREFIX)
    yield queue
    await queue.close()


@pytest.fixture
async def queue(queue_url: str) -> AsyncIterator[StreamsQueue]:
    """The queue of a worker."""
    queue = StreamsQueue(lambda: queue_url, PREFIX)
    yield queue
    await queue.close()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[LocalValkey]:
    """A server that the test may kill."""
    with LocalValkey(tmp_path) as server:
        yield server


# --- what holds everywhere -----------------------------------------------------------------


async def test_what_was_remembered_is_recalled(notes: Notes) -> None:
    """The last of it, and nothing before there is any."""
    memory = Memory("ops", notes)
    assert await memory.recall("thread") is None
    await memory.remember("thread", "1.1")
    await memory.remember("thread", "1.2")
    assert await memory.recall("thread") == "1.2"
    assert await memory.recall("Thread") is None


async def test_every_worker_recalls_it_and_no_other_channel(notes: Notes) -> None:
    """What one process remembers belongs to the channel."""
    await Memory("ops", notes).remember("thread", "1.1")
    assert await Memory("ops", notes).recall("thread") == "1.1"
    assert await Memory("admins", notes).recall("thread") is None


async def test_any_text_is_a_key_and_a_value(notes: Notes) -> None:
    """Of whatever a record consists; what is empty is not what is unknown."""
    memory = Memory("ops", notes)
    for number, key in enumerate(HOSTILE):
        await memory.remember(key, f"{number}{key}"[:LONGEST_VALUE])
    for number, key in enumerate(HOSTILE):
        assert await memory.recall(key) == f"{number}{key}"[:LONGEST_VALUE]
    await memory.remember("empty", "")
    assert await memory.recall("empty") == ""


async def test_a_value_has_a_bound(notes: Notes) -> None:
    """The author is told, and what was there stays."""
    memory = Memory("ops", notes)
    await memory.remember("long", "é" * LONGEST_VALUE)
    with pytest.raises(ValueError, match=r"2,000 characters, this one has 2,001"):
        await memory.remember("long", "x" * (LONGEST_VALUE + 1))
    assert await memory.recall("long") == "é" * LONGEST_VALUE


async def test_many_may_ask_at_once(notes: Notes) -> None:
    """Each gets what belongs to its key."""
    memory = Memory("ops", notes)
    keys = [f"key-{number}" for number in range(50)]
    await asyncio.gather(*(memory.remember(key, key.upper()) for key in keys))
    found = await asyncio.gather(*(memory.recall(key) for key in keys))
    assert found == [key.upper() for key in keys]


# --- in the queue --------------------------------------------------------------------------


async def test_a_note_is_a_key_of_its_lane_that_expires(
    queue: StreamsQueue, queue_url: str
) -> None:
    """A week after it was remembered last, and without the record's uri in its name."""
    await Memory("ops", queue).remember("/buckets/secret", "1.1")
    with redis.Redis.from_url(queue_url) as server:
        (key,) = server.keys("*")
        assert key.startswith(b"kd:{lane:ops}:note:")
        assert b"secret" not in key
        assert 0 < server.ttl(key) <= KEPT_SECONDS
        server.expire(key, 60)
        await Memory("ops", queue).remember("/buckets/secret", "1.1")
        assert server.ttl(key) > 60


async def test_nothing_is_raised_where_the_queue_is_gone(valkey: LocalValkey) -> None:
    """It is not known, then; it is known again when the queue is back."""
    queue = StreamsQueue(lambda: valkey.url, PREFIX)
    memory = Memory("ops", queue)
    await memory.remember("thread", "1.1")
    valkey.kill()
    assert await memory.recall("thread") is None
    await memory.remember("thread", "1.2")
    valkey.start()
    assert await memory.recall("thread") == "1.1"
    await queue.close()


async def test_nobody_waits_for_a_queue_that_hangs(valkey: LocalValkey) -> None:
    """A second for each question, however long the queue itself may be waited for."""
    queue = StreamsQueue(lambda: valkey.url, PREFIX, timeout_seconds=600.0)
    memory = Memory("ops", queue)
    await memory.remember("thread", "1.1")
    valkey.pause()
    async with asyncio.timeout(ANSWER_SECONDS * 2 + 30):
        assert await memory.recall("thread") is None
        await memory.remember("thread", "1.2")
    valkey.resume()
    assert await memory.recall("thread") in ("1.1", "1.2")
    await queue.close()


async def test_nothing_is_raised_where_memory_is_full(queue: StreamsQueue, queue_url: str) -> None:
    """What is known stays known; nothing is added."""
    memory = Memory("ops", queue)
    await memory.remember("thread", "1.1")
    with redis.Redis.from_url(queue_url) as server:
        server.config_set("maxmemory", 1)
        try:
            await memory.remember("thread", "1.2")
            await memory.remember("other", "1.3")
            assert await memory.recall("thread") == "1.1"
        finally:
            server.config_set("maxmemory", 0)
    assert await memory.recall("other") is None


async def test_what_somebody_else_put_there_is_nothing(
    queue: StreamsQueue, queue_url: str
) -> None:
    """Neither bytes that are no text nor a key of another type disturb a delivery."""
    memory = Memory("ops", queue)
    await memory.remember("thread", "1.1")
    with redis.Redis.from_url(queue_url) as server:
        (key,) = server.keys("*")
        server.set(key, b"\xff\xfe")
        assert await memory.recall("thread") is None
        server.delete(key)
        server.rpush(key, "1.1")
        assert await memory.recall("thread") is None


# --- who has one ---------------------------------------------------------------------------


class Remembering:
    """A channel that can do nothing else."""

    @hookimpl
    async def on_event_async(self, event: Event, channel: Channel) -> None:
        await channel.remember(event.uri, json.dumps([event.action, await channel.recall("x")]))


async def test_tests_of_plugins_have_a_memory() -> None:
    """It holds from delivery to delivery, and one channel knows nothing of another."""
    channel, other = make_channel(Remembering), make_channel(Remembering)
    event = make_event()
    await channel.call_async(event, make_delivery())
    assert await channel.recall(event.uri) == '["create", null]'
    assert await other.recall(event.uri) is None


async def test_without_a_worker_nothing_is_known() -> None:
    """As in Kinto, and in the process that runs a suspect: asked all the same, without harm."""
    dispatch = "kinto.event_listeners.dispatch"
    plugin = f"{Remembering.__module__}:{Remembering.__qualname__}"
    settings = {
        "kinto.event_listeners": "dispatch",
        f"{dispatch}.use": "kinto_dispatch",
        f"{dispatch}.plugin": plugin,
    }
    (channel,) = configure(settings, {}).channels
    await channel.remember("thread", "1.1")
    assert await channel.recall("thread") is None
    with pytest.raises(ValueError, match=r"2,000"):
        await channel.remember("thread", "x" * 2001)


async def test_only_the_workers_own_loop_is_answered(queue: StreamsQueue) -> None:
    """A plain function in a thread, with a loop that it makes, does not reach into the worker's
    connections."""
    memory = Memory("ops", queue, asyncio.get_running_loop())
    await memory.remember("thread", "1.1")
    assert await asyncio.to_thread(lambda: asyncio.run(memory.recall("thread"))) is None
    assert await memory.recall("thread") == "1.1"
