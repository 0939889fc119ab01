"""The queue over a Unix socket and over TCP; every test starts with an empty server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from kinto_dispatch.queue.log import StreamsLog
from kinto_dispatch.queue.streams import StreamsQueue
from kinto_dispatch.queue.values import Claim, Entry
from kinto_dispatch.testing.valkey import LocalValkey
from kinto_dispatch.testing.waiting import eventually


PREFIX = "kd"
LANES = ("ops", "admins")


@pytest.fixture(params=["unix", "tcp"])
def url(request: pytest.FixtureRequest, queue_url: str) -> str:
    """Where the empty server is."""
    return queue_url if request.param == "unix" else open_port(queue_url)


@pytest.fixture
async def queue(url: str) -> AsyncIterator[StreamsQueue]:
    """The worker's side."""
    queue = StreamsQueue(lambda: url, PREFIX, LANES)
    yield queue
    await queue.close()


@pytest.fixture
async def other(url: str) -> AsyncIterator[StreamsQueue]:
    """The worker's side in another process."""
    queue = StreamsQueue(lambda: url, PREFIX, LANES)
    yield queue
    await queue.close()


@pytest.fixture
def log(url: str) -> Iterator[StreamsLog]:
    """The producer's side."""
    log = StreamsLog(lambda: url, PREFIX, LANES, 5.0)
    yield log
    log.close()


@pytest.fixture
def server(url: str) -> Iterator[redis.Redis]:
    """The server itself, for what nobody should do to it."""
    with redis.Redis.from_url(url) as client:
        yield client


@pytest.fixture
def configure(server: redis.Redis) -> Iterator[Callable[[str, Any], None]]:
    """``configure(name, value)`` sets an option of the server for the time of a test."""
    before: dict[str, Any] = {}

    def configure(name: str, value: Any) -> None:
        before.setdefault(name, server.config_get(name)[name])
        server.config_set(name, value)

    yield configure
    for name, value in before.items():
        server.config_set(name, value)
    # While it writes its first file anew, a server refuses to end.
    eventually(lambda: is_on_disk(server), "the server to have its data on disk")


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[LocalValkey]:
    """A server that the test may kill."""
    with LocalValkey(tmp_path) as server:
        yield server


@pytest.fixture
def claimed(queue: StreamsQueue) -> Callable[..., Any]:
    """``await claimed(3)`` puts deliveries into the lane ``ops`` and claims them."""

    async def claimed(count: int = 1, consumer: str = "a") -> list[Claim]:
        entries = [Entry(f"event-{number}:ops", b"%d" % number) for number in range(count)]
        await queue.enqueue("ops", entries)
        return list(await queue.fetch("ops", consumer, count, 0))

    return claimed


@pytest.fixture
def idle(server: redis.Redis) -> Callable[[Claim, float], Any]:
    """``await idle(claim, seconds)`` waits until the server has seen the claim unattended for so
    long."""

    def is_idle(claim: Claim, seconds: float) -> bool:
        key = f"{PREFIX}:{{lane:{claim.lane}}}:stream"
        pending: Any = server.xpending_range(key, "workers", claim.id, claim.id, 1)
        return bool(pending[0]["time_since_delivered"] > seconds * 1000)

    async def idle(claim: Claim, seconds: float) -> None:
        await asyncio.to_thread(eventually, lambda: is_idle(claim, seconds), "the lease to end")

    return idle


def is_on_disk(server: redis.Redis) -> bool:
    info: Any = server.info("persistence")
    return not info["aof_rewrite_in_progress"] and not info["aof_rewrite_scheduled"]


def open_port(url: str) -> str:
    """Let the server listen on a free port of the loopback, too."""
    with redis.Redis.from_url(url) as client:
        port = int(client.config_get("port")["port"])
        while not port:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                free = probe.getsockname()[1]
            client.config_set("bind", "127.0.0.1")
            try:
                client.config_set("port", free)
            except redis.ResponseError:
                continue  # somebody else was quicker
            port = free
    return f"redis://127.0.0.1:{port}/0"
