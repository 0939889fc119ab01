"""A queue server whose answers get lost, and one that comes back with a part of its memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import transaction
from pydantic import SecretStr

from kinto_dispatch.capture import Captured
from kinto_dispatch.errors import QueueUnavailable
from kinto_dispatch.listener.direct import DirectAppender
from kinto_dispatch.outbox.postgres import PostgresOutbox
from kinto_dispatch.queue import open_log, open_queue
from kinto_dispatch.queue.guardian import OPTIONS, Connection
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.values import START_OF_LOG, Done, Entry, Settlement
from kinto_dispatch.relay import Relay, open_relay
from kinto_dispatch.settings import DispatchSettings
from kinto_dispatch.testing.outbox import open_storage
from kinto_dispatch.testing.valkey import LocalValkey
from kinto_dispatch.testing.waiting import eventually_async
from tests.chaos.proxy import Proxy
from tests.chaos.servers import follow


LANE = "ops"


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[LocalValkey]:
    """A server that the test may kill."""
    directory = tmp_path / "primary"
    directory.mkdir()
    with LocalValkey(directory) as server:
        yield server


@pytest.fixture
def proxy(valkey: LocalValkey) -> Iterator[Proxy]:
    """The way to the server."""
    with Proxy(valkey.url.removeprefix("unix://")) as proxy:
        yield proxy


@pytest.fixture
def settings(proxy: Proxy, tmp_path: Path) -> DispatchSettings:
    """What a Kinto says that has no PostgreSQL."""
    return DispatchSettings(
        channels=(),
        queue_url=SecretStr(f"redis://127.0.0.1:{proxy.port}"),
        queue_dir=tmp_path,
    )


@pytest.fixture
async def queue(settings: DispatchSettings) -> AsyncIterator[Queue]:
    """The worker's side of the queue, with a lane."""
    queue = open_queue(settings)
    await queue.register([LANE])
    yield queue
    await queue.close()


@pytest.fixture
async def look(valkey: LocalValkey, tmp_path: Path) -> AsyncIterator[Queue]:
    """The test's own look at the server, on connections of its own that nobody resets."""
    look = open_queue(
        DispatchSettings(channels=(), queue_url=SecretStr(valkey.url), queue_dir=tmp_path)
    )
    yield look
    await look.close()


@asynccontextmanager
async def relaying(
    postgresql_url: str, settings: DispatchSettings, queue: Queue
) -> AsyncIterator[tuple[Any, Relay]]:
    """Kinto's storage client on a migrated database, and a relay that runs."""
    client = open_storage(postgresql_url)
    with_storage = settings.__class__(
        channels=(),
        queue_url=settings.queue_url,
        queue_dir=settings.queue_dir,
        storage_backend="kinto.core.storage.postgresql",
        storage_url=SecretStr(postgresql_url),
    )
    relay = open_relay(with_storage, queue, [LANE])
    assert relay is not None
    stopping = asyncio.Event()
    task = asyncio.create_task(relay.run(stopping))
    try:
        yield client, relay
    finally:
        stopping.set()
        await asyncio.wait_for(task, 30)
        transaction.abort()
        client.session_factory.get_bind().dispose()


def commit(client: Any, *bodies: bytes) -> None:
    """One request that writes these events."""
    PostgresOutbox(client).write([(f"event-{body.decode()}", body) for body in bodies])
    transaction.commit()


def configure(server: LocalValkey, option: str) -> None:
    """Set an option of a server that runs."""
    with closing(Connection(server.url.removeprefix("unix://"))) as connection:
        connection.ask(f"CONFIG SET {option}")


async def logged(queue: Queue) -> list[bytes]:
    """The bodies in the log, in its order; nothing while the queue is away."""
    with contextlib.suppress(QueueUnavailable):
        return [entry.body for entry in await queue.read_log(START_OF_LOG, 1000)]
    return []


async def holds(queue: Queue, *bodies: bytes) -> None:
    """Wait until the log has exactly these, each once."""

    async def has_them() -> bool:
        return sorted(await logged(queue)) == sorted(bodies)

    await eventually_async(has_them, f"the log to hold {len(bodies)} events", 30)


# --- answers that get lost ---------------------------------------------------------------


@pytest.mark.postgresql
async def test_a_relay_whose_answers_get_lost_appends_each_event_once(
    postgresql_url: str,
    settings: DispatchSettings,
    queue: Queue,
    look: Queue,
    proxy: Proxy,
) -> None:
    """The connection is reset after the server has appended a batch: nobody knows, the batch is
    appended again, and the log has each event once (R10)."""
    async with relaying(postgresql_url, settings, queue) as (client, relay):
        expected: list[bytes] = []
        for number in range(20):
            proxy.reset()
            expected.append(b"%d" % number)
            commit(client, expected[-1])
            await holds(look, *expected)
        assert relay.fed_again == 0
    assert proxy.count() >= 10


async def test_direct_mode_appends_once_what_it_was_not_told_of(
    settings: DispatchSettings,
    look: Queue,
    proxy: Proxy,
) -> None:
    """Without an outbox as well: an event whose append was carried out, but not answered, is
    appended again and stands in the log once (R10)."""
    appender = DirectAppender(open_log(settings, [LANE]))
    expected: list[bytes] = []
    for number in range(20):
        proxy.reset()
        expected.append(b"%d" % number)
        appender.append([Captured(f"event-{number}", expected[-1])])
        await holds(look, *expected)
    await eventually_async(lambda: _is_well(appender), "the appender to know")
    assert appender.dropped == 0
    assert proxy.count() >= 10


async def _is_well(appender: DirectAppender) -> bool:
    return not appender.is_losing


async def test_settling_again_what_was_settled_unheard_changes_nothing(
    queue: Queue, proxy: Proxy
) -> None:
    """A worker that did not hear that its delivery was settled settles it again, and nobody gets
    it a second time (R10)."""
    await queue.enqueue(LANE, [Entry("k0", b"")])
    (claim,) = await queue.fetch(LANE, "worker", 1, 1)
    settlement = Settlement(claim, Done(), b"{}")
    proxy.reset()
    with pytest.raises(QueueUnavailable):
        await queue.settle(LANE, [settlement])
    await queue.settle(LANE, [settlement])
    (lane,) = await queue.status([LANE])
    assert (lane.waiting, lane.in_flight, lane.retry, lane.dead) == (0, 0, 0, 0)
    assert await queue.reclaim(LANE, "other", 0.0, 1) == []


async def test_claims_that_never_arrived_are_taken_over(queue: Queue, proxy: Proxy) -> None:
    """What the server gave to a worker that did not hear of it is taken over by another one when
    the lease is over (R10)."""
    await queue.fetch(LANE, "deaf", 1, 0)
    await queue.enqueue(LANE, [Entry("k0", b"")])
    proxy.reset()
    with pytest.raises(QueueUnavailable):
        await queue.fetch(LANE, "deaf", 1, 1)
    taken: list[str] = []

    async def take_over() -> bool:
        taken.extend(claim.key for claim in await queue.reclaim(LANE, "other", 0.2, 1))
        return bool(taken)

    await eventually_async(take_over, "the lease to end")
    assert taken == ["k0"]


# --- a part of its memory ----------------------------------------------------------------


@pytest.mark.postgresql
async def test_a_promoted_replica_is_fed_what_it_lacks(
    postgresql_url: str,
    settings: DispatchSettings,
    queue: Queue,
    valkey: LocalValkey,
    proxy: Proxy,
    tmp_path: Path,
) -> None:
    """A replica that lagged takes over: what it never got is fed again, nothing else is, and a
    worker that was there before goes on (R13)."""
    directory = tmp_path / "replica"
    directory.mkdir()
    async with relaying(postgresql_url, settings, queue) as (client, relay):
        commit(client, b"1", b"2")
        await holds(queue, b"1", b"2")
        with LocalValkey(directory) as replica, Proxy(valkey.url.removeprefix("unix://")) as link:
            socket = replica.url.removeprefix("unix://")
            with closing(Connection(socket)) as connection:
                configure(valkey, "repl-diskless-sync-delay 0")
                await asyncio.to_thread(follow, connection, link.port)
                link.hold()
                commit(client, b"3")
                commit(client, b"4")
                await holds(queue, b"1", b"2", b"3", b"4")
                await asyncio.to_thread(valkey.kill)
                proxy.lead(socket)
                connection.ask("REPLICAOF NO ONE")
            await holds(queue, b"1", b"2", b"3", b"4")
            commit(client, b"5")
            await holds(queue, b"1", b"2", b"3", b"4", b"5")
            assert relay.fed_again == 2


@pytest.mark.postgresql
@pytest.mark.parametrize("has_snapshot", [True, False], ids=["rdb", "none"])
async def test_a_server_without_a_log_on_disk_is_fed_what_it_lacks(
    postgresql_url: str,
    settings: DispatchSettings,
    queue: Queue,
    valkey: LocalValkey,
    monkeypatch: pytest.MonkeyPatch,
    has_snapshot: bool,
) -> None:
    """Killed with an old snapshot, or with nothing at all on disk: with an outbox each event is in
    the log again, once (R12)."""
    monkeypatch.setitem(OPTIONS, "appendonly", "no")
    await asyncio.to_thread(valkey.stop)
    await asyncio.to_thread(valkey.start)
    async with relaying(postgresql_url, settings, queue) as (client, relay):
        commit(client, b"1", b"2")
        await holds(queue, b"1", b"2")
        if has_snapshot:
            with closing(Connection(valkey.url.removeprefix("unix://"))) as connection:
                connection.ask("SAVE")
        commit(client, b"3")
        await holds(queue, b"1", b"2", b"3")
        await asyncio.to_thread(valkey.kill)
        commit(client, b"4")
        await asyncio.to_thread(valkey.start)
        await holds(queue, b"1", b"2", b"3", b"4")
        assert relay.fed_again == (1 if has_snapshot else 3)
