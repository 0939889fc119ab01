"""What still waits anywhere between Kinto and the channels, asked of the servers themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

from kinto_dispatch.digest import read_event
from kinto_dispatch.errors import OutboxUnavailable, QueueUnavailable
from kinto_dispatch.outbox.reader import PostgresOutboxReader
from kinto_dispatch.plugins import configure
from kinto_dispatch.queue import open_queue
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.values import START_OF_LOG
from tests.chaos.ledger import DeadLetter
from tests.chaos.recorder import op_of
from tests.chaos.settings import CHANNELS


def look(settings: Mapping[str, str]) -> tuple[bool, Sequence[DeadLetter]]:
    """Whether nothing waits in the outbox, in the log and in the lanes; and the dead letters."""
    return asyncio.run(_look(settings))


async def _look(settings: Mapping[str, str]) -> tuple[bool, Sequence[DeadLetter]]:
    reader = PostgresOutboxReader(settings["kinto.storage_url"])
    queue = open_queue(configure(settings).settings)
    try:
        waiting = (await asyncio.to_thread(reader.status)).waiting
        return not waiting and await _is_idle(queue), [
            letter for lane in CHANNELS async for letter in _dead_letters(queue, lane)
        ]
    except (OutboxUnavailable, QueueUnavailable):
        return False, []
    finally:
        reader.close()
        await queue.close()


async def _is_idle(queue: Queue) -> bool:
    # The oldest is also that in the log which has not been routed yet.
    return not any(
        lane.waiting
        or lane.in_flight
        or lane.retry
        or lane.collecting
        or lane.oldest_waiting_seconds is not None
        for lane in await queue.status(list(CHANNELS))
    )


async def _dead_letters(queue: Queue, lane: str) -> AsyncIterator[DeadLetter]:
    after = START_OF_LOG
    while page := await queue.dead_letters(lane, after):
        for letter in page:
            yield DeadLetter(
                channel=lane,
                key=letter.key,
                kind=letter.kind,
                reason=letter.reason,
                ops=tuple(map(op_of, read_event(letter.body).changes)),
            )
        after = page[-1].id
