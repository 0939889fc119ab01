"""Capturing values of every kind: what goes in comes out, and nothing gets in the way."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinto.core.events import ACTIONS, EventCollector, ResourceChanged
from pyramid import testing
from pyramid.interfaces import IRoutesMapper

from kinto_dispatch.capture import Captured, capture, void_collected
from kinto_dispatch.event import Change


OBJECT_PATH = "/v1/buckets/{bucket_id}/collections/{collection_id}/records/{id}"

numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text() | st.sampled_from(["\ud800", "\x00", "é", "\U0001f600"])
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
fields = st.dictionaries(texts.filter(lambda name: name != "id"), values, max_size=5)


@pytest.fixture(scope="module", autouse=True)
def _routes() -> Iterator[None]:
    """The addresses that Kinto gives to records."""
    config = testing.setUp()
    config.add_route("record-object", OBJECT_PATH)
    config.add_route("hello", "/v1/")
    yield
    testing.tearDown()


def kinto_event(action: str, *impacted: dict[str, Any], **payload: Any) -> Any:
    """An event as Kinto makes it, on a request of Pyramid's."""
    request = testing.DummyRequest()
    request.bound_data = {}
    payload = {
        "action": action,
        "resource_name": "record",
        "uri": "/buckets/b/collections/c/records",
        "timestamp": 1,
        "user_id": None,
        "bucket_id": "b",
        "collection_id": "c",
        **payload,
    }
    return ResourceChanged(payload, list(impacted), request)


def captured_change(action: str, **impacted: Any) -> Change:
    captured = capture(kinto_event(action, impacted))
    assert captured is not None
    (change,) = captured.event.changes
    return change


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_an_address_is_worked_out_once_per_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many users write however many objects: it takes a third of a capture."""
    request = testing.DummyRequest()
    route = request.registry.getUtility(IRoutesMapper).get_route("record-object")
    generate, made = route.generate, []
    monkeypatch.setattr(route, "generate", lambda it: made.append(it) or generate(it))
    uris = []
    for number in range(3):
        ids = {"user_id": f"account:{number}", "record_id": f"r{number}", "collection_id": "many"}
        event = kinto_event("create", {"new": {"id": f"r{number}"}}, **ids)
        captured = capture(event)
        assert captured is not None
        uris += [change.uri for change in captured.event.changes]
    assert uris == [f"/buckets/b/collections/many/records/r{number}" for number in range(3)]
    assert len(made) == 1


@given(fields, fields)
def test_an_update_comes_out_as_it_went_in(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Any JSON arrives unchanged, and every field is said to have changed exactly if it has."""
    old, new = {"id": "r", **old}, {"id": "r", **new}
    change = captured_change("update", old=old, new=new)
    assert (change.old, change.new) == (as_json(old), as_json(new))
    for name in (old.keys() | new.keys()) - {"last_modified"}:
        same = name in old and name in new and _canonical(old[name]) == _canonical(new[name])
        assert (name in change.changed) is not same
    assert list(change.changed) == sorted(set(change.changed))


def _canonical(value: Any) -> str:
    """One text for what is the same JSON: 1.0 is 1, but true is not."""

    def whole(inner: Any) -> Any:
        if isinstance(inner, float) and inner.is_integer():
            return int(inner)
        if isinstance(inner, list):
            return [whole(item) for item in inner]
        if isinstance(inner, dict):
            return {name: whole(item) for name, item in inner.items()}
        return inner

    return json.dumps(whole(value), sort_keys=True)


@given(fields)
def test_what_happens_later_to_kintos_dictionaries_does_not_matter(new: dict[str, Any]) -> None:
    """The captured event is bytes: nothing that others hold leads into it."""
    new = {"id": "r", "inner": {"list": [1]}, **new}
    before = as_json(copy.deepcopy(new))
    event = kinto_event("create", {"new": new})
    captured = capture(event)
    assert captured is not None
    new["inner"] = "spoilt"
    new["more"] = "spoilt"
    event.payload["uri"] = "spoilt"
    assert captured.event.changes[0].new == before
    assert "spoilt" not in str(captured.event)


@pytest.mark.parametrize(
    "value",
    [object(), 10**5000, {1, 2}, b"\xff", {(1, 2): 3}, [[[object()]]]],
    ids=["object", "digits", "set", "bytes", "tuple key", "deep inside"],
)
@pytest.mark.parametrize("action", ["create", "update", "delete"])
def test_any_python_value_is_survived(action: str, value: Any) -> None:
    """What no JSON can hold leaves at most its own change without contents, never an error."""
    good = {"old": {"id": "good"}, "new": {"id": "good"}}
    bad = {"old": {"id": "bad", "x": value}, "new": {"id": "bad", "x": value}}
    captured = capture(kinto_event(action, good, bad))
    assert captured is not None
    first, second = captured.event.changes
    assert (first.new if action == "create" else first.old) == {"id": "good"}
    assert second.uri.endswith("/records/bad")


def test_a_payload_that_cannot_be_encoded_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """Then the objects are still there."""
    captured = capture(kinto_event("create", {"new": {"id": "r"}}, odd=object()))
    assert captured is not None
    assert captured.event.payload == {}
    assert captured.event.changes[0].new == {"id": "r"}
    assert "its payload" in caplog.text


def test_odd_payloads_of_plugins_are_survived() -> None:
    """Plugins of Kinto announce events of their own making, with any value anywhere."""
    odd = {"timestamp": "never", "user_id": 5, "group_id": uuid.UUID(int=0), "bucket_id": 7}
    captured = capture(kinto_event("create", {"new": {"id": "\ud800", 1: 2}}, **odd))
    assert captured is not None
    event = captured.event
    assert (event.timestamp, event.user_id, event.bucket_id) == (0, "5", "7")
    assert event.changes[0].uri.endswith("/records/%3F")


def test_ids_are_quoted_in_uris() -> None:
    """A uri is what Kinto would answer to, whatever a plugin takes for an id."""
    change = captured_change("create", new={"id": "ä/b c@d"})
    assert change.uri == "/buckets/b/collections/c/records/%C3%A4%2Fb%20c@d"
    assert change.object_id == "ä/b c@d"


def test_an_update_of_nothing_is_all_new() -> None:
    """Plugins announce updates without an old object; then everything has changed."""
    change = captured_change("update", new={"id": "r", "x": 1}, old=None)
    assert (change.old, change.changed) == (None, ("id", "x"))


def test_a_void_object_is_recognised_by_identity_only() -> None:
    """An equal object written again after the rollback is another one, and happened."""
    rolled_back, written = {"new": {"id": "r"}}, {"new": {"id": "r"}}
    event = kinto_event("create", rolled_back, written)
    collector = EventCollector()
    collector.add_event("record", "", ACTIONS.CREATE, {}, [rolled_back], event.request)
    event.request.bound_data["resource_events"] = collector
    void_collected(event.request)
    captured = capture(event)
    assert captured is not None
    assert len(captured.event.changes) == 1
    assert capture(kinto_event("create")) is None


def test_a_captured_event_keeps_its_id() -> None:
    """The id on the wire and the id beside it are one."""
    captured = capture(kinto_event("create", {"new": {"id": "r"}}))
    assert isinstance(captured, Captured)
    assert captured.event.id == captured.id
    assert captured.event is captured.event
