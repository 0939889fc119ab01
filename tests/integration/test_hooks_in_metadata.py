"""Hooks in metadata, in a real Kinto: who gets which message, and what is refused when written.

The letters in docstrings, as in (e), are bugs of kinto-emailer 4.0.0 that were reproduced with it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import webtest

from kinto_dispatch import Delivered, Event, Message
from kinto_dispatch.errors import GroupsUnavailable, RenderError
from kinto_dispatch.event import Subscription
from kinto_dispatch.patience import Patience
from kinto_dispatch.plugins import Configuration, configure
from kinto_dispatch.queue import open_queue
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.values import DeadLetter, LogEntry
from kinto_dispatch.relay import open_relay
from kinto_dispatch.router import Router
from kinto_dispatch.router.judging import judge
from kinto_dispatch.testing.builders import make_change, make_delivery, make_event
from kinto_dispatch.testing.kinto import full_settings, make_app
from kinto_dispatch.testing.smtp import LocalSmtp


BUCKET = "/buckets/b"
COLLECTION = f"{BUCKET}/collections/c"
RECORD = f"{COLLECTION}/records/r"
BASE = "kinto.event_listeners.dispatch."
HOOK = {"channel": "ops", "template": "{{ change.object_id }} {{ action|past }}"}
LETTER = {"template": "{record_id} {action}", "recipients": ["a@b.org"]}

PLUGIN = """
from kinto_dispatch import hookimpl

@hookimpl
async def on_event_async(event):
    pass
"""


@dataclass(frozen=True)
class Told:
    """What one delivery of a channel holds."""

    channel: str
    key: str
    event: Event
    message: Message


class World:
    """A Kinto in this process and a worker's router, step by step."""

    def __init__(self, settings: dict[str, str]) -> None:
        self.app = make_app(settings)
        self.configuration: Configuration = configure(full_settings(settings))
        self._lanes = [channel.name for channel in self.configuration.async_channels]
        self.put(BUCKET)

    def put(self, path: str, status: int = 201, **data: Any) -> webtest.TestResponse:
        return self.app.put_json(path, {"data": data}, status=status)

    def told(self) -> list[Told]:
        """What the channels were told since last asked for."""
        return asyncio.run(self._routed(self._claimed))

    def told_to(self, channel: str) -> list[Told]:
        """As ``told``, of one channel."""
        return [one for one in self.told() if one.channel == channel]

    def batch(self, *parts: tuple[str, str, Any]) -> list[int]:
        """The statuses of a batch of method, path and data."""
        requests = [
            {"method": method, "path": path, **({} if data is None else {"body": {"data": data}})}
            for method, path, data in parts
        ]
        answer = self.app.post_json("/batch", {"requests": requests})
        return [part["status"] for part in answer.json["responses"]]

    def dead(self) -> list[DeadLetter]:
        """What could not be judged."""
        return asyncio.run(self._routed(self._dead))

    async def _routed(self, ask: Any) -> Any:
        queue = open_queue(self.configuration.settings)
        try:
            router = Router(queue, self.configuration.async_channels, Patience(asyncio.Event()))
            relay = open_relay(self.configuration.settings, queue)
            if relay is not None:
                while await relay.relay_once():
                    pass
                relay.close()
            await router.route_once(0.0)
            return await ask(queue)
        finally:
            await queue.close()

    async def _claimed(self, queue: Queue) -> list[Told]:
        told: list[Told] = []
        for channel in self.configuration.async_channels:
            for claim in await queue.fetch(channel.name, "test", 1000, 0.01):
                event = Event.decode(claim.body)
                told.append(Told(channel.name, claim.key, event, channel.render(event)))
        return told

    async def _dead(self, queue: Queue) -> list[DeadLetter]:
        return [letter for lane in self._lanes for letter in await queue.dead_letters(lane)]


def hooks(*several: dict[str, Any]) -> dict[str, Any]:
    return {"hooks": list(several)}


def texts(told: Sequence[Told]) -> list[str]:
    return sorted(one.message.text for one in told)


@pytest.fixture
def settings(
    queue_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """The channels ``ops`` and ``plain``, of which only the first is open, one for mails and two
    for Slack."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "hooked_plugin.py").write_text(PLUGIN)
    channels = {
        "ops": {"plugin": "hooked_plugin", "subscribable": "true"},
        "plain": {"plugin": "hooked_plugin", "template": "plain"},
        "mail": {
            "plugin": "email",
            "subscribable": "true",
            "from": "kinto@example.org",
            "recipients": "ops@example.org",
        },
        "team": {"plugin": "slack", "subscribable": "true"},
        "other": {"plugin": "slack", "subscribable": "true"},
    }
    for name in ("team", "other"):
        channels[name]["webhook_url"] = "https://hooks.slack.com/services/T/B/x"
    settings = {
        "kinto.event_listeners": "dispatch",
        f"{BASE}use": "kinto_dispatch",
        f"{BASE}queue_url": queue_url,
        f"{BASE}channels": " ".join(channels),
        "kinto.project_name": "Our Kinto",
        "kinto.project_version": "4.2",
    }
    for name, options in channels.items():
        for key, value in options.items():
            settings[f"{BASE}channels.{name}.{key}"] = value
    yield settings
    sys.modules.pop("hooked_plugin", None)


@pytest.fixture(params=["memory", "postgresql"])
def world(request: pytest.FixtureRequest, settings: dict[str, str]) -> World:
    """A Kinto with a bucket."""
    if request.param == "postgresql":
        settings["kinto.storage_url"] = request.getfixturevalue("postgresql_url")
    return World(settings)


@pytest.fixture
def memory_world(settings: dict[str, str]) -> World:
    """The same in memory, for what has nothing to do with the storage."""
    return World(settings)


def test_a_collection_subscribes_its_records(world: World) -> None:
    """To the channel that its hook names, with the hook's message; a channel that is not open goes
    by its own route, as ever."""
    world.put(COLLECTION, **{"kinto-dispatch": {"hooks": [HOOK]}})
    world.told()

    world.put(RECORD, title="new")
    told = world.told()
    assert [(one.channel, one.message.text) for one in told] == [
        ("ops", "r created"),
        ("plain", "plain"),
    ]


def test_a_collections_hooks_replace_those_of_its_bucket(world: World) -> None:
    """Format by format: what the collection has none of comes from the bucket."""
    world.put(BUCKET, 200, **{"kinto-dispatch": {"hooks": [HOOK]}, "kinto-emailer": hooks(LETTER)})
    world.put(COLLECTION)
    mine = {"channel": "ops", "template": "mine"}
    world.put(f"{BUCKET}/collections/d", **{"kinto-dispatch": {"hooks": [mine]}})
    world.told()
    world.put(RECORD)
    world.put(f"{BUCKET}/collections/d/records/r")
    told = [one for one in world.told() if one.channel != "plain"]
    assert texts(told) == ["mine", "r create", "r create", "r created"]


def test_a_hook_wants_what_its_rule_says(world: World) -> None:
    """In the words of the settings of a channel, change by change; the channel's own route is a
    bound that no hook gets past."""
    hook = {**HOOK, "actions": ["update"], "when": "new.state == 'done'"}
    world.put(COLLECTION, **{"kinto-dispatch": {"hooks": [hook]}})
    world.put(RECORD, state="done")
    world.put(RECORD, 200, state="open")
    assert world.told_to("ops") == []
    world.put(RECORD, 200, state="done")
    (told,) = world.told_to("ops")
    assert (told.message.subject, told.message.text) == ("record updated", "r updated")
    assert told.event.changes[0].old == {**told.event.changes[0].old, "state": "open"}


def test_a_batch_is_one_message(world: World) -> None:
    """For a hook of ours; the older plugins sent one for each object, and so it is with theirs."""
    world.put(
        COLLECTION,
        **{
            "kinto-dispatch": {"hooks": [{**HOOK, "template": "{{ changes|length }} records"}]},
            "kinto-emailer": hooks(LETTER),
        },
    )
    world.told()
    world.batch(*(("PUT", f"{COLLECTION}/records/{name}", {}) for name in "xyz"))
    told = world.told()
    assert [one.message.text for one in told if one.channel == "ops"] == ["3 records"]
    letters = [one for one in told if one.channel == "mail"]
    assert texts(letters) == ["x create", "y create", "z create"]
    assert len({one.key for one in told}) == 5


def test_collections_each_go_by_their_own_hooks(world: World) -> None:
    """(h) Also where many are deleted in one request."""
    for name in "xyz":
        hook = {**LETTER, "template": f"{name} {{id}} {{action}}"}
        world.put(f"{BUCKET}/collections/{name}", **{"kinto-emailer": hooks(hook)})
    assert texts(world.told_to("mail")) == ["x x create", "y y create", "z z create"]
    world.app.delete(f"{BUCKET}/collections")
    assert texts(world.told_to("mail")) == ["x x delete", "y y delete", "z z delete"]


def test_a_collection_that_is_gone_is_no_error(world: World) -> None:
    """(g) A record is written and its collection deleted in one batch."""
    world.put(COLLECTION, **{"kinto-emailer": hooks(LETTER)})
    world.told()
    statuses = world.batch(("PUT", RECORD, {}), ("DELETE", COLLECTION, None))
    assert statuses == [201, 200]
    assert texts(world.told_to("mail")) == [" delete", "r create"]


def test_every_event_of_a_request_is_told_once(world: World) -> None:
    """(e) The record, and the collection that changes along with it."""
    hook = {**LETTER, "template": "{resource_name} {id} {action}"}
    world.put(COLLECTION, **{"kinto-emailer": hooks(hook)})
    world.told()
    world.batch(("PUT", RECORD, {}), ("PATCH", COLLECTION, {"x": 1}))
    assert texts(world.told_to("mail")) == ["collection c update", "record r create"]


@pytest.mark.parametrize("behavior", ["light", "diff"])
def test_a_patch_that_asks_for_little_is_told_whole(world: World, behavior: str) -> None:
    """(f)"""
    world.put(COLLECTION, **{"kinto-emailer": hooks({**LETTER, "template": "{id} {action}"})})
    world.put(RECORD, title="t")
    world.told()
    world.app.patch_json(RECORD, {"data": {"n": 1}}, headers={"Response-Behavior": behavior})
    assert texts(world.told_to("mail")) == ["r update"]


@pytest.mark.parametrize(
    "event", ["kinto.core.events.AfterResourceChanged", "kinto.core.events.ResourceChanged"]
)
def test_the_event_of_the_documentation_matches(world: World, event: str) -> None:
    """(a) Whichever of the two names somebody has written."""
    world.put(COLLECTION, **{"kinto-emailer": hooks({**LETTER, "event": event})})
    world.told()
    world.put(RECORD)
    assert texts(world.told_to("mail")) == ["r create"]


def test_conditions_are_values_or_expressions(world: World) -> None:
    """All of them must hold; what begins with ``^`` is a regular expression."""
    not_this = {**LETTER, "collection_id": "^(?!d$)", "resource_name": "record", "template": "1"}
    this = {**LETTER, "collection_id": "d", "action": "create", "template": "2"}
    no_record = {**LETTER, "record_id": "^s", "template": "3"}
    world.put(BUCKET, 200, **{"kinto-emailer": hooks(not_this, this, no_record)})
    world.put(COLLECTION)
    world.put(f"{BUCKET}/collections/d")
    assert texts(world.told_to("mail")) == ["2"]
    world.put(RECORD)
    assert texts(world.told_to("mail")) == ["1"]
    world.put(f"{COLLECTION}/records/s")
    assert texts(world.told_to("mail")) == ["1", "3"]


def test_letters_are_about_records_and_collections(world: World) -> None:
    """As both plugins have it: whoever put hooks into a bucket heard nothing of its groups."""
    world.put(BUCKET, 200, **{"kinto-emailer": hooks(LETTER | {"template": "{uri}"})})
    world.put(f"{BUCKET}/groups/g", members=[])
    world.put(BUCKET, 200, title="x", **{"kinto-emailer": hooks(LETTER)})
    world.put(COLLECTION)
    assert texts(world.told_to("mail")) == [" create"]


def test_a_letter_has_all_that_a_template_may_ask_for(world: World) -> None:
    """What kinto-emailer documents, and fields of the record."""
    names = ("bucket_id", "collection_id", "record_id", "id", "user_id", "resource_name", "uri")
    names = (*names, "action", "timestamp", "root_url", "client_address", "user_agent", "event")
    template = " ".join(f"{name}={{{name}}}" for name in names)
    template += " {settings[project_name]} {settings[project_version]} {settings[url]}"
    template += " {impacted_objects[0][new][title]} {{}}"
    letter = {**LETTER, "subject": "{user_id}\n!", "template": template}
    world.put(COLLECTION, **{"kinto-emailer": hooks(letter)})
    world.told()
    headers = {"User-Agent": "tests"}
    world.app.put_json(RECORD, {"data": {"title": "T"}}, headers=headers)
    (told,) = world.told_to("mail")
    user, timestamp = told.event.user_id, told.event.timestamp
    assert told.message.subject == f"{user} !"
    assert told.message.text == (
        f"bucket_id=b collection_id=c record_id=r id=r user_id={user} resource_name=record"
        f" uri={RECORD} action=create timestamp={timestamp} root_url=http://localhost/v1/"
        " client_address= user_agent=tests event=kinto.core.events.ResourceChanged Our Kinto 4.2"
        " http://localhost/v1/ T {}"
    )


def test_nothing_of_kintos_settings_is_printed(world: World) -> None:
    """Nor anything else that a path could lead to (B17)."""
    for template in ("{settings[storage_url]}", "{uri.__class__}", "{impacted_objects[__len__]}"):
        letter = {**LETTER, "template": template}
        answer = world.app.put_json(
            COLLECTION, {"data": {"kinto-emailer": hooks(letter)}}, status="*"
        )
        if answer.status_code < 300:
            world.put(f"{COLLECTION}/records/{template.strip('{}')[:3]}")
    assert [told.message.text for told in world.told_to("mail") if told.message.text.strip()] == []


def test_answers_go_to_the_sender_and_mails_come_from_us(world: World) -> None:
    """Who may write a collection cannot write mails in the name of others (B14)."""
    letter = {**LETTER, "sender": "Boss <boss@example.com>", "recipients": ["a@b.org", "a@b.org"]}
    world.put(COLLECTION, **{"kinto-emailer": hooks(letter)})
    (told,) = world.told_to("mail")
    assert told.message.reply_to == "Boss <boss@example.com>"
    assert told.message.recipients == ("a@b.org",)


def test_slack_hooks_go_to_the_channel_of_their_name(world: World) -> None:
    """What they do not know is left empty, as kinto-slack has it."""
    hook = {"channel": "#team", "template": "{record_id} {nonsense}!"}
    world.put(COLLECTION, **{"kinto-slack": {"hooks": [hook, {**hook, "channel": "other"}]}})
    world.told()
    world.put(RECORD)
    told = world.told()
    assert [(one.channel, one.message.text) for one in told if one.channel != "plain"] == [
        ("team", "r !"),
        ("other", "r !"),
    ]


# --- what kinto-slack does otherwise -------------------------------------------------------------

NOTE = {"channel": "team", "template": "{resource_name} {id} {action}"}


def stored(world: World, *several: Any) -> None:
    """A collection with hooks that nobody checked when they were written."""
    world.app.put_json(COLLECTION, {"data": {}})
    world.told()
    world.app.app.registry.storage.update(
        resource_name="collection",
        parent_id=BUCKET,
        object_id="c",
        obj={"id": "c", "kinto-slack": {"hooks": list(several)}},
    )


def test_no_note_is_sent_again_with_the_next(world: World) -> None:
    """kinto-slack appends the messages of a request to a list that it never empties: with two
    events, it sent those of the first again after the second."""
    world.put(COLLECTION, **{"kinto-slack": hooks(NOTE)})
    world.told()
    world.batch(("PUT", RECORD, {}), ("PATCH", COLLECTION, {"x": 1}), ("DELETE", RECORD, None))
    assert texts(world.told_to("team")) == [
        "collection c update",
        "record r create",
        "record r delete",
    ]
    world.put(f"{COLLECTION}/records/s")
    assert texts(world.told_to("team")) == ["record s create"]


def test_what_a_note_asks_for_in_vain_is_left_empty(memory_world: World) -> None:
    """The first kinto-slack raised for an unknown name, and the write answered 500; later ones
    still do for what stands below it."""
    vain = (
        "{nonsense}",
        "{nonsense[title]}",
        "{id[title]}",
        "{impacted_objects[9][new][title]}",
        "{impacted_objects[0][old][title]}",
        "{settings[nonsense]}",
    )
    notes = [{**NOTE, "template": f"{{id}}[{template}]"} for template in vain]
    memory_world.put(COLLECTION, **{"kinto-slack": hooks(*notes)})
    memory_world.told()
    memory_world.put(RECORD)
    assert texts(memory_world.told_to("team")) == ["r[]"] * len(vain)


def test_bad_braces_are_refused_when_written(memory_world: World) -> None:
    """kinto-slack takes them, and then answers 500 to every write in the collection. Those that
    stand there already spoil neither a write nor another hook (B18)."""
    bad = ("{", "}", "{id", "{}", "{0}", "{uri.x}", "{id!r}", "{id:>9}")
    broken = [{**NOTE, "template": template} for template in bad]
    for hook in broken:
        answer = memory_world.put(COLLECTION, 400, **{"kinto-slack": hooks(NOTE, hook)})
        (detail,) = answer.json["details"]
        assert detail["name"] == "data.kinto-slack.hooks.1.template"
    stored(memory_world, *broken, NOTE)
    memory_world.put(RECORD)
    assert texts(memory_world.told_to("team")) == ["record r create"]
    letters = memory_world.dead()
    assert [letter.key.split(":")[1] for letter in letters] == ["team"] * len(bad)
    for letter in letters:
        assert letter.kind == "failed"
        assert f"a hook of {COLLECTION}: template: " in letter.reason


def test_a_note_for_nobody_goes_to_nobody_else(
    memory_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """kinto-slack falls back to its default webhook, with a warning in a log: one team reads what
    was meant for another. Here the log says once that it goes to nobody."""
    lost = [{**NOTE, "channel": "teem"}, {**NOTE, "channel": ""}, {"template": "x"}]
    for hook in lost:
        answer = memory_world.put(COLLECTION, 400, **{"kinto-slack": hooks(hook)})
        (detail,) = answer.json["details"]
        assert detail["name"] == "data.kinto-slack.hooks.0.channel"
        assert "open are: team, other" in detail["description"] or hook["channel"] == ""
    stored(memory_world, *lost, NOTE)
    memory_world.put(RECORD)
    told = [(one.channel, one.message.text) for one in memory_world.told()]
    assert told == [("plain", "plain"), ("team", "record r create")]
    memory_world.put(f"{COLLECTION}/records/s")
    (line,) = [line for line in caplog.text.splitlines() if "hooks.untold" in line]
    assert f"owner={COLLECTION} format=kinto-slack: some hooks are told to nobody" in line


def test_of_very_many_hooks_twenty_are_told(
    memory_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Those behind them stood there before anybody counted, and the log says that they wait in
    vain."""
    stored(memory_world, *[NOTE] * 20)
    memory_world.put(RECORD)
    assert texts(memory_world.told_to("team")) == ["record r create"] * 20
    assert "hooks.untold" not in caplog.text
    stored(memory_world, *[NOTE] * 21)
    memory_world.put(f"{COLLECTION}/records/s")
    assert texts(memory_world.told_to("team")) == ["record s create"] * 20
    assert "or stand behind 20 others" in caplog.text


# --- what is refused -----------------------------------------------------------------------------


def test_what_cannot_work_is_refused_when_written(world: World) -> None:
    """(b) (c) With 400, the place and the reason; what is written later goes on as before
    (B28)."""
    letter = {**LETTER, "template": "{nonsense}"}
    for path in (BUCKET, COLLECTION):
        answer = world.put(path, 400, **{"kinto-emailer": hooks(LETTER, letter)})
        (detail,) = answer.json["details"]
        assert detail["name"] == "data.kinto-emailer.hooks.1.template"
        assert detail["description"].startswith("{nonsense} is not known; there are action,")
    world.app.put_json(COLLECTION, {"data": {}})
    world.put(RECORD)


def test_groups_of_other_buckets_are_refused(memory_world: World) -> None:
    """(d) Also where the other's name begins like the own one (B16)."""
    for group in ("/buckets/bb/groups/secret", "/buckets/{collection_id}/groups/g"):
        letter = {**LETTER, "recipients": [group]}
        memory_world.put(BUCKET, 400, **{"kinto-emailer": hooks(letter)})
        memory_world.put(COLLECTION, 400, **{"kinto-emailer": hooks(letter)})


def test_what_was_wrong_before_does_not_stand_in_the_way(memory_world: World) -> None:
    """Who changes something else is not to blame for hooks that nobody checked in their time; they
    are told to nobody, and stand among the dead letters."""
    registry = memory_world.app.app.registry
    broken = {**LETTER, "template": "{nonsense}"}
    memory_world.put(COLLECTION)
    stored = {"id": "c", "kinto-emailer": {"hooks": ["x", broken, LETTER]}}
    registry.storage.update(
        resource_name="collection", parent_id=BUCKET, object_id="c", obj=stored
    )
    memory_world.app.patch_json(COLLECTION, {"data": {"x": 1}})
    memory_world.told()
    memory_world.put(RECORD)
    assert texts(memory_world.told_to("mail")) == ["r create"]
    (letter, *_) = memory_world.dead()
    assert (letter.kind, letter.key.split(":")[1]) == ("failed", "mail")
    assert f"a hook of {COLLECTION}: template: {{nonsense}} is not known" in letter.reason


def test_a_value_cannot_lead_to_another_group(memory_world: World) -> None:
    """A group is filled in from ids, and counts only if it is one of the same bucket (B16)."""
    letter = {**LETTER, "recipients": ["/buckets/b/groups/{record_id}-x", "a@b.org"]}
    memory_world.put(COLLECTION, **{"kinto-emailer": hooks(letter)})
    memory_world.told()
    memory_world.put(RECORD)
    (told,) = memory_world.told_to("mail")
    assert told.message.recipients == ("/buckets/b/groups/r-x", "a@b.org")


def test_expressions_that_take_for_ever_are_given_up(memory_world: World) -> None:
    """(B19) The write does not wait for them, and other hooks are told."""
    slow = {**LETTER, "record_id": "^(a+)+$", "template": "slow"}
    memory_world.put(COLLECTION, **{"kinto-emailer": hooks(slow, LETTER)})
    memory_world.told()
    name = "a" * 200 + "b"
    memory_world.put(f"{COLLECTION}/records/{name}")
    told = texts(memory_world.told_to("mail"))
    reasons = [letter.reason for letter in memory_world.dead()]
    assert told in ([f"{name} create"], [f"{name} create", "slow"])
    assert all("was not decided" in reason for reason in reasons)


# --- groups --------------------------------------------------------------------------------------


def test_members_are_looked_up_when_the_message_is_sent(
    settings: dict[str, str], postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each address once; who is no longer in the group gets nothing, and a group that is gone has
    nobody, which the log says."""
    world = World({**settings, "kinto.storage_url": postgresql_url})
    mail = next(one for one in world.configuration.channels if one.name == "mail")
    group = f"{BUCKET}/groups/g"
    world.put(group, members=["ldap:a@x.org", "account:b", "c@x.org"])
    assert mail.addresses(["c@x.org", group]) == ("c@x.org", "a@x.org")
    world.put(group, 200, members=["account:b"])
    assert mail.addresses([group]) == ()
    assert "group.missing" not in caplog.text
    world.app.delete(group)
    assert mail.addresses([group]) == ()
    assert f"group.missing uri={group}" in caplog.text
    # What the channel holds is of this process only.
    mail._groups._storage.client.session_factory.get_bind().dispose()


def test_no_message_goes_to_more_than_a_mail_server_takes(
    settings: dict[str, str], postgresql_url: str
) -> None:
    """Nor to a group of thousands that somebody else fills: a dead letter that says so (B16)."""
    world = World({**settings, "kinto.storage_url": postgresql_url})
    mail = next(one for one in world.configuration.channels if one.name == "mail")
    group = f"{BUCKET}/groups/g"
    world.put(group, members=[f"m{number}@x.org" for number in range(100)])
    assert len(mail.addresses([group])) == 100
    with pytest.raises(RenderError, match="101 addresses, at most 100; use a mailing list"):
        mail.addresses([group, "one@more.org"])
    mail._groups._storage.client.session_factory.get_bind().dispose()


def test_a_letter_that_is_left_with_nobody_goes_to_nobody(
    settings: dict[str, str], smtp_server: LocalSmtp
) -> None:
    """Not to those of the ini: what was meant for one is not for them."""
    base = f"{BASE}channels.mail."
    world = World({**settings, f"{base}server": smtp_server.address, f"{base}cc": "boss@x.org"})
    mail = next(one for one in world.configuration.channels if one.name == "mail")
    letter = {**LETTER, "recipients": ["{user_id}@example.com"]}
    world.put(COLLECTION, **{"kinto-emailer": hooks(letter)})
    (told,) = world.told_to("mail")
    outcome = mail.call_async(told.event, make_delivery(key=told.key))
    assert "nobody to write to" in outcome.detail
    assert smtp_server.messages == []


def test_groups_in_memory_are_out_of_reach(settings: dict[str, str]) -> None:
    """Said as it is, rather than a message to nobody."""
    configuration = configure(full_settings(settings))
    mail = next(one for one in configuration.channels if one.name == "mail")
    with pytest.raises(GroupsUnavailable, match="with memory storage only Kinto's own process"):
        mail.addresses([f"{BUCKET}/groups/g"])


def test_a_storage_that_is_away_is_an_error(settings: dict[str, str]) -> None:
    """So that the attempt is made again."""
    url = "postgresql://nobody@127.0.0.1:1/none"
    configuration = configure(full_settings({**settings, "kinto.storage_url": url}))
    mail = next(one for one in configuration.channels if one.name == "mail")
    with pytest.raises(GroupsUnavailable, match="Kinto's storage did not answer"):
        mail.addresses([f"{BUCKET}/groups/g"])


def test_the_operator_may_name_groups_too(
    settings: dict[str, str], postgresql_url: str, smtp_server: LocalSmtp
) -> None:
    """Beside addresses, in the ini: for what the channel's own route wants."""
    base = f"{BASE}channels.mail."
    to = {f"{base}recipients": f"boss@x.org, {BUCKET}/groups/g"}
    own = {f"{base}server": smtp_server.address, **to}
    world = World({**settings, **own, "kinto.storage_url": postgresql_url})
    mail = next(one for one in world.configuration.channels if one.name == "mail")
    world.put(f"{BUCKET}/groups/g", members=["ldap:a@x.org", "account:b"])
    assert isinstance(mail.call_async(make_event(), make_delivery()), Delivered)
    (received,) = smtp_server.messages
    assert received.recipients == ("boss@x.org", "a@x.org")
    mail._groups._storage.client.session_factory.get_bind().dispose()


def test_a_letter_goes_to_those_whom_the_hook_names(
    settings: dict[str, str], postgresql_url: str, smtp_server: LocalSmtp
) -> None:
    """Those in the group, and nobody of the ini; one to nobody is no letter."""
    base = f"{BASE}channels.mail."
    own = {f"{base}server": smtp_server.address, f"{base}bcc": "audit@example.org"}
    world = World({**settings, **own, "kinto.storage_url": postgresql_url})
    mail = next(one for one in world.configuration.channels if one.name == "mail")
    world.put(f"{BUCKET}/groups/c-readers", members=["ldap:a@x.org", "account:b"])
    letter = {
        **LETTER,
        "sender": "Joe <joe@x.org>",
        "recipients": ["/buckets/b/groups/{collection_id}-readers", "d@x.org"],
    }
    nobody = {**LETTER, "recipients": ["/buckets/b/groups/none"]}
    world.put(COLLECTION, **{"kinto-emailer": hooks(letter, nobody)})
    first, second = world.told_to("mail")
    outcome = mail.call_async(first.event, make_delivery(key=first.key))
    assert isinstance(outcome, Delivered)
    (received,) = smtp_server.messages
    assert set(received.recipients) == {"a@x.org", "d@x.org"}
    assert received.sender == "kinto@example.org"
    assert received.message["Reply-To"] == "Joe <joe@x.org>"
    outcome = mail.call_async(second.event, make_delivery(key=second.key))
    assert outcome.detail == "nobody to write to in ['/buckets/b/groups/none']"
    assert len(smtp_server.messages) == 1
    mail._groups._storage.client.session_factory.get_bind().dispose()


# --- what goes around the checks -----------------------------------------------------------------


def test_the_default_bucket_has_hooks_like_any_other(settings: dict[str, str]) -> None:
    """Kinto has an empty collection at hand there, whatever is stored."""
    settings["kinto.includes"] = "kinto.plugins.default_bucket"
    world = World(settings)
    collection = "/buckets/default/collections/c"
    world.put(collection, **{"kinto-dispatch": hooks(HOOK)})
    world.told()
    world.put(f"{collection}/records/r")
    assert texts(world.told_to("ops")) == ["r created"]


def test_hooks_of_several_collections_are_told_apart(world: World) -> None:
    """Also where one collection has a hook of another format in front of those of the bucket."""
    first, second = ({"channel": "ops", "template": f"{name} {{{{ uri }}}}"} for name in "XY")
    world.put(BUCKET, 200, **{"kinto-dispatch": hooks(first, second)})
    world.put(COLLECTION, **{"kinto-slack": hooks({"template": "S", "channel": "#team"})})
    world.put(f"{BUCKET}/collections/d")
    world.told()
    world.app.delete(f"{BUCKET}/collections")
    told = world.told_to("ops")
    assert texts(told) == [f"{name} {BUCKET}/collections" for name in "XY"]
    for one in told:
        assert {change.object_id for change in one.event.changes} == {"c", "d"}


def test_a_hook_that_is_written_twice_in_a_batch_is_told_as_it_stood(world: World) -> None:
    """Each write of the collection by the hook that it wrote."""
    world.put(COLLECTION)
    world.told()
    versions = [{"kinto-dispatch": hooks({"channel": "ops", "template": name})} for name in "XY"]
    assert world.batch(*(("PATCH", COLLECTION, version) for version in versions)) == [200, 200]
    assert texts(world.told_to("ops")) == ["X", "Y"]


FOREIGN = "/buckets/other/groups/secret"


@pytest.mark.parametrize(
    "recipient",
    [FOREIGN, FOREIGN + "{bucket_id[/]}", "/buckets/{bucket_id}/groups/g"],
    ids=["plain", "filled to nothing", "filled in"],
)
@pytest.mark.parametrize("behavior", ["full", "light", "diff"])
def test_groups_of_another_bucket_are_refused_however_they_are_written(
    world: World, recipient: str, behavior: str
) -> None:
    """Whoever may write here need not be allowed to read there, and Kinto takes what a client
    sent out of what it shows of the object."""
    world.put(COLLECTION)
    hook = {"template": "t", "recipients": [recipient]}
    answer = world.app.patch_json(
        COLLECTION,
        {"data": {"kinto-emailer": hooks(hook)}},
        headers={"Response-Behavior": behavior},
        status=400,
    )
    assert "another bucket" in answer.json["message"]


def test_a_patch_of_a_collection_that_is_deleted_next(world: World) -> None:
    """There is nothing left to be judged."""
    world.put(COLLECTION, **{"kinto-dispatch": hooks(HOOK)})
    light = {"Response-Behavior": "light"}
    patch = {"method": "PATCH", "path": COLLECTION, "headers": light, "body": {"data": {"x": 1}}}
    both = {"requests": [patch, {"method": "DELETE", "path": COLLECTION}]}
    answer = world.app.post_json("/batch", both)
    assert [part["status"] for part in answer.json["responses"]] == [200, 200]


@pytest.mark.parametrize("recipient", [FOREIGN, FOREIGN + "{bucket_id[/]}"])
def test_groups_of_another_bucket_are_sent_nothing(memory_world: World, recipient: str) -> None:
    """Nor where the hook was written before anybody checked it: a dead letter that says why."""
    mail = next(one for one in memory_world.configuration.channels if one.name == "mail")
    hook = {"template": "t", "recipients": [recipient]}
    subscription = Subscription(
        format="kinto-emailer", owner=COLLECTION, channel="mail", hook=hook
    )
    with pytest.raises(RenderError, match="a group of another bucket"):
        mail.render(make_event(subscriptions=(subscription,)))


@pytest.mark.parametrize("pattern", ["^(?au)x", "^(?V0V1)x", "^(", "^" + "(" * 199])
def test_a_pattern_that_is_none_is_refused(memory_world: World, pattern: str) -> None:
    """In whatever way the library says so."""
    hook = {**LETTER, "record_id": pattern}
    answer = memory_world.put(COLLECTION, 400, **{"kinto-emailer": hooks(hook)})
    assert "no regular expression" in answer.json["message"]


async def test_hooks_are_judged_beside_the_event_loop(settings: dict[str, str]) -> None:
    """Their authors are not trusted with it: leases are renewed meanwhile, attempts go on."""
    channel = next(one for one in configure(full_settings(settings)).channels if one.name == "ops")
    subscription = Subscription(
        format="kinto-dispatch", owner=COLLECTION, channel="ops", hook={**HOOK, "when": "new.a"}
    )
    changes = tuple(make_change(object_id=str(number), new={"a": 1}) for number in range(500))
    event = make_event(changes=changes, subscriptions=(subscription,))
    batch = [(LogEntry("1-0", event.encode()), event)]
    judged = asyncio.create_task(judge(channel, batch))
    await asyncio.sleep(0)
    assert not judged.done()
    entries, dead = await judged
    assert (len(entries), list(dead)) == (1, [])
