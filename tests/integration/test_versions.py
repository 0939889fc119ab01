"""Versions side by side: what older ones wrote is delivered, what newer ones write is delivered or
seen, and nothing of either gets lost.

``tests/wire/v1`` holds events as earlier states of the code wrote them, byte by byte, never to be
changed: ``first`` before hooks in metadata, ``subscriptions`` with them and with digests,
``names`` with events of other plugins. What is added to the wire adds files.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis.asyncio as redis

from kinto_dispatch.delivery import delivery_key
from kinto_dispatch.digest import RECORD_SEPARATOR, read_event, read_events
from kinto_dispatch.event import CHANGED, Event
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.streams import StreamsQueue
from kinto_dispatch.queue.values import Dead, Entry, Later, Settlement
from kinto_dispatch.testing.builders import make_event
from kinto_dispatch.testing.waiting import eventually, eventually_async


if TYPE_CHECKING:
    from tests.conftest import Deploy

CORPUS = Path(__file__).parents[1] / "wire" / "v1"
EVENTS = {f"{path.parent.name}-{path.stem}": path for path in sorted(CORPUS.glob("*/*.json"))}
DIGESTS = sorted(CORPUS.glob("*/*.json-seq"))

DEFAULTS = {"subscriptions": [], "skipped": 0, "name": CHANGED}
"""What was added since the first of them, and how it is read where it is missing."""

NEWER = {"weather": "fine", "since": {"version": 7, "of": ["these"]}, "group": 5}
"""Fields that no release knows yet."""


def plain(event: Event) -> dict[str, Any]:
    """Every field as JSON has it, whether or not it is written."""
    fields = {name: getattr(event, name) for name in Event.__struct_fields__}
    fields["changes"] = [
        {name: getattr(change, name) for name in change.__struct_fields__}
        for change in event.changes
    ]
    fields["subscriptions"] = json.loads(event.encode()).get("subscriptions", [])
    found: dict[str, Any] = json.loads(json.dumps(fields))
    return found


def newer(body: bytes) -> bytes:
    """The same event as a later release may write it: with more in every place."""
    event = json.loads(body)
    for part in (event, *event["changes"], *event.get("subscriptions", ())):
        part.update(NEWER)
    return json.dumps(event).encode()


# --- on the wire ---------------------------------------------------------------------------------


def test_the_corpus_is_there() -> None:
    """Else everything below would show nothing."""
    assert len(EVENTS) >= 17
    assert len(DIGESTS) >= 1


@pytest.mark.parametrize("name", EVENTS)
def test_what_earlier_code_wrote_is_read(name: str) -> None:
    """Every field of it, as it was written; what was added since has its default. What is written
    of it now is the same event (R29)."""
    body = EVENTS[name].read_bytes()
    written = json.loads(body)
    assert written.pop("v") == 1
    event = Event.decode(body)
    assert event.id == name
    assert plain(event) == {**DEFAULTS, **written}
    assert Event.decode(event.encode()) == event


@pytest.mark.parametrize("path", DIGESTS, ids=lambda path: path.parent.name)
def test_digests_of_earlier_code_are_read(path: Path) -> None:
    """As one event with the changes of all (R29)."""
    body = path.read_bytes()
    written = [json.loads(text) for text in body.split(RECORD_SEPARATOR)[1:]]
    assert [event.id for event in read_events(body)] == [one["id"] for one in written]
    assert len(read_event(body).changes) == sum(len(one["changes"]) for one in written)


@pytest.mark.parametrize("name", EVENTS)
def test_fields_of_later_code_are_passed_over(name: str) -> None:
    """Wherever they stand in an event: it is the same event without them (R29)."""
    body = EVENTS[name].read_bytes()
    assert Event.decode(newer(body)) == Event.decode(body)


# --- through a worker ----------------------------------------------------------------------------


def test_all_of_it_is_delivered_or_seen(deploy: Deploy) -> None:
    """By a worker of today: what is of its version is delivered once, with fields that it does not
    know or without; what is of a later version waits as a dead letter, whole (R29)."""
    actions = "create update delete read"
    deployment = deploy({"ops": {"events": "*", "actions": actions}}, actions=actions)
    bodies = [path.read_bytes() for path in EVENTS.values()]
    with_more = [newer(body.replace(b'"first-', b'"newer-')) for body in bodies[:5]]
    later = json.dumps({**json.loads(make_event(id="later").encode()), "v": 2, **NEWER}).encode()
    sent = [*bodies, *with_more]
    ids = {Event.decode(body).id for body in sent}
    digest = DIGESTS[0].read_bytes()

    async def write(queue: Queue) -> None:
        await queue.append([(str(number), body) for number, body in enumerate([*sent, later])])
        await queue.enqueue("ops", [Entry("digest:ops", digest), Entry("later-2:ops", later)])

    deployment.with_queue(write)
    keys = {*(delivery_key(one, "ops") for one in ids), "digest:ops"}
    with deployment.worker():
        eventually(lambda: keys <= {one["key"] for one in deployment.done()}, "all to arrive", 60)
        eventually(lambda: len(deployment.dead_letters()) == 2, "the later ones to be seen", 60)
        eventually(deployment.is_idle, "the lane to be empty", 60)
    delivered = [line["key"] for line in deployment.done()]
    assert sorted(delivered) == sorted(set(delivered))
    for letter in deployment.dead_letters():
        assert (letter.kind, letter.body) == ("failed", later)
        assert "Not an event of a known version" in letter.reason


# --- in the lanes --------------------------------------------------------------------------------


@pytest.fixture
async def queue(queue_url: str) -> AsyncIterator[StreamsQueue]:
    """An empty queue with a lane."""
    queue = StreamsQueue(lambda: queue_url, "kd", ("ops",))
    await queue.register(["ops"])
    yield queue
    await queue.close()


async def write_newer_entry(url: str) -> dict[bytes, bytes]:
    """An entry as a later release may write it: a flag and a field more."""
    fields = {b"key": b"k", b"body": b"b", b"attempt": b"3", b"flags": b"replay brisk"}
    written = {**fields, b"hue": b"blue"}
    async with redis.Redis.from_url(url) as client:
        await client.xadd("kd:{lane:ops}:stream", written)
    return written


async def entry_in_lane(url: str) -> dict[bytes, bytes]:
    """The only entry in the lane."""
    async with redis.Redis.from_url(url) as client:
        ((_, fields),) = await client.xrange("kd:{lane:ops}:stream")
    found: dict[bytes, bytes] = fields
    return found


async def put_off(queue: StreamsQueue) -> None:
    """What an older worker does with it: claim it, settle it for later, promote it."""
    (claim,) = await queue.fetch("ops", "older", 9, 0)
    assert (claim.key, claim.body, claim.attempt, claim.replay) == ("k", b"b", 3, True)
    assert await queue.settle("ops", [Settlement(claim, Later(0, 4), b"")]) == [True]

    async def is_back() -> bool:
        return (await queue.promote("ops", 9))[0] == 1

    await eventually_async(is_back, "it to be due")


async def give_back(queue: StreamsQueue) -> None:
    """What an older worker does that is stopped: claim it, and give it back."""
    await queue.release("ops", await queue.fetch("ops", "older", 9, 0))


@pytest.mark.parametrize(("way", "attempt"), [(put_off, b"4"), (give_back, b"3")])
async def test_entries_of_later_code_stay_what_they_are(
    queue: StreamsQueue, queue_url: str, way: Any, attempt: bytes
) -> None:
    """An older worker delivers them, puts them off and gives them back, with flags that it does
    not know (R29)."""
    written = await write_newer_entry(queue_url)
    await way(queue)
    found = await entry_in_lane(queue_url)
    known = {name: written[name] for name in (b"key", b"body")}
    assert {name: found[name] for name in known} == known
    assert found[b"attempt"] == attempt
    assert set(found[b"flags"].split()) == {b"replay", b"brisk"}


async def bury_and_replay(queue: StreamsQueue) -> None:
    """It dies, and a person replays it."""
    (claim,) = await queue.fetch("ops", "a", 1, 0)
    await queue.settle("ops", [Settlement(claim, Dead("refused", "no"), b"{}")])
    assert await queue.replay_dead("ops", await queue.dead_letters("ops")) == 1


@pytest.mark.parametrize("way", [put_off, give_back, bury_and_replay])
async def test_fields_of_later_code_stay_in_an_entry(
    queue: StreamsQueue, queue_url: str, way: Any
) -> None:
    """Else what a newer worker wrote there would be gone when an older one had put it off."""
    written = await write_newer_entry(queue_url)
    await way(queue)
    assert (await entry_in_lane(queue_url)).get(b"hue") == written[b"hue"]
