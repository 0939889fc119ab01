"""Where a kill -9 of a relay leaves the outbox and the log."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import transaction
from pydantic import SecretStr

from kinto_dispatch.errors import OutboxUnavailable
from kinto_dispatch.outbox.postgres import PostgresOutbox
from kinto_dispatch.outbox.reader import PostgresOutboxReader
from kinto_dispatch.queue import open_queue
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.values import START_OF_LOG
from kinto_dispatch.relay import Relay, open_relay
from kinto_dispatch.settings import DispatchSettings
from kinto_dispatch.testing.outbox import open_storage
from kinto_dispatch.testing.postgresql import LocalPostgresql
from kinto_dispatch.testing.waiting import eventually_async


pytestmark = pytest.mark.postgresql

LANE = "ops"
KILLS = 10
SEED = 20261122

RELAY_PROCESS = """
import asyncio, pathlib, sys
from pydantic import SecretStr
from kinto_dispatch.queue import open_queue
from kinto_dispatch.relay import open_relay
from kinto_dispatch.settings import DispatchSettings


async def main():
    settings = DispatchSettings(
        channels=(),
        queue_url=SecretStr(sys.argv[1]),
        queue_dir=pathlib.Path(sys.argv[3]),
        storage_backend="kinto.core.storage.postgresql",
        storage_url=SecretStr(sys.argv[2]),
    )
    await open_relay(settings, open_queue(settings), ["ops"]).run(asyncio.Event())


asyncio.run(main())
"""


@pytest.fixture
def client(postgresql_url: str) -> Iterator[Any]:
    """Kinto's storage client on a migrated database."""
    client = open_storage(postgresql_url)
    yield client
    transaction.abort()
    client.session_factory.get_bind().dispose()


@pytest.fixture
def settings(postgresql_url: str, queue_url: str, tmp_path: Path) -> DispatchSettings:
    """What the ini of a Kinto with PostgreSQL says."""
    return DispatchSettings(
        channels=(),
        queue_url=SecretStr(queue_url),
        queue_dir=tmp_path,
        storage_backend="kinto.core.storage.postgresql",
        storage_url=SecretStr(postgresql_url),
    )


@pytest.fixture
async def queue(settings: DispatchSettings) -> AsyncIterator[Queue]:
    """The worker's side of the queue, with a lane."""
    queue = open_queue(settings)
    await queue.register([LANE])
    yield queue
    await queue.close()


@pytest.fixture
def dying(client: Any, postgresql_url: str) -> Iterator[PostgresOutboxReader]:
    """The connection of a relay that will not live long."""
    reader = PostgresOutboxReader(postgresql_url)
    yield reader
    reader.close()


@pytest.fixture
def relay(client: Any, settings: DispatchSettings, queue: Queue) -> Iterator[Relay]:
    """The relay that comes after."""
    relay = open_relay(settings, queue, [LANE])
    assert relay is not None
    yield relay
    relay.close()


def commit(client: Any, *bodies: bytes) -> None:
    """One request that writes these events."""
    PostgresOutbox(client).write([(f"event-{body.decode()}", body) for body in bodies])
    transaction.commit()


async def logged(queue: Queue) -> list[bytes]:
    """The bodies in the log, in its order."""
    return [entry.body for entry in await queue.read_log(START_OF_LOG, 100_000)]


async def relay_all(relay: Relay) -> None:
    """Relay until nothing waits."""

    async def nothing_waits() -> bool:
        await relay.relay_once()
        return await relay.waiting() == 0

    await eventually_async(nothing_waits, "everything to be relayed")


async def test_death_before_the_append_leaves_the_rows_to_others(
    client: Any, dying: PostgresOutboxReader, relay: Relay, queue: Queue
) -> None:
    """Rows that were only taken are relayed by the next relay."""
    commit(client, b"1", b"2")
    dying.take(100)
    dying.close()
    await relay_all(relay)
    assert await logged(queue) == [b"1", b"2"]


async def test_death_between_append_and_commit_leaves_each_event_once(
    client: Any, dying: PostgresOutboxReader, relay: Relay, queue: Queue
) -> None:
    """What was appended but not marked is appended again, and the log has it once."""
    commit(client, b"1", b"2")
    batch = dying.take(100)
    assert await queue.append(batch.events, batch.mark)
    dying.close()
    commit(client, b"3")
    await relay_all(relay)
    assert await logged(queue) == [b"1", b"2", b"3"]
    assert relay.fed_again == 0


async def test_a_relay_that_lost_its_batch_can_neither_mark_nor_append_it(
    client: Any, dying: PostgresOutboxReader, relay: Relay, queue: Queue
) -> None:
    """A relay that slept while others went on changes nothing when it wakes up."""
    commit(client, b"1")
    batch = dying.take(100)
    dying.close()
    await relay_all(relay)
    _, mark = await queue.mark()
    assert not await queue.append(batch.events, batch.mark)
    assert (await queue.mark())[1] == mark
    with pytest.raises(OutboxUnavailable):
        dying.relayed()
    assert await logged(queue) == [b"1"]


async def test_a_late_append_of_a_dead_relay_is_no_loss(
    client: Any, dying: PostgresOutboxReader, relay: Relay, queue: Queue
) -> None:
    """An append that arrives after its relay's death neither doubles nor hides anything."""
    commit(client, b"1")
    await relay_all(relay)
    _, mark = await queue.mark()
    commit(client, b"2")
    batch = dying.take(100)
    dying.close()
    assert await queue.append(batch.events, batch.mark, after=mark)
    commit(client, b"3")
    await relay_all(relay)
    assert await logged(queue) == [b"1", b"2", b"3"]
    assert relay.fed_again == 0


async def test_a_frozen_relay_loses_its_rows_after_15_seconds(
    client: Any, dying: PostgresOutboxReader, relay: Relay, queue: Queue
) -> None:
    """A relay that hangs inside a batch does not keep the others from relaying."""
    commit(client, b"1")
    dying.take(100)

    async def relayed() -> bool:
        return await relay.relay_once() == 1

    await eventually_async(relayed, "the rows to be free", timeout_seconds=25)
    with pytest.raises(OutboxUnavailable):
        dying.relayed()
    assert await logged(queue) == [b"1"]


async def test_a_crash_of_postgresql_never_gives_a_mark_twice(
    tmp_path: Path, settings: DispatchSettings, queue: Queue
) -> None:
    """What PostgreSQL forgets in a crash is not taken for a repeat: rows that came later are
    appended, not skipped as part of the batch before the crash."""
    with LocalPostgresql(tmp_path, durable=True) as server:
        url = server.create_database()
        client = open_storage(url)
        commit(client, b"1")
        dying = PostgresOutboxReader(url)
        batch = dying.take(100)
        assert await queue.append(batch.events, batch.mark)
        server.kill()
        dying.close()
        client.session_factory.get_bind().dispose()
        server.start()
        commit(client, b"2")
        relay = Relay(PostgresOutboxReader(url), queue, settings, [LANE])
        await relay_all(relay)
        relay.close()
        client.session_factory.get_bind().dispose()
    assert await logged(queue) == [b"1", b"2"]


@asynccontextmanager
async def relay_process(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A relay in a process of its own, killed at the end without a word."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "ignore", "-c", RELAY_PROCESS, *arguments
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        await process.wait()


async def test_killed_again_and_again_each_event_arrives_once(
    client: Any, postgresql_url: str, queue_url: str, tmp_path: Path, relay: Relay, queue: Queue
) -> None:
    """Under load, after many kills at any moment, the log is the set of what was committed."""
    chance = random.Random(SEED)
    committed: list[bytes] = []
    writing = True

    def write() -> None:
        while writing:
            body = b"%d" % len(committed)
            commit(client, body)
            committed.append(body)

    writer = asyncio.create_task(asyncio.to_thread(write))
    try:
        for _ in range(KILLS):
            before = len(await logged(queue))
            async with relay_process(queue_url, postgresql_url, str(tmp_path)):

                async def at_work(before: int = before) -> bool:
                    return len(await logged(queue)) > before

                await eventually_async(at_work, "the relay to be at work", 30)
                await asyncio.sleep(chance.uniform(0, 0.05))
    finally:
        writing = False
        await writer
    await relay_all(relay)
    assert sorted(await logged(queue)) == sorted(committed)
