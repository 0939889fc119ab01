"""Hooks in metadata as values: what is refused, what is filled in, whom they may name."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinto_dispatch.budget import Budget
from kinto_dispatch.errors import BadHook, BadSettings
from kinto_dispatch.event import Event, Subscription
from kinto_dispatch.mailboxes import is_mailbox, mailbox
from kinto_dispatch.plugins import configure
from kinto_dispatch.settings import DispatchSettings
from kinto_dispatch.subscriptions import (
    Openings,
    compile_hook,
    hooks_of,
    patterns,
    placeholders,
    problems_of,
)
from kinto_dispatch.subscriptions.recipients import (
    foreign_groups,
    group_of,
    members_to_addresses,
)
from kinto_dispatch.testing.builders import make_change, make_event


OURS, EMAILER, SLACK = "kinto-dispatch", "kinto-emailer", "kinto-slack"
HOOK = {"channel": "ops", "template": "{{ change.object_id }}"}
LETTER = {"template": "{record_id} {action}", "recipients": ["a@b.org"]}
NOTE = {"template": "{record_id}", "channel": "team"}
OPEN = Openings({"ops": "webhook", "mail": "email", "team": "slack", "other": "slack"}, "mail")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def problems(format: str, written: Any) -> list[str]:
    found = problems_of({format: written}, "b", OPEN)
    return [f"{where}: {why}" for where, why in found]


@pytest.mark.parametrize(
    ("format", "hook"),
    [
        (OURS, HOOK),
        (OURS, {"channel": "mail", "recipients": ["Joe <a@b.org>", "/buckets/b/groups/g"]}),
        (
            OURS,
            {
                **HOOK,
                "actions": ["update"],
                "resources": ["record"],
                "uris": ["/buckets/b/collections/*/records/*"],
                "users": ["account:*"],
                "when": "contains(changed, 'status')",
                "subject": "{{ resource_name }}",
            },
        ),
        (EMAILER, LETTER),
        (EMAILER, {**LETTER, "sender": "Kinto <k@x.org>", "subject": "{user_id}", "unknown": 1}),
        (EMAILER, {**LETTER, "collection_id": "^(?!normandy-recipes$)", "record_id": "^x+"}),
        (EMAILER, {**LETTER, "recipients": ["/buckets/b/groups/{collection_id}-reviewers"]}),
        (EMAILER, {**LETTER, "template": "{changes_count} {comment} {settings[project_name]}"}),
        (SLACK, NOTE),
        (SLACK, {**NOTE, "channel": "#other", "template": "{whatever}"}),
    ],
)
def test_hooks_as_people_write_them(format: str, hook: Any) -> None:
    """All keys of each format, as its documentation has them."""
    assert problems(format, {"hooks": [hook]}) == []
    compile_hook(format, hook)


@pytest.mark.parametrize(
    ("format", "written", "reason"),
    [
        (OURS, None, "kinto-dispatch.hooks: expected a list"),
        (OURS, {"hooks": {}}, "kinto-dispatch.hooks: expected a list"),
        (OURS, {"hooks": ["x"]}, "kinto-dispatch.hooks.0: expected an object"),
        (OURS, {"hooks": [HOOK] * 21}, "kinto-dispatch.hooks: 21 hooks, at most 20"),
        (OURS, {"hooks": [HOOK, {}]}, "kinto-dispatch.hooks.1.channel: field required"),
        (OURS, {"hooks": [{"channel": "opps"}]}, "'opps' is not open for hooks; open are: ops"),
        (OURS, {"hooks": [{**HOOK, "url": "http://10.0.0.1"}]}, "hooks.0.url: extra inputs"),
        (OURS, {"hooks": [{**HOOK, "plugin": "slack"}]}, "hooks.0.plugin: extra inputs"),
        (OURS, {"hooks": [{**HOOK, "actions": "create"}]}, "hooks.0.actions: "),
        (OURS, {"hooks": [{**HOOK, "actions": ["read"]}]}, "hooks.0.actions.0: "),
        (OURS, {"hooks": [{**HOOK, "when": "new.x =="}]}, "hooks.0.when: "),
        (OURS, {"hooks": [{**HOOK, "when": 5}]}, "hooks.0.when: "),
        (OURS, {"hooks": [{**HOOK, "uris": ["/buckets/default/**"]}]}, "hooks.0.uris: "),
        (OURS, {"hooks": [{**HOOK, "template": "{{ x.__class__ }}"}]}, "hooks.0.template: "),
        (OURS, {"hooks": [{**HOOK, "template": "{% for"}]}, "hooks.0.template: "),
        (OURS, {"hooks": [{**HOOK, "template": "{{ nonsense }}"}]}, "hooks.0.template: "),
        (OURS, {"hooks": [{**HOOK, "template": "x" * 10_001}]}, "hooks.0.template: "),
        (OURS, {"hooks": [{**HOOK, "recipients": ["a@b.org"] * 51}]}, "hooks.0.recipients: "),
        (EMAILER, [], "kinto-emailer.hooks: expected a list"),
        (EMAILER, {"hooks": [{**LETTER, "template": 5}]}, "hooks.0.template: "),
        (EMAILER, {"hooks": [{"recipients": ["a@b.org"]}]}, "hooks.0.template: field required"),
        (EMAILER, {"hooks": [{**LETTER, "recipients": []}]}, "hooks.0.recipients: "),
        (EMAILER, {"hooks": [{**LETTER, "action": ["create"]}]}, "hooks.0.action: "),
        (EMAILER, {"hooks": [{**LETTER, "sender": "a@b\r\nX: y"}]}, "hooks.0.sender: "),
        (EMAILER, {"hooks": [{**LETTER, "id": "^("}]}, "hooks.0.id: '^(' is no regular"),
        (EMAILER, {"hooks": [{**LETTER, "id": "^" + "a" * 200}]}, "201 characters, at most 200"),
        (EMAILER, {"hooks": [{**LETTER, "template": "{no}"}]}, "{no} is not known; there are"),
        (EMAILER, {"hooks": [{**LETTER, "template": "50 {"}]}, "hooks.0.template: "),
        (EMAILER, {"hooks": [{**LETTER, "template": "{id:>999999999}"}]}, "{id} has a format"),
        (EMAILER, {"hooks": [{**LETTER, "template": "{id!r}"}]}, "{id} has a format"),
        (EMAILER, {"hooks": [{**LETTER, "template": "{uri.__class__}"}]}, "is no name"),
        (SLACK, {"hooks": [{"template": "x"}]}, "None is not open for hooks"),
        (SLACK, {"hooks": [{**NOTE, "channel": "ops"}]}, "open are: team, other"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(format: str, written: Any, reason: str) -> None:
    """Whoever wrote it reads where and why (B17, B18, B19, B28)."""
    (problem,) = problems(format, written)
    assert reason in problem


@pytest.mark.parametrize(
    "recipient",
    [
        "x <b@c.org>\r\nBcc: e@x",
        "b@c.org\n",
        "a@b.org, c@d.org",
        "a@b.org c@d.org",
        "a..b@c.org",
        "nobody",
        "@b.org",
        "a@",
        "{user_id}",
        "/buckets/bb/groups/secret",
        "/buckets/{collection_id}/groups/g",
        "/buckets/b/groups/../../bb/groups/g",
        "/buckets/b/groups/g/",
        "/buckets/b/groups/{nonsense}",
    ],
)
def test_recipients_are_addresses_or_groups_of_the_same_bucket(recipient: str) -> None:
    """Each is exactly one, with nothing before or behind it (B15, B16)."""
    hook = {**LETTER, "recipients": ["fine@b.org", recipient]}
    assert len(problems(EMAILER, {"hooks": [hook]})) == 1


def test_older_formats_are_left_alone_without_a_channel_for_them() -> None:
    """The plugins that they were written for may still run."""
    nobody = Openings({"ops": "webhook"})
    metadata = {EMAILER: {"hooks": "nonsense"}, SLACK: {"hooks": [NOTE]}}
    assert list(problems_of(metadata, "b", nobody)) == []
    assert list(hooks_of(metadata, nobody)) == []


@given(written=JSON)
@pytest.mark.parametrize("format", [OURS, EMAILER, SLACK])
def test_whatever_stands_in_metadata_is_judged(format: str, written: Any) -> None:
    """Never with an error of our own; and what has no problem can be carried out."""
    for value in (written, {"hooks": written}, {"hooks": [written]}):
        wrong = problems(format, value)
        found = list(hooks_of({format: value}, OPEN))
        if not wrong:
            assert len([one for one in found if one[1] is not None]) == len(value["hooks"])
        for name, _, hook in found:
            try:
                compiled = compile_hook(name, hook)
            except BadHook:
                assert wrong
            else:
                compiled.select(make_event(), Budget(10_000_000))


# --- placeholders --------------------------------------------------------------------------------


@given(text=st.text())
def test_a_template_never_raises_anything_else(text: str) -> None:
    """It is read, or refused with a reason; filled in, what is not there is empty."""
    try:
        template = placeholders.read(text, None)
    except placeholders.BadTemplate:
        return
    template.fill({"a": 1})


@given(value=JSON)
def test_a_value_is_filled_in_as_it_is(value: Any) -> None:
    """What a record holds is never read as a template."""
    template = placeholders.read("<{value}>", None)
    filled = template.fill({"value": value})
    if isinstance(value, str):
        assert filled == f"<{value}>"


def test_what_is_filled_in_is_bounded() -> None:
    """However often and however long (B18)."""
    template = placeholders.read("{value}" * 1_400, None)
    started = time.process_time()
    text = template.fill({"value": "x" * 1_000_000})
    assert len(text) == placeholders.LONGEST_TEXT
    assert time.process_time() - started < 1


def test_lists_and_objects_are_filled_in_as_python_writes_them() -> None:
    """As ``str.format`` did it for the two plugins. Not at any price (B18): what they would take
    seconds and gigabytes for stands there as three dots, also when asked for many times."""
    fill = placeholders.read("{a} {b}", None).fill
    assert fill({"a": ["x", {"y": None}], "b": []}) == "['x', {'y': None}] []"
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    wide = ["x" * 100] * 1_000_000
    started = time.process_time()
    assert fill({"a": wide, "b": ["x"]}) == "… …"
    assert fill({"a": deep, "b": 1}) == "… 1"
    many = placeholders.read("{a}" * 3_000, None).fill({"a": ["x" * 10_000] * 100})
    assert many.endswith("…" * 100)
    assert time.process_time() - started < 2


def test_paths_lead_through_keys_and_positions_only() -> None:
    """Never to attributes, and nowhere if there is nothing (B17)."""
    context = {"one": {"two": [{"three": 3}]}}
    for text, filled in {
        "{one[two][0][three]}": "3",
        "{one[two][1][three]}": "",
        "{one[two][-1][three]}": "",
        "{one[__class__]}": "",
        "{other}": "",
        "{{one}}": "{one}",
    }.items():
        assert placeholders.read(text, None).fill(context) == filled


# --- patterns ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [
        ("c", "c", True),
        ("c", "cc", False),
        ("^c", "cc", True),
        ("^c$", "cc", False),
        ("^(?!c$)", "c", False),
        ("^(?!c$)", "d", True),
        ("c.*", "cc", False),
    ],
)
def test_patterns_match_as_in_kinto_emailer(pattern: str, value: str, expected: bool) -> None:
    """Equality, or from the beginning on."""
    assert patterns.matches(pattern, value) is expected


@pytest.mark.parametrize("pattern", ["^(a|aa)+$", "^(.*a){20}$", "^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_a_pattern_without_end_is_given_up(pattern: str) -> None:
    """Whatever it does, it is over in far less than a second (B19)."""
    started = time.process_time()
    with contextlib.suppress(patterns.BadPattern):
        patterns.matches(pattern, "a" * 900 + "!")
    assert time.process_time() - started < 1


# --- recipients ----------------------------------------------------------------------------------


@given(text=st.text())
def test_an_address_is_one_line_and_one_address(text: str) -> None:
    """Whatever is taken for an address could stand in a header as it is."""
    if is_mailbox(text):
        assert text.isprintable()
        assert mailbox(text).address.count("@") == 1
        assert not set(mailbox(text).address) & set(' ,;"<>()')


def test_members_are_told_apart_from_their_prefixes() -> None:
    """As kinto-emailer does; who has no address is left out."""
    members = [
        "ldap:a@x.org",
        "b@x.org",
        "basicauth:3f2a",
        "system.Everyone",
        5,
        "a:b:c@d.e",
        "a..b@x.org",
    ]
    assert members_to_addresses(members) == ["a@x.org", "b@x.org"]


def test_a_group_is_exactly_that() -> None:
    """Its bucket and its id; nothing before, behind or between."""
    assert group_of("/buckets/b/groups/g") == ("b", "g")
    for text in ("/buckets/b/groups/", "/buckets/b/groups/g\n", "x/buckets/b/groups/g"):
        assert group_of(text) is None


# --- on the wire ---------------------------------------------------------------------------------


def test_an_event_carries_what_was_subscribed() -> None:
    """As it stood when the event was captured; without hooks the wire is as it was."""
    plain = make_event()
    assert b"subscriptions" not in plain.encode()
    one = Subscription(format=OURS, owner="/buckets/b", channel="ops", hook=HOOK, changes=(0,))
    event = make_event(changes=(make_change(),), subscriptions=(one,))
    assert Event.decode(event.encode()) == event
    assert event.only(()).subscriptions == (one,)


# --- what is compiled, and who is left -----------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    [
        "^(?:x{5000}){5000}",
        "^(?:a{1000}){1000}",
        "^((x{99}){99}){99}",
        "^x{1,99999}",
        "^x{ 99999 ,}",
    ],
)
def test_a_pattern_that_is_unrolled_without_end_is_not_compiled(pattern: str) -> None:
    """The library would take gigabytes for it, in the process that answers the write (B19)."""
    before = psutil.Process().memory_info().rss
    with pytest.raises(patterns.BadPattern, match="is too large"):
        patterns.check(pattern)
    assert psutil.Process().memory_info().rss - before < 50_000_000


@pytest.mark.parametrize(
    "pattern", ["^[0-9]{4}-[0-9]{2}-[0-9]{2}$", "^.{1,100}$", "^(a|b){1,5}.{1,50}$", "^a{,3}{b}"]
)
def test_patterns_with_counts_of_people_are_compiled(pattern: str) -> None:
    """Dates, lengths and such."""
    patterns.check(pattern)


def test_nobody_left_is_not_nobody_named() -> None:
    """Where no placeholder fills to an address nobody is written to; where a hook names none, the
    channel's own are."""
    event = make_event(user_id="account:alice")

    def recipients(format: str, hook: dict[str, Any]) -> object:
        subscription = Subscription(format=format, owner="/buckets/b", channel="mail", hook=hook)
        return compile_hook(format, hook).render(event, subscription).recipients

    assert recipients(EMAILER, {**LETTER, "recipients": ["{user_id}@example.com"]}) == ()
    assert recipients(SLACK, NOTE) is None
    assert recipients(OURS, HOOK) is None
    assert recipients(OURS, {**HOOK, "recipients": ["a@b.org"]}) == ("a@b.org",)


# --- where hooks of kinto-emailer go -------------------------------------------------------------


def settings_with(*emailing: str, **more: str) -> DispatchSettings:
    """Open channels that use e-mail, and ``closed``, which is not open."""
    base = "kinto.event_listeners.dispatch."
    mail = {"plugin": "email", "from": "k@x.org", "recipients": "a@x.org"}
    channels = {name: {**mail, "subscribable": "true"} for name in emailing} | {"closed": mail}
    given = {
        "kinto.event_listeners": "dispatch",
        f"{base}use": "kinto_dispatch",
        f"{base}channels": " ".join(channels),
        **{f"{base}{name}": value for name, value in more.items()},
    }
    for name, options in channels.items():
        given |= {f"{base}channels.{name}.{key}": value for key, value in options.items()}
    return configure(given, {}).settings


def test_letters_go_to_the_channel_that_is_named() -> None:
    """Or to the only one that is open; where none is, the formats of others are left alone."""
    assert Openings.of(settings_with("a", "b", emailer_channel="b")).emailer == "b"
    assert Openings.of(settings_with("a")).emailer == "a"
    assert Openings.of(settings_with()).emailer is None
    letter = {"kinto-emailer": {"hooks": [LETTER]}}
    named = Openings.of(settings_with("a", "b", emailer_channel="b"))
    assert [channel for _, channel, _ in hooks_of(letter, named)] == ["b"]


def test_groups_of_buckets_with_a_longer_name_are_foreign() -> None:
    """What stands in a record may fill in the name of a group when the message is made (B16)."""
    groups = [f"/buckets/{bucket}/groups/g" for bucket in ("b", "bb", "a")]
    assert foreign_groups(["x@y.org", *groups], "/buckets/b/collections/c") == groups[1:]


def test_a_note_without_a_channel_goes_to_the_only_one() -> None:
    """Where there are several it goes to none of them."""
    note = {SLACK: {"hooks": [{"template": "x"}]}}
    for plugins, told in (({"team": "slack", "mail": "email"}, "team"), ({"mail": "email"}, None)):
        assert [one for _, one, _ in hooks_of(note, Openings(plugins))] == [told][: bool(told)]
    several = Openings({"team": "slack", "other": "slack"})
    assert [channel for _, channel, _ in hooks_of(note, several)] == [None]
    assert list(problems_of(note, "b", Openings({"team": "slack"}))) == []


@pytest.mark.parametrize(
    ("emailing", "named", "said"),
    [
        (("a", "b"), {}, r"emailer_channel: .*2 channels that use email.*\(a, b\)"),
        (("a",), {"emailer_channel": "closed"}, r"emailer_channel: .*subscribable = true \(a\)"),
        (("a",), {"emailer_channel": "gone"}, r"emailer_channel: .*gone.*subscribable = true"),
    ],
)
def test_where_letters_would_go_nowhere_the_start_says_so(
    emailing: tuple[str, ...], named: dict[str, str], said: str
) -> None:
    """With a second open channel all hooks of kinto-emailer would fall silent."""
    with pytest.raises(BadSettings, match=said):
        settings_with(*emailing, **named)
