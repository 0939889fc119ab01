"""Events of other plugins of Kinto, in a real Kinto: told once, by name, and with their write.

The plugin is a stand-in for the signer of remote-settings, ``tests/plugin/review_plugin.py``.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyramid.exceptions import ConfigurationError

from kinto_dispatch import Event
from kinto_dispatch.cli.explain import channel_row, show_channel
from kinto_dispatch.event import CHANGED, Subscription
from kinto_dispatch.patience import Patience
from kinto_dispatch.plugins import Configuration, configure
from kinto_dispatch.queue import open_queue
from kinto_dispatch.relay import open_relay
from kinto_dispatch.router import Router
from kinto_dispatch.router.entries import entries_of
from kinto_dispatch.testing.builders import make_event
from kinto_dispatch.testing.kinto import full_settings, make_app


BUCKET = "/buckets/b"
COLLECTION = f"{BUCKET}/collections/c"
BASE = "kinto.event_listeners.dispatch."
REQUESTED = "review_plugin.ReviewRequested"
REJECTED = "review_plugin.ReviewRejected"
BASE_EVENT = "review_plugin.BaseEvent"
BROKEN = "review_plugin.Broken"
REVIEW = {"status": "to-review", "comment": "please"}
LETTER = {"template": "{event} {id}", "recipients": ["a@b.org"], "resource_name": "collection"}
NOWHERE = {"plugin": "email", "from": "k@example.org", "recipients": "o@example.org"}

PLUGIN = """
from kinto_dispatch import Veto, hookimpl

told = []

@hookimpl
async def on_event_async(event):
    pass

@hookimpl
def on_event(event, channel):
    told.append((channel.name, event.name))
    if channel.name == "judge" and event.payload.get("comment") == "no way":
        return Veto(403, "not like this")
"""
PLUGINS = Path(__file__).parents[1] / "plugin"


@dataclass(frozen=True)
class Told:
    """What one delivery of a channel holds."""

    channel: str
    event: Event
    text: str


class World:
    """A Kinto in this process with a bucket and a collection, and a worker's router."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.transactional = "kinto.storage_url" in settings
        self.app = make_app(settings)
        self.configuration: Configuration = configure(full_settings(settings))
        self.put(BUCKET)
        self.put(COLLECTION)
        self.told()
        self.called().clear()

    def put(self, path: str, status: int | None = None, **data: Any) -> Any:
        return self.app.put_json(path, {"data": data}, status=status)

    def review(self, answers: int, **data: Any) -> Any:
        """Write the collection so that a review is asked for."""
        return self.app.patch_json(COLLECTION, {"data": {**REVIEW, **data}}, status=answers)

    def is_written(self) -> bool:
        return bool(self.app.get(COLLECTION).json["data"].get("status"))

    def told(self) -> list[Told]:
        """What the channels were told since last asked for, in their order."""
        return asyncio.run(self._told())

    async def _told(self) -> list[Told]:
        queue = open_queue(self.configuration.settings)
        try:
            router = Router(queue, self.configuration.async_channels, Patience(asyncio.Event()))
            relay = open_relay(self.configuration.settings, queue)
            if relay is not None:
                while await relay.relay_once():
                    pass
                relay.close()
            await router.route_once(0.0)
            told: list[Told] = []
            for channel in self.configuration.async_channels:
                for claim in await queue.fetch(channel.name, "test", 1000, 0.01):
                    event = Event.decode(claim.body)
                    told.append(Told(channel.name, event, channel.render(event).text))
            return told
        finally:
            await queue.close()

    def names(self) -> list[tuple[str, str]]:
        """The channels that were told something, each with the name of what."""
        return [(one.channel, one.event.name) for one in self.told()]

    def called(self) -> list[tuple[str, str]]:
        """As ``names``, of channels in the request."""
        told: list[tuple[str, str]] = importlib.import_module("told_plugin").told
        return told


MakeWorld = Callable[..., World]


@pytest.fixture
def ini(
    queue_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., dict[str, str]]]:
    """Settings with these channels, by name, and the plugin that reviews."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(PLUGINS)
    (tmp_path / "told_plugin.py").write_text(PLUGIN)

    def make(channels: Mapping[str, Mapping[str, str]], **more: str) -> dict[str, str]:
        settings = {
            "kinto.includes": "review_plugin",
            "kinto.event_listeners": "dispatch",
            f"{BASE}use": "kinto_dispatch",
            f"{BASE}queue_url": queue_url,
            f"{BASE}events": f"{REQUESTED} {REJECTED} {BROKEN}",
            f"{BASE}channels": " ".join(channels),
        }
        for name, options in channels.items():
            for key, value in {"plugin": "told_plugin", **options}.items():
                settings[f"{BASE}channels.{name}.{key}"] = value
        return {**settings, **{f"review_plugin.{name}": value for name, value in more.items()}}

    yield make
    for name in ("told_plugin", "review_plugin"):
        sys.modules.pop(name, None)


@pytest.fixture(params=["memory", "postgresql"])
def world(request: pytest.FixtureRequest, ini: Callable[..., dict[str, str]]) -> MakeWorld:
    """Makes a Kinto with these channels."""

    def make(channels: Mapping[str, Mapping[str, str]], **more: str) -> World:
        settings = ini(channels, **more)
        if request.param == "postgresql":
            settings["kinto.storage_url"] = request.getfixturevalue("postgresql_url")
        return World(settings)

    return make


@pytest.fixture
def memory_world(ini: Callable[..., dict[str, str]]) -> MakeWorld:
    """The same in memory, for what has nothing to do with the storage."""
    return lambda channels, **more: World(ini(channels, **more))


both_orders = pytest.mark.parametrize("when", ["early", "late"])
"""The plugin's hook before the commit runs before ours, or after it."""


# --- who is told ---------------------------------------------------------------------------------


@both_orders
def test_a_channel_is_told_what_it_names(world: MakeWorld, when: str) -> None:
    """One that names no events hears of the change, and once; the one that names a review hears
    of that, with what it says; with ``*`` of both."""
    kinto = world(
        {"plain": {}, "reviews": {"events": REQUESTED}, "all": {"events": "*"}}, when=when
    )
    kinto.review(200)
    told = kinto.told()
    # Told in the order in which they came about.
    assert [(one.channel, one.event.name) for one in told] == [
        ("plain", CHANGED),
        ("reviews", REQUESTED),
        ("all", CHANGED),
        ("all", REQUESTED),
    ]
    change, review = told[0].event, told[1].event
    assert (review.action, review.resource_name) == ("update", "collection")
    assert review.payload["comment"] == "please"
    assert (review.payload["changes_count"], review.payload["changes_size_bytes"]) == (3, 12)
    assert "comment" not in change.payload
    assert review.changes == change.changes
    assert (review.uri, review.user_id) == (COLLECTION, change.user_id)
    assert review.id != change.id


@both_orders
def test_sync_channels_are_told_too(world: MakeWorld, when: str) -> None:
    """Before the commit, and after it."""
    sync = {"mode": "sync", "events": REQUESTED}
    kinto = world({"judge": {**sync, "phase": "before_commit"}, "after": sync}, when=when)
    kinto.review(200)
    assert kinto.called() == [("judge", REQUESTED), ("after", REQUESTED)]


def test_routes_ask_for_what_an_event_says(memory_world: MakeWorld) -> None:
    """By pattern, and in ``when``; templates print it."""
    kinto = memory_world(
        {
            "many": {"events": "review_plugin.*", "when": "payload.changes_count > `2`"},
            "few": {"events": "review_plugin.*", "when": "payload.changes_count < `2`"},
            "said": {
                "events": "*",
                "when": f"name == '{REQUESTED}'",
                "template": "{{ payload.comment }}",
            },
        }
    )
    kinto.review(200)
    many, said = kinto.told()
    assert (many.channel, many.event.name) == ("many", REQUESTED)
    assert (said.channel, said.event.name, said.text) == ("said", REQUESTED, "please")


def test_a_review_is_not_joined_with_the_change() -> None:
    """Nor does it take its place where a channel says the latest version only: what a channel
    collects is of one name."""
    change = make_event()
    review = make_event(name=REQUESTED)
    for by in ("channel", "collection", "record"):
        digests = [
            one.digest
            for event in (change, review, review)
            for one in entries_of(event, event.changes, "key", by=by)
        ]
        assert digests[0] != digests[1] == digests[2]


# --- with the write, or not at all ---------------------------------------------------------------


@both_orders
def test_what_is_rolled_back_is_not_told(world: MakeWorld, when: str) -> None:
    """Another subscriber of the review raises: the write answers 500, and nobody hears of it, nor
    of the change."""
    kinto = world(
        {"all": {"events": "*"}, "sync": {"events": "*", "mode": "sync"}}, when=when, raises="yes"
    )
    kinto.review(500)
    assert kinto.is_written() is not kinto.transactional
    assert (kinto.names(), kinto.called()) == ([], [])
    kinto.put(f"{COLLECTION}/records/r", 201)
    assert (kinto.names(), kinto.called()) == ([("all", CHANGED)], [("sync", CHANGED)])


@both_orders
def test_a_review_can_be_vetoed(world: MakeWorld, when: str) -> None:
    """Also where the channel allowed the change that it is about, before it came."""
    judge = {"mode": "sync", "phase": "before_commit", "events": "*"}
    after = {"mode": "sync", "events": "*"}
    kinto = world({"judge": judge, "all": {"events": "*"}, "after": after}, when=when)
    answer = kinto.review(403, comment="no way")
    assert answer.json["message"] == "not like this"
    assert kinto.called() == [("judge", CHANGED), ("judge", REQUESTED)]
    assert kinto.is_written() is not kinto.transactional
    assert kinto.names() == []
    kinto.review(200)
    assert kinto.names() == [("all", CHANGED), ("all", REQUESTED)]


@both_orders
def test_a_conflict_voids_reviews_before_it(world: MakeWorld, when: str) -> None:
    """A 409 in a batch rolls back what came before it, and the batch goes on in a new transaction.
    What was reviewed there is not told; what is written afterwards is, as far as the plugin itself
    still sends it."""
    kinto = world({"all": {"events": "*"}}, when=when)
    other = f"{BUCKET}/collections/d"
    requests = [
        {"method": "PATCH", "path": COLLECTION, "body": {"data": REVIEW}},
        {"method": "PUT", "path": "/conflict"},
        {"method": "PUT", "path": other, "body": {"data": REVIEW}},
    ]
    answer = kinto.app.post_json("/batch", {"requests": requests})
    assert [part["status"] for part in answer.json["responses"]] == [200, 409, 201]
    told = kinto.told()
    assert {change.uri for one in told for change in one.event.changes} == {other}
    # The signer's hook went with the transaction that it was added to.
    names = [CHANGED] if when == "early" else [CHANGED, REQUESTED]
    assert [one.event.name for one in told] == names


def test_an_event_that_cannot_be_read_refuses_no_write(
    world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said in the log, and the change is told."""
    kinto = world({"all": {"events": "*"}})
    kinto.review(200, status="broken")
    assert kinto.names() == [("all", CHANGED)]
    (line,) = (one.getMessage() for one in caplog.records if one.levelno == logging.ERROR)
    assert line.startswith("review_plugin.Broken is not announced: it cannot be read (TypeError")


def test_a_storage_that_fails_meanwhile_refuses_the_write(world: MakeWorld) -> None:
    """Its transaction is lost: to go on would be to tell the client of a write that is none."""
    kinto = world({"all": {"events": "*"}})
    kinto.review(503, status="storage-away")
    assert kinto.is_written() is not kinto.transactional
    assert kinto.names() == []


def test_an_event_after_the_commit_is_said_to_be_too_late(
    world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """Rather than kept for a transaction that never comes."""
    kinto = world({"all": {"events": "*"}}, when="after")
    kinto.review(200)
    assert kinto.names() == [("all", CHANGED)]
    (line,) = (one.getMessage() for one in caplog.records if one.levelno == logging.ERROR)
    assert line.startswith(f"{REQUESTED} is not announced: it came after the commit")


# --- hooks in metadata ---------------------------------------------------------------------------

OPEN = {
    "mail": {**NOWHERE, "subscribable": "true"},
    "team": {
        "plugin": "slack",
        "webhook_url": "https://hooks.slack.com/services/T/B/x",
        "subscribable": "true",
    },
    "ops": {"subscribable": "true"},
}


def hooks(*several: Mapping[str, Any]) -> dict[str, Any]:
    return {"hooks": list(several)}


@both_orders
def test_a_review_and_its_change_are_each_told_once(world: MakeWorld, when: str) -> None:
    """(e) kinto-emailer overwrote the messages of the one with those of the other: the mail of the
    collection was lost. kinto-slack sent the first again with the second."""
    kinto = world(OPEN, when=when)
    note = {"channel": "team", "template": LETTER["template"]}
    kinto.put(COLLECTION, 200, **{"kinto-emailer": hooks(LETTER), "kinto-slack": hooks(note)})
    kinto.told()
    kinto.review(200)
    assert [(one.channel, one.text) for one in kinto.told()] == [
        ("mail", f"{CHANGED} c"),
        ("mail", f"{REQUESTED} c"),
        ("team", f"{CHANGED} c"),
        ("team", f"{REQUESTED} c"),
    ]


def test_hooks_name_reviews(memory_world: MakeWorld) -> None:
    """In the formats of kinto-emailer and kinto-slack, and in ours: each gets what it names, and
    only that; placeholders print what the review says."""
    kinto = memory_world(OPEN)
    said = "{comment} {changes_count} {changes_size_bytes} {action} {id}"
    requested = {**LETTER, "event": REQUESTED, "template": said}
    rejected = {**LETTER, "event": REJECTED, "template": "rejected: {comment}[{changes_count}]"}
    changed = {**LETTER, "event": "kinto.core.events.AfterResourceChanged"}
    own = {"channel": "ops", "template": "{{ payload.comment }}"}
    kinto.put(
        COLLECTION,
        200,
        **{
            "kinto-emailer": hooks(requested, rejected, changed),
            "kinto-slack": hooks({"channel": "team", "event": REQUESTED, "template": said}),
            "kinto-dispatch": hooks({**own, "events": ["review_plugin.*"]}),
        },
    )
    kinto.told()
    kinto.review(200)
    assert [(one.channel, one.text) for one in kinto.told()] == [
        ("mail", f"{CHANGED} c"),
        ("mail", "please 3 12 update c"),
        ("team", "please 3 12 update c"),
        ("ops", "please"),
    ]
    kinto.review(200, status="work-in-progress")
    assert [(one.channel, one.text) for one in kinto.told()] == [
        ("mail", f"{CHANGED} c"),
        ("mail", "rejected: no[]"),
        ("ops", "no"),
    ]
    kinto.put(f"{COLLECTION}/records/r")
    assert kinto.told() == []


def test_a_hook_of_ours_without_events_is_about_changes(memory_world: MakeWorld) -> None:
    """So that nobody who subscribed to a collection hears everything twice."""
    kinto = memory_world(OPEN)
    kinto.put(COLLECTION, 200, **{"kinto-dispatch": hooks({"channel": "ops"})})
    kinto.told()
    kinto.review(200)
    assert kinto.names() == [("ops", CHANGED)]


def test_a_channels_own_events_are_a_bound(memory_world: MakeWorld) -> None:
    """As the rest of its route is."""
    mail = {**OPEN["mail"], "events": CHANGED}
    kinto = memory_world({"mail": mail})
    kinto.put(COLLECTION, 200, **{"kinto-emailer": hooks(LETTER)})
    kinto.told()
    kinto.review(200)
    assert kinto.names() == [("mail", CHANGED)]


def test_an_older_hook_may_name_what_nobody_listens_to(
    memory_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """What stands in the metadata of a deployment must stay writable; the log says that nobody
    will be told. In our own format it is refused."""
    kinto = memory_world(OPEN)
    other = "kinto_remote_settings.signer.events.ReviewRequested"
    unheard = {**LETTER, "event": other}
    heard = {**LETTER, "event": "^review"}
    caplog.clear()
    kinto.put(COLLECTION, 200, **{"kinto-emailer": hooks(heard, unheard)})
    (line,) = (one.getMessage() for one in caplog.records if one.levelno == logging.WARNING)
    assert f"data.kinto-emailer.hooks.1.event of {COLLECTION}: nobody will be told" in line
    assert other in line
    assert REQUESTED in line
    own = {"channel": "ops", "events": [REJECTED, other]}
    answer = kinto.put(COLLECTION, 400, **{"kinto-dispatch": hooks(own)})
    (detail,) = answer.json["details"]
    assert detail["name"] == "data.kinto-dispatch.hooks.0.events"
    assert (
        f"'{other}' is not listened to; there are: {CHANGED} {REQUESTED}"
        in (detail["description"])
    )


def test_explain_shows_what_a_hook_asks_for(
    memory_world: MakeWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that whoever waits for an event in vain sees its name."""
    kinto = memory_world(OPEN)
    channel = next(one for one in kinto.configuration.channels if one.name == "mail")
    subscriptions = [
        Subscription(format="kinto-emailer", owner=COLLECTION, channel="mail", hook=hook)
        for hook in (LETTER, {**LETTER, "event": "other.Event"}, {**LETTER, "event": 5})
    ]
    event = make_event(resource_name="collection", subscriptions=tuple(subscriptions))
    row = channel_row(channel, event, ())
    assert [hook["events"] for hook in row["hooks"]] == [[], ["other.Event"], []]
    show_channel(row, 1)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    owner = f"hook of {COLLECTION} (kinto-emailer)"
    assert f"{owner}: wants 1 of 1 changes" in lines
    assert f"{owner}: wants 0 of 1 changes; asks for other.Event" in lines


# --- the start -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "found", "advice"),
    [
        ("no_such_plugin.Event", "cannot be imported (ModuleNotFoundError", "Install the plugin"),
        ("review_plugin.ReviewRequestd", "has no such class", "Did you mean 'ReviewRequested'?"),
        ("review_plugin.KEY", "has no such class", "correct its spelling"),
        ("review_plugin.Requested", "another name", f"Write {REQUESTED}"),
        ("review_plugin.Nothing", "has no payload and no impacted_objects", "Remove it."),
        ("kinto.events.ServerFlushed", "has no payload and no impacted_objects", "Remove it."),
        ("kinto.core.events.AfterResourceChanged", "Kinto itself sends", "once they are commit"),
    ],
)
def test_what_is_no_event_stops_the_start(
    ini: Callable[..., dict[str, str]], name: str, found: str, advice: str
) -> None:
    """With what was found, what is allowed, and what to do."""
    settings = {**ini({"ops": {}}), f"{BASE}events": f"{REQUESTED} {name}"}
    with pytest.raises(ConfigurationError) as raised:
        make_app(settings)
    for part in (f"{BASE}events: {name}, ", found, "request, payload, impacted_objects", advice):
        assert part in str(raised.value)


def test_a_base_class_stands_for_those_made_from_it(
    memory_world: MakeWorld, ini: Callable[..., dict[str, str]]
) -> None:
    """They are told under its name; Kinto's own event may stand beside it."""
    settings = {**ini({"all": {"events": "*"}}), f"{BASE}events": f"{CHANGED} {BASE_EVENT}"}
    kinto = World(settings)
    kinto.review(200)
    assert kinto.names() == [("all", CHANGED), ("all", BASE_EVENT)]
