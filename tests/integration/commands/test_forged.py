"""What somebody else wrote into the queue is data: it is not run, and harms nothing else."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kinto_dispatch.event import Event
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.values import Entry
from kinto_dispatch.testing.builders import make_change, make_event


if TYPE_CHECKING:
    from tests.integration.commands.conftest import Site


class Canary:
    """What unpickling it would do."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


def put_into_log(site: Site, *bodies: bytes) -> None:
    """Append these to the log, whatever they are."""
    entries = [(f"forged-{number}", body) for number, body in enumerate(bodies)]
    site.with_queue(lambda queue: queue.append(entries))


def put_into_lane(site: Site, *entries: Entry) -> None:
    """Put these into the lane of ``ops`` past the router."""

    async def work(queue: Queue) -> None:
        cursor = (await queue.cursors(["ops"]))["ops"]
        await queue.route("ops", cursor, cursor, entries, [])

    site.with_queue(work)


def outcomes(site: Site) -> list[tuple[str, str]]:
    """What came of each attempt of ``ops``."""
    result = site.run("attempts", "--channel", "ops", "--json")
    return [(row["key"], row["outcome"]) for row in json.loads(result.stdout or "[]")]


def test_payloads_that_run_code_are_not_run(site: Site) -> None:
    """Pickles and tagged YAML are bytes that are no event, in the log as in a lane (B21)."""
    canary = site.directory / "canary"
    bodies = [
        *(pickle.dumps(Canary(canary), protocol) for protocol in range(6)),
        f"!!python/object/apply:os.mkdir ['{canary}']".encode(),
        f'{{"py/reduce": [{{"py/function": "os.mkdir"}}, ["{canary}"]]}}'.encode(),
    ]
    put_into_log(site, *bodies)
    put_into_lane(site, *(Entry(f"lane-{n}:ops", body) for n, body in enumerate(bodies)))
    good = site.publish(id="good")
    site.work()
    assert not canary.exists()
    letters = site.json("dead", "list", "--channel", "ops")
    assert len(letters) == 2 * len(bodies)
    assert {letter["kind"] for letter in letters} == {"failed"}
    assert all("Not an event" in letter["reason"] for letter in letters)
    assert (f"{good.id}:ops", "delivered") in outcomes(site)


EVENT = json.loads(make_event(id="forged").encode())


@pytest.mark.parametrize(
    "over",
    [
        {"changes": "all"},
        {"changes": [{"uri": "/x"}]},
        {"timestamp": "now"},
        {"timestamp": None},
        {"id": 7},
        {"id": None},
        {"payload": []},
        {"v": 99},
        {"v": "1"},
        {"v": None},
    ],
    ids=str,
)
def test_what_is_no_event_of_ours_is_a_dead_letter(site: Site, over: dict[str, Any]) -> None:
    """By its schema and its version, before any channel sees it (B22)."""
    put_into_log(site, json.dumps({**EVENT, **over}).encode())
    site.work()
    (letter,) = site.json("dead", "list", "--channel", "ops")
    assert (letter["kind"], letter["attempts"]) == ("failed", 0)
    assert site.run("dead", "show", "--channel", "ops", "--event", letter["event_id"])


def test_forged_names_lead_nowhere(site: Site) -> None:
    """Ids and keys that look like paths, other channels or keys of Redis, extra fields, and
    attempts that nobody made are text of one delivery to the channel of its lane (B22)."""
    ids = ["../../etc/passwd", "kinto-dispatch:{lane:news}:stream", "a:news:0", "%s{0}\n\x1b[2J"]
    bodies = [json.dumps({**EVENT, "id": one, "channel": "news"}).encode() for one in ids]
    put_into_log(site, *bodies)
    put_into_lane(
        site,
        Entry("e:news", make_event(id="e").encode(), attempt=10**17),
        Entry("", make_event(id="f").encode()),
    )
    site.work()
    found = outcomes(site)
    assert sorted(key for key, _ in found) == sorted(
        [*(f"{one}:ops" for one in ids), "e:news", ""]
    )
    assert {outcome for _, outcome in found} == {"delivered"}
    assert site.json("dead", "list", "--channel", "news", code=3) == []
    text = site.run("attempts", "--channel", "ops").stdout
    assert "\x1b" not in text


def huge_number(body: bytes) -> bytes:
    """The timestamp with this many digits."""
    return body.replace(b"1453459942672", b"9" * 5_000)


@pytest.mark.parametrize(
    ("over", "is_event"),
    [
        ({"payload": {"text": "x" * 10_000_000}}, True),
        ({"payload": {"nul": "\x00", "half": "\ud800", "nan": float("nan")}}, True),
        ({"payload": {"n": 2**70, "m": -(2**70), "inf": float("inf")}}, True),
        ({"timestamp": 10**300}, True),
        ({"timestamp": -(10**300)}, True),
        ({"id": "\ud800"}, False),
    ],
    ids=["10 MB", "NUL, half, NaN", "large numbers", "late", "early", "half an id"],
)
def test_json_of_every_kind_passes_or_is_a_dead_letter(
    site: Site, over: dict[str, Any], is_event: bool
) -> None:
    """And explain can tell of it (B23)."""
    put_into_log(site, json.dumps({**EVENT, **over}).encode())
    site.work()
    assert outcomes(site) == ([("forged:ops", "delivered")] if is_event else [])
    if is_event:
        explained = site.json("explain", "forged")
        assert explained["channels"][0]["deliveries"][0]["state"] == "delivered"
        assert site.run("explain", make_change().uri, "--at", "2016-01-01").exit_code == 0
    else:
        assert len(site.json("dead", "list", "--channel", "ops")) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        make_event().encode().replace(b'"payload":{', b'"payload":{"a":' + b"[" * 100_000),
        huge_number(make_event().encode()),
        make_event().encode().replace(b"1453459942672", b"1e999"),
        make_event().encode().replace(b"Hello", b"\xff\xfe"),
        b"\xef\xbb\xbf\x00",
        b"",
    ],
    ids=["deep list", "deep object", "deep payload", "digits", "infinite", "bytes", "BOM", "none"],
)
def test_json_that_cannot_be_read_is_a_dead_letter(site: Site, body: bytes) -> None:
    """The next event is delivered all the same (B23)."""
    put_into_log(site, body)
    good = site.publish(id="good")
    site.work()
    assert outcomes(site) == [(f"{good.id}:ops", "delivered")]
    (letter,) = site.json("dead", "list", "--channel", "ops")
    assert letter["kind"] == "failed"
    assert len(letter["reason"]) < 1_000


def test_of_a_key_that_stands_twice_the_last_counts() -> None:
    """For every reader alike, so that no two judge different events (B23)."""
    body = make_event(id="first").encode()
    twice = body.replace(b'"id":"first"', b'"id":"first","id":"second"', 1)
    slow = twice.replace(b'"payload":{', b'"payload":{"n":' + b"9" * 400 + b",")
    assert Event.decode(twice).id == Event.decode(slow).id == "second"
