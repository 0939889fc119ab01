"""A queue by its settings: the embedded server, or one of one's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from kinto_dispatch.errors import QueueUnavailable
from kinto_dispatch.queue import open_log, open_queue, queue_location
from kinto_dispatch.queue.embedded import stop_server
from kinto_dispatch.queue.protocol import Log
from kinto_dispatch.queue.values import START_OF_LOG
from kinto_dispatch.settings import DispatchSettings
from kinto_dispatch.testing.waiting import eventually


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[DispatchSettings]:
    """An ini without queue_url."""
    directory = tmp_path / "queue"
    yield DispatchSettings(channels=(), queue_dir=directory)
    if directory.exists():
        stop_server(directory)


def append(log: Log, number: int) -> bool:
    try:
        log.append([(f"event-{number}", b"%d" % number)])
    except QueueUnavailable:
        return False
    return True


async def test_opening_starts_nothing(embedded: DispatchSettings) -> None:
    """Neither a server nor a connection is there before something is asked."""
    log, queue = open_log(embedded, ("ops",)), open_queue(embedded)
    log.close()
    await queue.close()
    assert not embedded.queue_dir.exists()
    assert queue_location(embedded) == f"embedded in {embedded.queue_dir}"


async def test_both_sides_meet_at_the_embedded_server(embedded: DispatchSettings) -> None:
    """Who comes first starts it; when it has ended, the next call starts it again, with all that
    it had."""
    log, queue = open_log(embedded, ("ops",)), open_queue(embedded)
    assert await asyncio.to_thread(eventually, lambda: append(log, 0), "the server to start")
    assert [entry.body for entry in await queue.read_log(START_OF_LOG, 9)] == [b"0"]
    await asyncio.to_thread(stop_server, embedded.queue_dir)
    with pytest.raises(QueueUnavailable):
        await queue.mark()
    assert [entry.body for entry in await queue.read_log(START_OF_LOG, 9)] == [b"0"]
    assert await asyncio.to_thread(eventually, lambda: append(log, 1), "the log to go on")
    assert len(await queue.read_log(START_OF_LOG, 9)) == 2
    log.close()
    await queue.close()


async def test_a_server_of_ones_own_is_taken_by_its_url(queue_url: str, tmp_path: Path) -> None:
    """Queues with another prefix share a server without seeing one another."""
    ours = DispatchSettings(channels=(), queue_url=SecretStr(queue_url), queue_dir=tmp_path)
    theirs = DispatchSettings(
        channels=(), queue_url=SecretStr(queue_url), queue_dir=tmp_path, queue_prefix="theirs"
    )
    log, queue, other = open_log(ours, ("ops",)), open_queue(ours), open_queue(theirs)
    log.append([("event", b"0")])
    assert len(await queue.read_log(START_OF_LOG, 9)) == 1
    assert await other.read_log(START_OF_LOG, 9) == []
    assert queue_location(ours) == queue_url
    log.close()
    await queue.close()
    await other.close()
