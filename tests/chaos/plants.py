"""What may be broken on purpose in the workers of a run, to see that the ledger notices.

Each is called in a worker process before it starts. The product knows nothing of them.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from sqlalchemy import text

from kinto_dispatch import relay
from kinto_dispatch.event import Event
from kinto_dispatch.outbox import reader
from kinto_dispatch.queue import commands
from kinto_dispatch.queue.keys import GROUP
from kinto_dispatch.queue.lanes import LanesPart
from kinto_dispatch.queue.values import Entry, Later, Settlement
from kinto_dispatch.router import judging


EVERY = 40
"""Of so many deliveries that are routed, one is tampered with."""

HOLD_SECONDS = 0.3


def drop() -> None:
    """A delivery never gets to its lane."""
    _tamper(lambda entry: [])


def duplicate() -> None:
    """A delivery gets to its lane twice."""
    _tamper(lambda entry: [entry, entry])


def invent() -> None:
    """A delivery of something that nobody wrote gets to a lane."""
    _tamper(lambda entry: [entry, _made_up(entry)])


def relay_deletes_first() -> None:
    """The relay forgets its rows before the log has them."""
    reader.MARK_RELAYED = text("DELETE FROM kinto_dispatch_outbox WHERE id = ANY(:ids)")

    async def relay_batch(self: Any) -> int:
        batch = await self._call(self._reader.take, relay.BATCH_EVENTS)
        if batch.events:
            await self._call(self._reader.relayed)
            await asyncio.sleep(HOLD_SECONDS)
            await self._queue.append(batch.events)
        return len(batch.events)

    relay.Relay._relay_batch = relay_batch


def settle_without_fence() -> None:
    """A retry is scheduled by whoever asks, whether or not he still holds the delivery."""
    settle = LanesPart.settle

    async def unfenced(self: Any, lane: str, settlements: Sequence[Settlement]) -> list[bool]:
        counted = list(await settle(self, lane, settlements))
        keys = self._keys(lane)
        for place, settlement in enumerate(settlements):
            if not counted[place] and isinstance(settlement.fate, Later):
                entry = Entry(settlement.claim.key, settlement.claim.body, settlement.fate.attempt)
                await self._wire.run(
                    ("XACK", keys.stream, GROUP, settlement.claim.id),
                    ("XDEL", keys.stream, settlement.claim.id),
                    commands.enqueue(keys, entry),
                )
                counted[place] = True
        return counted

    LanesPart.settle = unfenced


def _tamper(tampered: Callable[[Entry], list[Entry]]) -> None:
    select = judging.select
    numbers: Iterator[int] = itertools.count(1)

    def tampering(channel: Any, decoded: Any) -> tuple[list[Entry], Any]:
        entries, dead = select(channel, decoded)
        changed = [tampered(entry) if next(numbers) % EVERY == 0 else [entry] for entry in entries]
        return list(itertools.chain.from_iterable(changed)), dead

    judging.select = tampering


def _made_up(entry: Entry) -> Entry:
    event = Event.decode(entry.body)
    changes = tuple(
        msgspec.structs.replace(change, new={"op": f"nobody-{change.object_id}"})
        for change in event.changes
    )
    body = msgspec.structs.replace(event, changes=changes).encode()
    return replace(entry, key=f"made-up-{entry.key}", body=body)


PLANTS: dict[str, Callable[[], None]] = {
    plant.__name__: plant
    for plant in (drop, duplicate, invent, relay_deletes_first, settle_without_fence)
}
