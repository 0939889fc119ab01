"""Digests: deliveries that are collected into one, and versions that newer ones replace."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kinto_dispatch.queue.streams import StreamsQueue
from kinto_dispatch.queue.values import (
    START_OF_LOG,
    Claim,
    Dead,
    Digesting,
    Done,
    Entry,
    Fate,
    Later,
    Settlement,
)
from kinto_dispatch.testing.waiting import eventually_async


AT_ONCE = Digesting(0.0)
LATEST = Digesting(0.0, only_latest=True)
LONG = Digesting(3600.0)
STREAM = "kd:{lane:ops}:stream"


async def collect(
    queue: StreamsQueue, digesting: Digesting, *keys: str, digest: str = "record", size: int = 1
) -> None:
    """Route these deliveries, whose bodies are their keys, so many times."""
    await queue.register(["ops"])
    stands = (await queue.cursors(["ops"]))["ops"]
    entries = [Entry(key, key.encode() * size, digest=digest) for key in keys]
    upto = f"{int(stands.partition('-')[0]) + 1}-0"
    assert await queue.route("ops", stands, upto, entries, [], digesting=digesting) == upto


async def fetch(queue: StreamsQueue) -> Sequence[Claim]:
    return await queue.fetch("ops", "a", 99, 0)


async def settle(queue: StreamsQueue, claim: Claim, fate: Fate) -> bool:
    (counted,) = await queue.settle("ops", [Settlement(claim, fate, b"{}")])
    return counted


async def bodies_after(queue: StreamsQueue, claim: Claim) -> Sequence[bytes]:
    """What comes once this one is delivered, each after the one before it."""
    bodies = []
    while await settle(queue, claim, Done()) and (found := await fetch(queue)):
        (claim,) = found
        bodies.append(claim.body)
    return bodies


async def notes(queue: StreamsQueue) -> list[tuple[str, str, str]]:
    """Which deliveries became a part of which others."""
    found = [json.loads(record) for _, record in await queue.attempts("ops")]
    return [(one["key"], one["outcome"], one["into"]) for one in found if one]


async def collecting(queue: StreamsQueue) -> int:
    (lane,) = await queue.status(["ops"])
    return lane.collecting


async def test_what_comes_in_time_becomes_one_delivery(queue: StreamsQueue) -> None:
    """The time begins with the first; the body is a sequence of all events, in order (RFC 7464),
    and each has a record that says where it went."""
    window = Digesting(1.5)
    await collect(queue, window, "e1:ops", "e2:ops")
    await collect(queue, window, "e3:ops")
    assert await fetch(queue) == []
    assert await collecting(queue) == 1
    moved, next_due = await queue.promote("ops", 10)
    assert (moved, 0 < (next_due or 0) <= 1.5) == (0, True)

    async def is_due() -> bool:
        return (await queue.promote("ops", 10))[0] == 1

    await eventually_async(is_due, "the digest to be due")
    (claim,) = await fetch(queue)
    assert claim.key == "e3:ops:digest"
    assert claim.body == b"\x1ee1:ops\n\x1ee2:ops\n\x1ee3:ops\n"
    assert (claim.attempt, claim.skipped) == (1, 0)
    assert await notes(queue) == [(f"e{n}:ops", "joined", "e3:ops:digest") for n in (1, 2, 3)]
    assert await collecting(queue) == 0


async def test_a_digest_of_one_is_that_delivery(queue: StreamsQueue) -> None:
    """With its own key and body, and no record of having become something else."""
    await collect(queue, AT_ONCE, "e1:ops")
    (claim,) = await fetch(queue)
    assert (claim.key, claim.body) == ("e1:ops", b"e1:ops")
    assert await notes(queue) == []


async def test_digests_of_other_names_are_others(queue: StreamsQueue) -> None:
    """They are collected side by side."""
    await collect(queue, AT_ONCE, "e1:ops", digest="/a")
    await collect(queue, AT_ONCE, "e2:ops", digest="/b")
    assert [claim.key for claim in await fetch(queue)] == ["e1:ops", "e2:ops"]


async def test_no_delivery_overtakes_an_older_one_of_its_digest(queue: StreamsQueue) -> None:
    """What comes while one is in the lane waits until that has left it, delivered or dead."""
    await collect(queue, AT_ONCE, "e1:ops")
    (first,) = await fetch(queue)
    await collect(queue, AT_ONCE, "e2:ops", "e3:ops")
    assert await queue.promote("ops", 10) == (0, None)
    assert await settle(queue, first, Later(0.0, 2))
    assert (await queue.promote("ops", 10))[0] == 1
    (again,) = await fetch(queue)
    assert (again.key, again.attempt) == ("e1:ops", 2)
    assert await settle(queue, again, Dead("refused", "no"))
    (joined,) = await fetch(queue)
    assert joined.key == "e3:ops:digest"
    assert await settle(queue, joined, Done())
    await collect(queue, AT_ONCE, "e4:ops")
    assert [claim.key for claim in await fetch(queue)] == ["e4:ops"]


async def test_time_goes_on_while_one_is_in_the_lane(queue: StreamsQueue) -> None:
    """The next is due when its own first member has waited, and not a moment later."""
    await collect(queue, AT_ONCE, "e1:ops")
    (first,) = await fetch(queue)
    await collect(queue, LONG, "e2:ops")
    assert await settle(queue, first, Done())
    assert await fetch(queue) == []
    moved, next_due = await queue.promote("ops", 10)
    assert moved == 0
    assert 3500 < (next_due or 0) <= 3600


async def test_only_the_latest_version_counts(queue: StreamsQueue) -> None:
    """Those before it are skipped, and it says how many; each skipped one has a record."""
    await collect(queue, LATEST, "v1", "v2", "v3", "v4")
    (first,) = await fetch(queue)
    assert (first.key, first.skipped) == ("v1", 0)
    assert await settle(queue, first, Done())
    (last,) = await fetch(queue)
    assert (last.key, last.body, last.skipped) == ("v4", b"v4", 2)
    assert await notes(queue) == [("v2", "skipped", "v3"), ("v3", "skipped", "v4")]
    assert await settle(queue, last, Done())
    assert await fetch(queue) == []


async def test_a_newer_version_takes_the_place_of_one_that_is_to_be_retried(
    queue: StreamsQueue,
) -> None:
    """At its next attempt, as a delivery of its own: a destination that was away gets the latest
    only."""
    await collect(queue, LATEST, "v1")
    (first,) = await fetch(queue)
    await collect(queue, LATEST, "v2", "v3")
    assert await settle(queue, first, Later(0.0, 2))
    assert (await queue.promote("ops", 10))[0] == 1
    (newest,) = await fetch(queue)
    assert (newest.key, newest.attempt, newest.skipped) == ("v3", 1, 2)
    assert ("v1", "skipped", "v3") in await notes(queue)
    assert await settle(queue, newest, Later(0.0, 2))
    assert (await queue.promote("ops", 10))[0] == 1
    (again,) = await fetch(queue)
    assert (again.key, again.attempt, again.skipped) == ("v3", 2, 2)
    assert await settle(queue, again, Done())
    assert await fetch(queue) == []


async def test_a_claim_that_is_given_back_keeps_its_place(queue: StreamsQueue) -> None:
    """Released or taken over from a dead worker, it is the same delivery of the same digest."""
    await collect(queue, LATEST, "v1")
    (claim,) = await fetch(queue)
    await collect(queue, LATEST, "v2", "v3")
    await queue.release("ops", [claim])
    (claim,) = await fetch(queue)
    assert claim.key == "v1"
    assert await settle(queue, claim, Done())
    (claim,) = await fetch(queue)
    assert (claim.key, claim.skipped) == ("v3", 1)
    await queue.release("ops", [claim])
    (claim,) = await fetch(queue)
    assert (claim.key, claim.skipped) == ("v3", 1)


async def test_a_late_success_closes_a_digest_that_waits_for_its_retry(
    queue: StreamsQueue,
) -> None:
    """The retry is called off, and the next delivery opens."""
    await collect(queue, AT_ONCE, "e1:ops")
    (claim,) = await fetch(queue)
    await collect(queue, AT_ONCE, "e2:ops")
    assert await settle(queue, claim, Later(3600.0, 2))
    assert await settle(queue, claim, Done())
    assert [claim.key for claim in await fetch(queue)] == ["e2:ops"]


async def test_a_digest_is_bounded(queue: StreamsQueue) -> None:
    """At most 500 events and about a megabyte; the rest is for the next."""
    await collect(queue, AT_ONCE, "first")
    (claim,) = await fetch(queue)
    await collect(queue, AT_ONCE, *(f"e{number}" for number in range(1200)))
    counts = [body.count(b"\x1e") for body in await bodies_after(queue, claim)]
    assert counts == [500, 500, 200]


async def test_a_digest_is_bounded_in_bytes_too(queue: StreamsQueue) -> None:
    """What is larger than that comes alone, rather than never."""
    await collect(queue, AT_ONCE, "first")
    (claim,) = await fetch(queue)
    await collect(queue, AT_ONCE, *(f"e{number}" for number in range(5)), size=200_000)
    await collect(queue, AT_ONCE, "large", size=300_000)
    await collect(queue, AT_ONCE, "last")
    sizes = [len(body) // 100_000 for body in await bodies_after(queue, claim)]
    assert sizes == [8, 8, 4, 15, 0]


async def test_nothing_is_collected_twice_by_two_routers(queue: StreamsQueue) -> None:
    """The one that comes late changes nothing, as with any other delivery."""
    await collect(queue, LONG, "e1:ops")
    entry = Entry("e1:ops", b"", digest="record")
    await queue.route("ops", START_OF_LOG, "9-9", [entry], [], digesting=LONG)
    assert await collecting(queue) == 1


async def test_what_was_deleted_by_hand_holds_up_nothing(
    queue: StreamsQueue, server: redis.Redis
) -> None:
    """A delivery that is gone without being settled is noticed by the housekeeping."""
    await collect(queue, AT_ONCE, "e1:ops")
    await collect(queue, AT_ONCE, "e2:ops")
    server.delete(STREAM)
    assert await queue.prune("ops", 0, 0) == 0
    assert [claim.key for claim in await fetch(queue)] == ["e2:ops"]


async def test_a_digest_passes_where_memory_is_full(
    queue: StreamsQueue, server: redis.Redis
) -> None:
    """What is made into one delivery frees what it is made of; a lane never sticks for that."""
    await collect(queue, Digesting(0.5), *(f"e{number}" for number in range(20)))
    server.config_set("maxmemory", 1)
    try:
        found: list[Any] = []

        async def comes() -> bool:
            await queue.promote("ops", 10)
            found.extend(await fetch(queue))
            return bool(found)

        await eventually_async(comes, "the digest to be due")
        assert await settle(queue, found[0], Done())
    finally:
        server.config_set("maxmemory", 0)
    assert found[0].body.count(b"\x1e") == 20


# --- whatever happens in whatever order --------------------------------------------------


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("route"), st.sampled_from("ab"), st.integers(1, 4)),
        st.tuples(st.sampled_from(["promote", "fetch", "release", "reclaim"])),
        st.tuples(st.just("settle"), st.sampled_from(["done", "later", "dead"])),
    ),
    max_size=40,
)


class History:
    """A lane that collects, what is held of it, and everything that came out of it."""

    def __init__(self, queue: StreamsQueue, digesting: Digesting) -> None:
        self._queue = queue
        self._digesting = digesting
        self._held: list[Claim] = []
        self.routed: list[str] = []
        self.ended: list[list[str]] = []

    async def route(self, digest: str, count: int) -> None:
        """Deliveries ``a0``, ``a1``... or ``b7``, ``b8``..., each about the next version."""
        first = len(self.routed)
        keys = [f"{digest}{number}" for number in range(first, first + count)]
        self.routed += keys
        await collect(self._queue, self._digesting, *keys, digest=digest)

    async def promote(self) -> int:
        return (await self._queue.promote("ops", 3))[0]

    async def fetch(self) -> bool:
        found = await self._queue.fetch("ops", "a", 2, 0)
        self._held += found
        return bool(found)

    async def reclaim(self) -> None:
        """Another takes over what is held; what the one before does then is stale."""
        for claim in await self._queue.reclaim("ops", "b", 0.0, 99):
            self._held = [one for one in self._held if one.id != claim.id] + [claim]

    async def release(self) -> None:
        held, self._held = self._held, []
        await self._queue.release("ops", held)

    async def settle(self, how: str = "done") -> None:
        fates = {"done": Done(), "later": Later(0.0, 2), "dead": Dead("refused", "no")}
        for claim in self._held[:1]:
            self._held.remove(claim)
            if await settle(self._queue, claim, fates[how]) and how != "later":
                self.ended.append([text.strip() for text in claim.body.decode().split("\x1e")])

    async def end(self) -> None:
        """Deliver everything that is left."""
        while self._held or await self.fetch() or await self.promote():
            await self.settle()


@pytest.mark.parametrize("only_latest", [False, True])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_nothing_is_lost_repeated_or_overtaken(
    queue_url: str, only_latest: bool, steps: list[tuple[Any, ...]]
) -> None:
    """In whatever order things happen, each delivery ends once, by itself, within a digest, or
    skipped for a newer one, and those of one digest in the order in which they came."""

    async def play() -> None:
        queue = StreamsQueue(lambda: queue_url, f"kd-{uuid.uuid4()}", ("ops",))
        try:
            history = History(queue, Digesting(0.0, only_latest=only_latest))
            for verb, *arguments in steps:
                await getattr(history, verb)(*arguments)
            await history.end()
            ended = [key for keys in history.ended for key in keys if key]
            skipped = [key for key, outcome, _ in await notes(queue) if outcome == "skipped"]
            assert sorted([*ended, *skipped]) == sorted(history.routed)
            for digest in "ab":
                numbers = [int(key[1:]) for key in ended if key[0] == digest]
                assert numbers == sorted(numbers)
            assert skipped == [] or only_latest
            assert await collecting(queue) == 0
        finally:
            await queue.close()

    asyncio.run(play())
