"""What kinto-dispatch announces, and what it does not.

One idea per test. ``told`` is everything that a channel was told, in order; Kinto has a bucket
``b`` with a collection ``c``, and a channel that wants everything.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kinto_dispatch import Event
from kinto_dispatch.testing.kinto import make_app


RECORDS = "/buckets/b/collections/c/records"

PLUGIN = """
from kinto_dispatch import hookimpl

told = []


@hookimpl
def on_event(event):
    told.append(event)
"""

REFUSES = """
from kinto.core.errors import raise_invalid
from kinto.core.events import ResourceChanged


def refuse(event):
    for impacted in event.impacted_objects:
        if impacted["new"].get("forbidden"):
            raise_invalid(event.request, name="forbidden", description="not here")


def includeme(config):
    config.add_subscriber(refuse, ResourceChanged)
"""


@pytest.fixture(params=["memory", "postgresql"])
def app(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """A Kinto with one channel, and a plugin of Kinto's that refuses what is forbidden."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "everything_told.py").write_text(PLUGIN)
    (tmp_path / "refuses_the_forbidden.py").write_text(REFUSES)
    settings = {
        "kinto.includes": "kinto.plugins.accounts kinto.plugins.default_bucket"
        " refuses_the_forbidden",
        "kinto.account_create_principals": "system.Everyone",
        "multiauth.policies": "account basicauth",
        "multiauth.policy.account.use": (
            "kinto.plugins.accounts.authentication.AccountsAuthenticationPolicy"
        ),
        "kinto.event_listeners": "everything",
        "kinto.event_listeners.everything.use": "kinto_dispatch",
        "kinto.event_listeners.everything.plugin": "everything_told",
    }
    if request.param == "postgresql":
        settings["kinto.storage_url"] = request.getfixturevalue("postgresql_url")
    app = make_app(settings)
    app.put("/buckets/b")
    app.put("/buckets/b/collections/c")
    sys.modules["everything_told"].told.clear()
    yield app
    for name in ("everything_told", "refuses_the_forbidden"):
        del sys.modules[name]


@pytest.fixture
def told(app: Any) -> list[Event]:
    """What the channel was told since the collection is there."""
    events: list[Event] = sys.modules["everything_told"].told
    return events


# --- announced -----------------------------------------------------------------------------------


def test_a_create(app: Any, told: list[Event]) -> None:
    """A new object is announced with all of its fields and nothing before them."""
    app.put_json(f"{RECORDS}/a", {"data": {"title": "hello"}})
    (event,) = told
    (change,) = event.changes
    assert (event.action, event.resource_name) == ("create", "record")
    assert change.uri == f"{RECORDS}/a"
    assert change.old is None
    assert change.new is not None
    assert change.new["title"] == "hello"
    assert change.changed == ("id", "last_modified", "title")


def test_an_update(app: Any, told: list[Event]) -> None:
    """A changed object is announced as it was and as it is, with the names of what differs."""
    app.put_json(f"{RECORDS}/a", {"data": {"title": "one", "pages": 3}})
    app.patch_json(f"{RECORDS}/a", {"data": {"title": "two"}})
    (change,) = told[-1].changes
    assert change.old is not None
    assert change.new is not None
    assert (change.old["title"], change.new["title"]) == ("one", "two")
    assert change.changed == ("title",)


def test_a_delete(app: Any, told: list[Event]) -> None:
    """A deleted object is announced with what it last was."""
    app.put_json(f"{RECORDS}/a", {"data": {"title": "one"}})
    app.delete(f"{RECORDS}/a")
    (change,) = told[-1].changes
    assert told[-1].action == "delete"
    assert change.old is not None
    assert change.old["title"] == "one"
    assert change.new is None


def test_writing_what_is_already_there(app: Any, told: list[Event]) -> None:
    """For Kinto that is an update, so it is announced; no field has changed."""
    for _ in range(2):
        app.put_json(f"{RECORDS}/a", {"data": {"title": "one"}})
    assert [event.action for event in told] == ["create", "update"]
    assert told[-1].changes[0].changed == ()


def test_permissions(app: Any, told: list[Event]) -> None:
    """That permissions changed is announced; Kinto does not say what they are."""
    app.put_json(f"{RECORDS}/a", {"data": {}})
    app.patch_json(f"{RECORDS}/a", {"permissions": {"read": ["system.Everyone"]}})
    assert (told[-1].action, told[-1].changes[0].changed) == ("update", ())


def test_many_objects_at_once(app: Any, told: list[Event]) -> None:
    """Writes of one kind in one request are one event, with a change for each object."""
    paths = [f"{RECORDS}/{name}" for name in "abc"]
    app.post_json("/batch", {"requests": [{"method": "PUT", "path": path} for path in paths]})
    app.delete(RECORDS)
    create, delete = told
    assert [change.uri for change in create.changes] == paths
    assert {change.uri for change in delete.changes} == set(paths)


def test_a_collection_with_everything_in_it(app: Any, told: list[Event]) -> None:
    """Kinto announces the collection alone; the records in it go without a word."""
    app.put_json(f"{RECORDS}/a", {"data": {}})
    app.delete("/buckets/b/collections/c")
    assert [event.uri for event in told[1:]] == ["/buckets/b/collections/c"]


def test_the_default_bucket(app: Any, told: list[Event]) -> None:
    """The first write makes a bucket and a collection on the way; all have the real id."""
    app.put("/buckets/default/collections/notes/records/a")
    assert [event.resource_name for event in told] == ["bucket", "collection", "record"]
    (bucket_id,) = {event.bucket_id for event in told}
    assert bucket_id != "default"
    assert told[-1].uri == f"/buckets/{bucket_id}/collections/notes/records/a"


def test_an_account(app: Any, told: list[Event]) -> None:
    """Accounts are announced, their passwords are not, not even as hashes (B20)."""
    app.authorization = None
    app.put_json("/accounts/bob", {"data": {"password": "s3cr3t"}})
    (event,) = told
    assert event.uri == "/accounts/bob"
    assert event.changes[0].new is not None
    assert "password" not in event.changes[0].new


# --- not announced -------------------------------------------------------------------------------


def test_reading(app: Any, told: list[Event]) -> None:
    """Reading changes nothing. (An alias may ask for it: ``actions = read``.)"""
    app.get("/buckets/b")
    app.get(RECORDS)
    assert told == []


def test_a_write_that_kinto_refuses(app: Any, told: list[Event]) -> None:
    """Neither what is invalid, nor what comes too late, nor what is not there."""
    app.put_json(f"{RECORDS}/a", {"data": "no object"}, status=400)
    app.put("/buckets/b", headers={"If-None-Match": "*"}, status=412)
    app.delete(f"{RECORDS}/missing", status=404)
    assert told == []


def test_a_write_that_a_plugin_refuses(app: Any, told: list[Event]) -> None:
    """Plugins of Kinto may refuse a write after kinto-dispatch has seen it."""
    app.put_json(f"{RECORDS}/a", {"data": {"forbidden": True}}, status=400)
    assert told == []


def test_a_batch_that_fails_as_a_whole(app: Any, told: list[Event]) -> None:
    """One refused write refuses all writes of its batch, and all their announcements."""
    good = {"method": "PUT", "path": f"{RECORDS}/good"}
    bad = {"method": "PUT", "path": f"{RECORDS}/bad", "body": {"data": {"forbidden": True}}}
    app.post_json("/batch", {"requests": [good, bad]}, status=400)
    assert told == []


def test_the_parts_of_a_batch_that_did_not_happen(app: Any, told: list[Event]) -> None:
    """A part that is not allowed, or not there, leaves the other parts of the batch alone."""
    requests = [
        {"method": "PUT", "path": f"{RECORDS}/a"},
        {"method": "DELETE", "path": f"{RECORDS}/missing"},
        {"method": "PUT", "path": f"{RECORDS}/b", "headers": {"Authorization": "Basic eDp5"}},
    ]
    app.post_json("/batch", {"requests": requests})
    (event,) = told
    assert [change.uri for change in event.changes] == [f"{RECORDS}/a"]


def test_a_post_of_what_exists(app: Any, told: list[Event]) -> None:
    """Kinto returns the existing object and writes nothing."""
    app.put(f"{RECORDS}/a")
    app.post_json(RECORDS, {"data": {"id": "a", "title": "other"}}, status=200)
    assert [event.action for event in told] == ["create"]
