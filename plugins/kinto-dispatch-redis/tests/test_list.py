"""What is in the list is what consumers expect, and every answer of Redis has its outcome."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from kinto_dispatch import Delivered, Outcome, Rejected, Retry
from kinto_dispatch.errors import BadSettings
from kinto_dispatch.plugins import configure
from kinto_dispatch.testing import (
    LocalValkey,
    make_channel,
    make_delivery,
    make_event,
)


@pytest.fixture
def db(queue_url: str) -> Iterator[redis.Redis]:
    """The consumer's client of an empty server."""
    with redis.Redis.from_url(queue_url, socket_timeout=5) as client:
        yield client


async def send(url: str, count: int = 1, **options: str) -> list[Outcome]:
    """The outcomes of deliveries, one after the other."""
    channel = make_channel("redis", {"url": url, "listname": "eventqueue", **options})
    try:
        return [
            await channel.call_async(make_event(timestamp=number), make_delivery())
            for number in range(count)
        ]
    finally:
        await channel.close()


async def test_the_tutorials_worker_gets_what_it_expects(queue_url: str, db: redis.Redis) -> None:
    """Its ``blpop`` returns Kinto's payload as JSON."""
    assert await send(queue_url) == [Delivered("1 in the list")]
    key, payload = db.blpop(["eventqueue"])
    assert key == b"eventqueue"
    assert json.loads(payload) == {
        "resource_name": "record",
        "user_id": "basicauth:fea1e21d339299506d89e60f048cefd5b424ea641ba48267c35a4ce921439fa4",
        "timestamp": 0,
        "uri": "/buckets/blog/collections/articles/records/first",
        "bucket_id": "blog",
        "action": "create",
        "collection_id": "articles",
        "record_id": "first",
    }


async def test_the_oldest_comes_first(queue_url: str, db: redis.Redis) -> None:
    """Unlike kinto-redis, which appended where ``blpop`` takes."""
    await send(queue_url, count=3)
    items: list[Any] = [db.blpop(["eventqueue"])[1] for _ in range(3)]
    assert [json.loads(item)["timestamp"] for item in items] == [0, 1, 2]


async def test_any_payload_survives(queue_url: str, db: redis.Redis) -> None:
    """Integers over 64 bits, halves of characters, NUL: all are legal in Kinto's JSON."""
    payload = {"user_id": "\ud800\0\u202e", "timestamp": 2**70, "nested": [None, 1e300]}
    channel = make_channel("redis", {"url": queue_url})
    await channel.call_async(make_event(payload=payload), make_delivery())
    await channel.close()
    (stored,) = db.lrange("kinto.core.events", 0, -1)
    assert json.loads(stored) == payload


def test_the_tutorials_settings_work_as_they_are() -> None:
    """Only ``use`` has changed, and ``plugin`` has come."""
    alias = "kinto.event_listeners.redis"
    settings = {
        "kinto.event_listeners": "redis",
        f"{alias}.use": "kinto_dispatch",
        f"{alias}.plugin": "redis",
        f"{alias}.url": "redis://localhost:6379/0",
        f"{alias}.pool_size": "5",
        f"{alias}.listname": "eventqueue",
    }
    (channel,) = configure(settings, {}).channels
    assert (channel.name, channel.status) == ("redis", "loaded")
    assert (channel.settings.pool_size, channel.settings.listname) == (5, "eventqueue")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"url": "http://canary@localhost"},
        {"url": "localhost:6379"},
        {"url": "redis://:canary/with/slashes@localhost:6379"},
        {"url": "redis://localhost", "pool_size": "0"},
        {"url": "redis://localhost?no_such_option=canary"},
    ],
)
def test_what_cannot_work_stops_the_start(options: dict[str, str]) -> None:
    """Without the password in the message (B20)."""
    with pytest.raises(BadSettings, match=r"channels\.test\.(url|pool_size): ") as caught:
        make_channel("redis", options)
    assert "canary" not in str(caught.value)


async def test_a_key_that_is_no_list_is_refused_for_good(queue_url: str, db: redis.Redis) -> None:
    """It will not become one by itself."""
    db.set("eventqueue", "text")
    (outcome,) = await send(queue_url)
    assert isinstance(outcome, Rejected)
    assert "WRONGTYPE" in outcome.reason
    assert "choose another listname" in outcome.reason


async def test_a_full_server_is_tried_again(tmp_path: Path) -> None:
    """Consumers make room."""
    with LocalValkey(tmp_path) as server, redis.Redis.from_url(server.url) as db:
        db.config_set("maxmemory", "1")
        (outcome,) = await send(server.url)
        assert isinstance(outcome, Retry)
        assert "OutOfMemory" in outcome.reason
        db.config_set("maxmemory", "0")
        assert await send(server.url) == [Delivered("1 in the list")]


async def test_a_channel_survives_a_restart_of_the_server(tmp_path: Path) -> None:
    """The first attempt may find a dead connection, the next one delivers; nothing is doubled."""
    with LocalValkey(tmp_path) as server:
        channel = make_channel("redis", {"url": server.url, "listname": "eventqueue"})

        async def attempt() -> Outcome:
            outcome: Outcome = await channel.call_async(make_event(), make_delivery())
            return outcome

        assert await attempt() == Delivered("1 in the list")
        server.kill()
        assert isinstance(await attempt(), Retry)
        server.start()
        outcomes = [await attempt(), await attempt()]
        assert outcomes[-1] in (Delivered("2 in the list"), Delivered("3 in the list"))
        await channel.close()


@contextmanager
def losing_answers(server: LocalValkey) -> Iterator[str]:
    """The server behind a line that breaks whenever it is about to answer a push."""
    path = server.url.removeprefix("unix://")

    def serve(near: socket.socket) -> None:
        with near, socket.socket(socket.AF_UNIX) as far:
            far.connect(path)
            while sent := near.recv(65_536):
                far.sendall(sent)
                answer = far.recv(65_536)
                if b"RPUSH" in sent:
                    return
                near.sendall(answer)

    def accept() -> None:
        while True:
            try:
                near, _ = listening.accept()
            except OSError:
                return
            serve(near)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=accept)
        thread.start()
        yield f"redis://127.0.0.1:{listening.getsockname()[1]}/0"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("hook", ["on_event", "on_event_async"])
async def test_the_client_never_repeats_by_itself(
    hook: str, valkey_server: LocalValkey, db: redis.Redis
) -> None:
    """Without an answer the list may have the item: whether to send it again is for the core."""
    with losing_answers(valkey_server) as url:
        channel = make_channel("redis", {"url": url})
        if hook == "on_event":
            outcome = await asyncio.to_thread(channel.call_sync, make_event())
        else:
            outcome = await channel.call_async(make_event(), make_delivery())
        await channel.close()
    assert isinstance(outcome, Retry)
    assert db.llen("kinto.core.events") == 1


async def test_more_deliveries_than_connections_wait_for_their_turn(
    queue_url: str, db: redis.Redis
) -> None:
    """The pool has a bound, and nobody is turned away at it."""
    channel = make_channel("redis", {"url": queue_url, "pool_size": "2"})
    calls = [channel.call_async(make_event(), make_delivery()) for _ in range(50)]
    outcomes = await asyncio.gather(*calls)
    assert all(isinstance(outcome, Delivered) for outcome in outcomes)
    connected = [client for client in db.client_list() if client["lib-name"] == "redis-py"]
    assert len(connected) <= 3  # and the one that asks
    await channel.close()


def test_in_the_request_threads_share_the_connections(queue_url: str, db: redis.Redis) -> None:
    """As many writes at a time as the web server has threads."""
    channel = make_channel("redis", {"url": queue_url, "pool_size": "2"}, mode="sync")
    outcomes: list[Outcome] = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(channel.call_sync(make_event())))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(str(outcome) for outcome in outcomes) == sorted(
        str(Delivered(f"{number} in the list")) for number in range(1, 21)
    )
    assert db.llen("kinto.core.events") == 20
    asyncio.run(channel.close())
