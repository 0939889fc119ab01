"""An event on the wire is the same event, and nothing else is one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kinto_dispatch.errors import UndecodableEvent
from kinto_dispatch.event import Event
from kinto_dispatch.testing.builders import make_change, make_event


TEXT = st.text(st.characters())  # lone surrogates included, which Kinto's JSON may hold
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=15,
)
OBJECTS = st.none() | st.dictionaries(TEXT, JSON, max_size=4)


@st.composite
def events(draw: st.DrawFn) -> Event:
    """Any event that Kinto could make, and more."""
    changes = draw(st.lists(st.tuples(TEXT, OBJECTS, OBJECTS), max_size=3))
    return make_event(
        id=draw(TEXT),
        action=draw(st.sampled_from(["create", "update", "delete"]) | TEXT),
        user_id=draw(st.none() | TEXT),
        timestamp=draw(st.integers()),
        payload=draw(st.dictionaries(TEXT, JSON, max_size=4)),
        changes=tuple(
            make_change(uri=uri, object_id=uri, old=old, new=new, changed=tuple(new or old or ()))
            for uri, old, new in changes
        ),
    )


@given(events())
@example(make_event(payload={"n": 2**64, "m": -(2**63) - 1, "half": "\ud800", "nul": "\x00"}))
def test_an_event_comes_back(event: Event) -> None:
    """With numbers of any size, half characters and NUL (B23)."""
    assert Event.decode(event.encode()) == event


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"\x9b")
@example(b'{"v":1,"id":"\xff"}')
@example(b"[" * 100_000)
@example(b"9" * 5_000)
def test_whatever_else_is_no_event(body: bytes) -> None:
    """One error for everything, whose text is short (B22)."""
    with pytest.raises(UndecodableEvent) as raised:
        Event.decode(body)
    assert len(str(raised.value)) < 1_000


@given(st.sampled_from(sorted(json.loads(make_event().encode()))), JSON)
def test_a_field_of_the_wrong_kind_makes_no_event(field: str, value: Any) -> None:
    """What is not as declared is refused, rather than passed on to a channel (B22)."""
    right = json.loads(make_event().encode())
    body = json.dumps({**right, field: value}).encode()
    try:
        event = Event.decode(body)
    except UndecodableEvent:
        return
    if field == "v":
        assert value == 1
    elif field != "changes":
        assert getattr(event, field) == value
        assert type(getattr(event, field)) is type(value)


def test_a_reason_does_not_grow_with_the_place() -> None:
    """Where something is wrong may be a thousand levels deep."""
    body = (
        make_event().encode().replace(b'"payload":{', b'"payload":{"a":' + b"[" * 900 + b"1e999")
    )
    with pytest.raises(UndecodableEvent) as raised:
        Event.decode(body)
    assert len(str(raised.value)) < 1_000


def test_fields_of_later_releases_are_ignored() -> None:
    """A field that is added is no new version (R29)."""
    event = make_event()
    body = json.dumps({**json.loads(event.encode()), "weather": "fine"}).encode()
    assert Event.decode(body) == event
