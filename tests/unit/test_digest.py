"""Several events become one: what they have in common stays, and nothing is invented."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kinto_dispatch.delivery import delivery_key
from kinto_dispatch.digest import join, name_of, place_of, read_event, read_events
from kinto_dispatch.errors import UndecodableEvent
from kinto_dispatch.event import Event, Subscription
from kinto_dispatch.router.entries import entries_of
from kinto_dispatch.settings import ChannelSettings
from kinto_dispatch.testing.builders import make_change, make_event


RECORDS = "/buckets/b/collections/c/records"


def body_of(*events: Event) -> bytes:
    """As the queue makes it."""
    return b"".join(b"\x1e" + event.encode() + b"\n" for event in events)


def channel(**settings: object) -> ChannelSettings:
    return ChannelSettings(
        name="ops",
        alias="a",
        prefix="p",
        plugin="x",
        options={},
        **settings,
    )


def test_what_is_the_same_stays() -> None:
    """A digest of two updates by one user in one collection says so."""
    first, last = (make_event(id=one, payload={"bucket_id": "blog"}) for one in "12")
    joined = join([first, last])
    assert joined == replace(last, changes=(*first.changes, *last.changes))


def test_what_differs_is_said_to_differ() -> None:
    """No field has the value of one event where another has a different one."""
    first = make_event(id="1", action="create", user_id="a", uri=f"{RECORDS}/x", payload={"a": 1})
    last = make_event(
        id="2",
        action="delete",
        resource_name="collection",
        user_id=None,
        uri="/buckets/b/collections/d",
        bucket_id="b",
        collection_id="d",
        group_id="g",
        request_id="r",
        root_url="http://elsewhere",
    )
    joined = join([replace(first, bucket_id="b", collection_id="c"), last])
    assert (joined.action, joined.resource_name, joined.user_id) == ("change", "object", "several")
    assert (joined.uri, joined.bucket_id) == ("/buckets/b/collections", "b")
    assert (joined.collection_id, joined.group_id, joined.request_id) == (None, None, None)
    assert (joined.payload, joined.root_url, joined.id) == ({}, "http://elsewhere", "2")


@given(
    st.lists(st.text(alphabet='\x1e\n\r\t x"\\\u2028\ud800', max_size=9), min_size=1, max_size=5)
)
def test_every_event_comes_back(texts: list[str]) -> None:
    """Whatever stands in it, also what separates events: JSON escapes it."""
    events = [
        make_event(id=str(number), changes=(make_change(new={"text": text}),))
        for number, text in enumerate(texts)
    ]
    assert list(read_events(body_of(*events))) == events
    if len(events) > 1:
        changes = tuple(change for event in events for change in event.changes)
        assert read_event(body_of(*events)).changes == changes


def test_one_event_is_itself() -> None:
    """With the number of versions that it stands for."""
    event = make_event()
    assert read_event(event.encode()) == event
    assert read_event(event.encode(), 3) == replace(event, skipped=3)


@pytest.mark.parametrize("body", [b"\x1e", b"\x1enot json\n", b"\x1e{}\n\x1e\n", b""])
def test_what_is_no_event_is_told(body: bytes) -> None:
    """As with any other body: it becomes a dead letter."""
    with pytest.raises(UndecodableEvent):
        read_event(body)


@pytest.mark.parametrize(
    ("uri", "by", "place"),
    [
        (f"{RECORDS}/r", "channel", "channel"),
        (f"{RECORDS}/r", "collection", "/buckets/b/collections/c"),
        (f"{RECORDS}/r", "record", f"{RECORDS}/r"),
        ("/buckets/b/collections/c", "collection", "/buckets/b/collections/c"),
        ("/buckets/b/groups/g", "collection", "/buckets/b"),
        ("/buckets/b", "collection", "/buckets/b"),
        ("/accounts/alice", "collection", "/accounts/alice"),
    ],
)
def test_where_a_change_is_collected(uri: str, by: str, place: str) -> None:
    """What lies in no collection is collected for its bucket."""
    assert place_of(uri, by) == place


def test_hooks_are_told_apart() -> None:
    """By what stands in them, and not by the event that they come with."""
    hook = Subscription(format="f", owner="/buckets/b", channel="ops", hook={"a": 1})
    same = replace(hook, changes=(1,), context={"user_agent": "x"})
    assert name_of(hook) == name_of(same) != name_of(replace(hook, hook={"a": 2}))


def test_each_place_is_a_delivery() -> None:
    """One event of changes in two collections is one delivery for each, with a key of its own."""
    uris = ("c/records/1", "d/records/2", "c/records/3")
    changes = tuple(make_change(uri=f"/buckets/b/collections/{uri}") for uri in uris)
    event = make_event(changes=changes)
    key = delivery_key(event.id, "ops")
    first, second = entries_of(event, changes, key, by="collection")
    assert (first.key, first.digest) == (f"{key}:0", "/buckets/b/collections/c")
    assert (second.key, second.digest) == (f"{key}:1", "/buckets/b/collections/d")
    assert Event.decode(first.body).changes == (changes[0], changes[2])
    (whole,) = entries_of(event, changes[:1], key, by="collection")
    assert whole.key == key


@pytest.mark.parametrize(
    ("settings", "by"),
    [
        ({}, None),
        ({"digest_seconds": 1.0}, "channel"),
        ({"digest_seconds": 1.0, "digest_by": "record"}, "record"),
        ({"collapse": "latest"}, "record"),
        ({"collapse": "latest", "digest_seconds": 1.0}, "record"),
    ],
)
def test_what_is_collected(settings: dict[str, object], by: str | None) -> None:
    """Versions of one record collapse, so they are collected by record."""
    assert channel(**settings).collects_by == by
