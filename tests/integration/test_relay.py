"""From a committed row to the log, with PostgreSQL and Valkey that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import transaction
from kinto.core.storage.exceptions import BackendError
from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError

from kinto_dispatch.errors import OutboxUnavailable, QueueUnavailable
from kinto_dispatch.event import Event
from kinto_dispatch.outbox.postgres import PostgresOutbox
from kinto_dispatch.outbox.reader import PostgresOutboxReader
from kinto_dispatch.queue import open_queue
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.values import START_OF_LOG
from kinto_dispatch.relay import Relay, open_relay
from kinto_dispatch.settings import DispatchSettings
from kinto_dispatch.testing.builders import make_change, make_event
from kinto_dispatch.testing.outbox import open_storage
from kinto_dispatch.testing.postgresql import LocalPostgresql
from kinto_dispatch.testing.valkey import LocalValkey
from kinto_dispatch.testing.waiting import eventually_async


pytestmark = pytest.mark.postgresql

LANE = "ops"


@pytest.fixture
def client(postgresql_url: str) -> Iterator[Any]:
    """Kinto's storage client on a migrated database."""
    client = open_storage(postgresql_url)
    yield client
    transaction.abort()
    client.session_factory.get_bind().dispose()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[LocalValkey]:
    """A queue server that the test may kill."""
    with LocalValkey(tmp_path) as server:
        yield server


@pytest.fixture
def settings(postgresql_url: str, valkey: LocalValkey, tmp_path: Path) -> DispatchSettings:
    """What the ini of a Kinto with PostgreSQL says."""
    return DispatchSettings(
        channels=(),
        queue_url=SecretStr(valkey.url),
        queue_dir=tmp_path,
        storage_backend="kinto.core.storage.postgresql",
        storage_url=SecretStr(postgresql_url),
    )


@pytest.fixture
async def queue(settings: DispatchSettings) -> AsyncIterator[Queue]:
    """The worker's side of the queue."""
    queue = open_queue(settings)
    yield queue
    await queue.close()


@pytest.fixture
def relay(client: Any, settings: DispatchSettings, queue: Queue) -> Iterator[Relay]:
    """A relay that the test drives by hand or lets run."""
    relay = open_relay(settings, queue, [LANE])
    assert relay is not None
    yield relay
    relay.close()


class Writer:
    """Requests that write one event each, and what came of them."""

    def __init__(self, client: Any) -> None:
        self._outbox = PostgresOutbox(client)
        self._numbers = count()
        self.committed: list[bytes] = []

    def write(self) -> bool:
        """One request; false where it failed, with an unknown end if that was in the commit."""
        number = next(self._numbers)
        body = b"%d" % number
        try:
            self._outbox.write([(f"event-{number}", body)])
            transaction.commit()
        except (OutboxUnavailable, BackendError, SQLAlchemyError):
            transaction.abort()
            return False
        self.committed.append(body)
        return True


@pytest.fixture
def writer(client: Any) -> Writer:
    """Kinto's part."""
    return Writer(client)


@asynccontextmanager
async def running(*relays: Relay) -> AsyncIterator[None]:
    """The relays of a worker, or of several."""
    stopping = asyncio.Event()
    tasks = [asyncio.create_task(relay.run(stopping)) for relay in relays]
    try:
        yield
    finally:
        stopping.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 30)


async def logged(queue: Queue) -> list[bytes]:
    """The bodies in the log, in its order."""
    entries = await queue.read_log(START_OF_LOG, 100_000)
    return [entry.body for entry in entries]


def arrival(queue: Queue, expected: list[bytes]) -> Callable[[], Awaitable[bool]]:
    """Whether everything expected is in the log."""

    async def arrived() -> bool:
        with contextlib.suppress(QueueUnavailable):
            return set(expected) <= set(await logged(queue))
        return False

    return arrived


async def arrived(queue: Queue, writer: Writer, timeout_seconds: float = 20.0) -> list[bytes]:
    """The log, once it has everything that was committed."""
    has_all = arrival(queue, writer.committed)
    await eventually_async(has_all, "the log to have all events", timeout_seconds)
    return await logged(queue)


# --- the ordinary way --------------------------------------------------------------------


async def test_committed_events_reach_the_log_in_order(
    relay: Relay, queue: Queue, writer: Writer
) -> None:
    """What was committed is in the log once, oldest first, and waits no longer."""
    for _ in range(5):
        writer.write()
    assert await relay.waiting() == 5
    assert await relay.check_mark() == 0
    assert await relay.relay_once() == 5
    assert await relay.relay_once() == 0
    assert await relay.waiting() == 0
    assert await logged(queue) == writer.committed


async def test_a_running_relay_is_there_at_once(
    relay: Relay, queue: Queue, writer: Writer
) -> None:
    """From the commit to the log it takes a fraction of a second, also after a quiet time."""
    delays = []
    async with running(relay):
        writer.write()
        await arrived(queue, writer)
        for _ in range(10):
            await asyncio.sleep(0.05)
            writer.write()
            committed_at = time.monotonic()
            await arrived(queue, writer)
            delays.append(time.monotonic() - committed_at)
    assert sorted(delays)[len(delays) // 2] < 0.2


async def test_a_late_commit_with_a_lower_id_reaches_the_log(
    client: Any, relay: Relay, queue: Queue, writer: Writer
) -> None:
    """A long transaction among short ones loses nothing (R23)."""
    written, may_commit = threading.Event(), threading.Event()

    def long_request() -> None:
        PostgresOutbox(client).write([("late", b"late")])
        written.set()
        may_commit.wait(30)
        transaction.commit()

    thread = threading.Thread(target=long_request)
    thread.start()
    async with running(relay):
        await asyncio.to_thread(written.wait, 10)
        for _ in range(3):
            writer.write()
        await arrived(queue, writer)
        assert b"late" not in await logged(queue)
        may_commit.set()
        writer.committed.append(b"late")
        await arrived(queue, writer)
        await asyncio.to_thread(thread.join)
    assert sorted(await logged(queue)) == sorted(writer.committed)


async def test_a_delete_of_10000_records_reaches_the_log(
    client: Any, relay: Relay, queue: Queue
) -> None:
    """A large event arrives whole."""
    old = {"text": "x" * 1000}
    changes = [make_change(object_id=str(number), old=old, new=None) for number in range(10_000)]
    event = make_event(action="delete", changes=tuple(changes))
    PostgresOutbox(client).write([(event.id, event.encode())])
    transaction.commit()
    await relay.check_mark()
    assert await relay.relay_once() == 1
    [body] = await logged(queue)
    assert Event.decode(body) == event


async def test_relays_side_by_side_bring_each_event_once(
    client: Any, settings: DispatchSettings, queue: Queue, writer: Writer
) -> None:
    """Any number of workers may run, and the log has no event twice."""
    relays = [open_relay(settings, queue, [LANE]) for _ in range(3)]
    async with running(*(relay for relay in relays if relay)):
        for _ in range(300):
            await asyncio.to_thread(writer.write)
        log = await arrived(queue, writer)
    assert sorted(log) == sorted(writer.committed)
    assert sum(relay.fed_again for relay in relays if relay) == 0


async def test_another_relay_takes_over_the_lead(
    client: Any, settings: DispatchSettings, queue: Queue, writer: Writer
) -> None:
    """When the relay that polls often is gone, events arrive all the same."""
    first, second = (open_relay(settings, queue, [LANE]) for _ in range(2))
    assert first is not None
    assert second is not None
    async with running(second):
        async with running(first):
            writer.write()
            await arrived(queue, writer)
        writer.write()
        assert sorted(await arrived(queue, writer)) == sorted(writer.committed)


def test_other_storages_have_no_relay(tmp_path: Path, queue_url: str) -> None:
    """Without a transaction to join there is no outbox to read."""
    settings = DispatchSettings(
        channels=(),
        queue_url=SecretStr(queue_url),
        queue_dir=tmp_path,
        storage_backend="kinto.core.storage.memory",
    )
    assert open_relay(settings, open_queue(settings)) is None


async def test_relayed_rows_are_forgotten_after_their_time(
    client: Any, postgresql_url: str, settings: DispatchSettings, queue: Queue, writer: Writer
) -> None:
    """The table does not grow for ever."""
    reader = PostgresOutboxReader(postgresql_url)
    short = DispatchSettings(channels=(), queue_dir=settings.queue_dir, outbox_keep_seconds=0.0)
    clock = Clock()
    relay = Relay(reader, queue, short, [LANE], clock)
    async with running(relay):
        writer.write()
        await arrived(queue, writer)
        clock.now += 61.0
        await eventually_async(lambda: _is_empty(postgresql_url), "the rows to be pruned")


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def _is_empty(url: str) -> bool:
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM kinto_dispatch_outbox")
            return bool(cursor.fetchone()[0] == 0)
    finally:
        connection.close()


# --- lanes that only Kinto knows ---------------------------------------------------------


class NewKinto(Writer):
    """Kinto with a channel in its ini that the worker's ini does not have yet."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self._outbox = PostgresOutbox(client, [LANE, "new"])
        self._numbers = count(100)


async def behind(queue: Queue, lane: str) -> list[bytes]:
    """What a lane still gets, asked by a worker that knows it."""
    cursor = (await queue.cursors([lane]))[lane]
    return [entry.body for entry in await queue.read_log(cursor, 100)]


async def test_a_channel_that_the_relay_does_not_know_gets_what_is_written(
    relay: Relay, queue: Queue, writer: Writer, client: Any
) -> None:
    """A worker with yesterday's ini relays: today's channel, whose worker comes later, gets what
    was written since Kinto knows it, and nothing from before."""
    writer.write()
    async with running(relay):
        await arrived(queue, writer)
        new = NewKinto(client)
        for _ in range(3):
            new.write()
        await arrived(queue, new)
    assert await behind(queue, "new") == new.committed


async def test_a_rolled_back_start_is_not_the_last_word(
    relay: Relay, queue: Queue, writer: Writer, client: Any
) -> None:
    """The first write of the new Kinto fails, others write meanwhile: none of its events is
    missed."""
    new = NewKinto(client)
    new._outbox.write([("lost", b"lost")])
    transaction.abort()
    writer.write()
    async with running(relay):
        await arrived(queue, writer)
        new.write()
        await arrived(queue, new)
    assert await behind(queue, "new") == new.committed


async def test_after_a_flush_such_a_channel_gets_what_is_fed_again(
    settings: DispatchSettings, queue: Queue, client: Any, valkey: LocalValkey
) -> None:
    """Also by a worker that started after the flush, and never saw the channel in its ini."""
    new = NewKinto(client)
    for _ in range(2):
        old_worker = open_queue(settings)
        relay = open_relay(settings, old_worker, [LANE])
        assert relay is not None
        async with running(relay):
            new.write()
            await arrived(old_worker, new)
        await old_worker.close()
        valkey.flush()
    last_worker = open_queue(settings)
    last_relay = open_relay(settings, last_worker, [LANE])
    assert last_relay is not None
    async with running(last_relay):
        await arrived(queue, new)
    await last_worker.close()
    assert sorted(await behind(queue, "new")) == sorted(new.committed)


async def test_a_channel_that_was_removed_holds_nothing(
    relay: Relay, queue: Queue, client: Any
) -> None:
    """Its name stays known, but its lane stays empty, and the log is forgotten all the same."""
    new = NewKinto(client)
    async with running(relay):
        new.write()
        await arrived(queue, new)
    (lane,) = await queue.status(["new"])
    assert (lane.waiting, lane.in_flight, lane.retry, lane.dead) == (0, 0, 0, 0)
    end = (await queue.read_log(START_OF_LOG, 100))[-1].id
    after_all = f"{int(end.partition('-')[0]) + 1}-0"
    await queue.trim_log(int(after_all.partition("-")[0]), after_all, 10**9)
    assert await logged(queue) == []


# --- a log that forgets ------------------------------------------------------------------


async def test_after_a_flush_everything_kept_is_fed_again(
    relay: Relay, queue: Queue, writer: Writer, valkey: LocalValkey, caplog: Any
) -> None:
    """FLUSHALL costs nothing that the outbox still has; it is counted and said once."""
    async with running(relay):
        for _ in range(3):
            writer.write()
        await arrived(queue, writer)
        valkey.flush()
        writer.write()
        log = await arrived(queue, writer)
    assert sorted(log) == sorted(writer.committed)
    assert relay.fed_again == 3
    assert [r.getMessage().split()[:2] for r in caplog.records if "fed_again" in r.message] == [
        ["relay.fed_again", "rows=3"]
    ]


async def test_after_a_flush_a_quiet_relay_notices_as_well(
    client: Any,
    postgresql_url: str,
    settings: DispatchSettings,
    queue: Queue,
    writer: Writer,
    valkey: LocalValkey,
) -> None:
    """Nobody has to write for the loss to be seen."""
    clock = Clock()
    relay = Relay(PostgresOutboxReader(postgresql_url), queue, settings, [LANE], clock)
    async with running(relay):
        writer.write()
        await arrived(queue, writer)
        valkey.flush()
        clock.now += 6.0
        assert await arrived(queue, writer) == writer.committed


async def test_after_a_flush_the_lanes_get_what_is_fed_again(
    relay: Relay, queue: Queue, writer: Writer, valkey: LocalValkey
) -> None:
    """A lane that the flush took away begins before the events that come again."""
    async with running(relay):
        writer.write()
        await arrived(queue, writer)
        valkey.flush()
        writer.write()
        await arrived(queue, writer)
    cursor = (await queue.cursors([LANE]))[LANE]
    behind = [entry.body for entry in await queue.read_log(cursor, 100)]
    assert sorted(behind) == sorted(writer.committed)


async def test_a_restored_backup_gets_only_what_it_lacks(
    relay: Relay, queue: Queue, writer: Writer, valkey: LocalValkey, tmp_path: Path
) -> None:
    """A lost tail is fed again and nothing else: the log ends up with each event once."""
    async with running(relay):
        for _ in range(3):
            writer.write()
        await arrived(queue, writer)
        valkey.stop()
        shutil.copytree(tmp_path / "appendonlydir", tmp_path / "backup")
        valkey.start()
        for _ in range(4):
            writer.write()
        await arrived(queue, writer)
        valkey.kill()
        shutil.rmtree(tmp_path / "appendonlydir")
        shutil.copytree(tmp_path / "backup", tmp_path / "appendonlydir")
        valkey.start()
        log = await arrived(queue, writer)
    assert sorted(log) == sorted(writer.committed)
    assert 1 <= relay.fed_again <= 4


async def test_a_loss_between_two_batches_cannot_hide(
    relay: Relay, queue: Queue, writer: Writer, valkey: LocalValkey
) -> None:
    """The batch after the loss is not appended before the lost ones are fed again."""
    writer.write()
    await relay.check_mark()
    await relay.relay_once()
    writer.write()
    valkey.flush()
    assert await relay.relay_once() == 0
    assert await logged(queue) == []
    assert await relay.relay_once() == 2
    assert await logged(queue) == writer.committed


# --- servers that go away ----------------------------------------------------------------


async def test_a_dead_queue_delays_and_loses_nothing(
    relay: Relay, queue: Queue, writer: Writer, valkey: LocalValkey
) -> None:
    """Requests go on while the queue is down; after its return the log has all of it once."""
    async with running(relay):
        writer.write()
        await arrived(queue, writer)
        valkey.kill()
        for _ in range(5):
            assert writer.write()
        await asyncio.sleep(0.5)
        valkey.start()
        assert sorted(await arrived(queue, writer)) == sorted(writer.committed)
    assert relay.fed_again == 0


async def test_a_frozen_queue_does_not_hold_rows_for_long(
    relay: Relay, queue: Queue, writer: Writer, valkey: LocalValkey, postgresql_url: str
) -> None:
    """While the queue does not answer, the transaction in PostgreSQL ends by itself."""
    async with running(relay):
        writer.write()
        await arrived(queue, writer)
        valkey.pause()
        writer.write()
        await eventually_async(lambda: _is_held(postgresql_url), "the batch to be held")

        async def is_free() -> bool:
            return not await _is_held(postgresql_url)

        await eventually_async(is_free, "the batch to be given back", 20)
        valkey.resume()
        assert sorted(await arrived(queue, writer)) == sorted(writer.committed)


async def _is_held(url: str) -> bool:
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'kinto-dispatch'"
                " AND state = 'idle in transaction'"
            )
            return bool(cursor.fetchone()[0])
    finally:
        connection.close()


async def test_postgresql_may_die_and_come_back(
    tmp_path: Path, settings: DispatchSettings, queue: Queue
) -> None:
    """After kill -9 of PostgreSQL every acknowledged commit reaches the log, each once."""
    with LocalPostgresql(tmp_path, durable=True) as server:
        url = server.create_database()
        client = open_storage(url)
        writer = Writer(client)
        relay = Relay(PostgresOutboxReader(url), queue, settings, [LANE])
        async with running(relay):
            for _ in range(3):
                for _ in range(20):
                    await asyncio.to_thread(writer.write)
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            log = await arrived(queue, writer)
        client.session_factory.get_bind().dispose()
    assert len(writer.committed) > 30
    assert len(log) == len(set(log))


async def test_a_frozen_postgresql_does_not_keep_the_worker(
    tmp_path: Path, settings: DispatchSettings, queue: Queue, monkeypatch: Any
) -> None:
    """A worker that has to end does so, whatever its database does."""
    with LocalPostgresql(tmp_path) as server:
        url = server.create_database()
        open_storage(url).session_factory.get_bind().dispose()
        relay = Relay(PostgresOutboxReader(url), queue, settings, [LANE])
        task = asyncio.create_task(relay.run(asyncio.Event()))
        await asyncio.sleep(0.3)
        server.pause()
        await asyncio.sleep(0.1)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        assert done
        server.resume()


async def test_the_outbox_may_come_up_later(
    tmp_path: Path, settings: DispatchSettings, queue: Queue, caplog: Any
) -> None:
    """A relay that starts before ``kinto migrate`` waits, says so once, and then works."""
    caplog.set_level(logging.WARNING)
    with LocalPostgresql(tmp_path) as server:
        url = server.create_database()
        relay = Relay(PostgresOutboxReader(url), queue, settings, [LANE])
        async with running(relay):
            await asyncio.sleep(0.5)
            client = open_storage(url)
            writer = Writer(client)
            writer.write()
            await arrived(queue, writer)
        client.session_factory.get_bind().dispose()
    waits = [record for record in caplog.records if "kinto migrate" in record.getMessage()]
    assert len(waits) == 1


# --- two Kintos ----------------------------------------------------------------------------------


async def test_two_outboxes_that_feed_one_log_are_told(
    relay: Relay,
    settings: DispatchSettings,
    queue: Queue,
    postgresql_server: LocalPostgresql,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two Kintos with one ``queue_prefix``: each relay says so once, with both names. Several
    relays of one outbox are nothing to talk about."""
    second = open_relay(settings, queue, [LANE])
    url = SecretStr(postgresql_server.create_database())
    client = open_storage(url.get_secret_value())
    other = open_relay(replace(settings, storage_url=url), queue, [LANE])
    assert second is not None
    assert other is not None
    try:
        for one in (relay, second, relay):
            await one._step()
        assert "relay.shared_log" not in caplog.text
        for _ in range(3):
            for one in (relay, other):
                one._check_due = 0.0
                await one._step()
        said = [line.getMessage() for line in caplog.records if "shared_log" in line.getMessage()]
        assert len(said) == 2
        assert all("give each its own queue_prefix" in line for line in said)
    finally:
        second.close()
        other.close()
        client.session_factory.get_bind().dispose()
