"""What is captured of each kind of write, on memory and on PostgreSQL, by a real Kinto."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest
import transaction
from kinto.core.errors import http_error, raise_invalid
from kinto.core.events import ACTIONS, AfterResourceChanged, ResourceChanged
from pyramid.events import NewRequest
from pyramid.httpexceptions import HTTPConflict, HTTPForbidden

from kinto_dispatch.capture import Captured
from kinto_dispatch.event import Change, Event
from kinto_dispatch.listener.commit import Commits
from kinto_dispatch.testing.kinto import make_app


RECORDS = "/buckets/b/collections/c/records"
LIGHT = {"Response-Behavior": "light"}
DIFF = {"Response-Behavior": "diff"}

numbers = itertools.count()


class Recorder:
    """A listener that keeps what is captured, and what of it was committed."""

    def __init__(self) -> None:
        self.commits = Commits(self._before_commit, self._after_commit)
        self.captured: list[Event] = []
        self.announced: list[Event] = []
        self.refuse_with: Exception | None = None

    def load_from_config(self, config: Any, prefix: str) -> Any:
        config.add_subscriber(self.commits.on_new_request, NewRequest)
        return self.commits.collect

    def _before_commit(self, request: Any, events: Sequence[Captured]) -> None:
        self.captured += [captured.event for captured in events]
        if self.refuse_with is not None:
            raise self.refuse_with

    def _after_commit(self, events: Sequence[Captured]) -> None:
        self.announced += [captured.event for captured in events]


class World:
    """A Kinto whose only listener is a recorder, with one collection in it."""

    def __init__(
        self,
        settings: dict[str, str],
        modules: Callable[[str, Any], str],
        plugin: Callable[[Any], None] | None = None,
        transactional: bool = False,
        **more: str,
    ) -> None:
        self.transactional = transactional
        self.recorder = Recorder()
        settings = {
            **settings,
            "kinto.event_listeners": "recorder",
            "kinto.event_listeners.recorder.use": modules(
                "load_from_config", self.recorder.load_from_config
            ),
            **{name.replace("__", "."): value for name, value in more.items()},
        }
        includes = settings.get("kinto.includes", "")
        settings["kinto.includes"] = f"{includes} {modules('includeme', plugin or _conflict)}"
        self.app = make_app(settings)
        self.app.put("/buckets/b")
        self.app.put("/buckets/b/collections/c")
        self.forget()

    def forget(self) -> None:
        self.recorder.captured.clear()
        self.recorder.announced.clear()

    @property
    def events(self) -> list[Event]:
        return self.recorder.announced

    @property
    def event(self) -> Event:
        (event,) = self.events
        return event

    @property
    def change(self) -> Change:
        (change,) = self.event.changes
        return change

    def put(self, name: str, status: int | None = None, **data: Any) -> Any:
        return self.app.put_json(f"{RECORDS}/{name}", {"data": data}, status=status)

    def batch(self, *requests: tuple[str, str] | dict[str, Any], status: int = 200) -> list[int]:
        """Run (method, path) pairs in one batch; the statuses of the sub-responses."""
        specs = [
            {"method": one[0], "path": one[1]} if isinstance(one, tuple) else one
            for one in requests
        ]
        answer = self.app.post_json("/batch", {"requests": specs}, status=status)
        return [response["status"] for response in answer.json.get("responses", [])]

    def exists(self, name: str) -> bool:
        answer = self.app.get(f"{RECORDS}/{name}", expect_errors=True)
        return bool(answer.status_int == 200)


def _conflict(config: Any) -> None:
    """A plugin with an address that always answers 409."""

    def view(request: Any) -> Any:
        raise http_error(HTTPConflict())

    config.add_route("conflict", "/conflict")
    config.add_view(view, route_name="conflict")


CONFLICT = ("PUT", "/conflict")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], str]:
    """Makes a module with one function in it, which Kinto can load by its name."""

    def make(attribute: str, function: Any) -> str:
        module = ModuleType(f"made_for_a_test_{next(numbers)}")
        setattr(module, attribute, function)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return module.__name__

    return make


@pytest.fixture(params=["memory", "postgresql"])
def new_world(
    request: pytest.FixtureRequest, modules: Callable[[str, Any], str]
) -> Callable[..., World]:
    """Makes a Kinto on either storage."""
    settings = {}
    if request.param == "postgresql":
        settings["kinto.storage_url"] = request.getfixturevalue("postgresql_url")

    def make(plugin: Callable[[Any], None] | None = None, **more: str) -> World:
        return World(settings, modules, plugin, request.param == "postgresql", **more)

    return make


@pytest.fixture
def world(new_world: Callable[..., World]) -> World:
    """A Kinto with nothing special."""
    return new_world()


# --- which object --------------------------------------------------------------------------------


def test_a_put_is_a_create_of_that_object(world: World) -> None:
    """A created record comes with its uri, its ids, all of its fields and who wrote it."""
    answer = world.put("a", title="one")
    event, change = world.event, world.change
    assert (event.action, event.resource_name, event.uri) == ("create", "record", change.uri)
    assert (event.bucket_id, event.collection_id, event.group_id) == ("b", "c", None)
    assert event.user_id is not None
    assert event.user_id.startswith("basicauth:")
    assert event.timestamp == answer.json["data"]["last_modified"]
    assert event.root_url == "http://localhost/v1/"
    assert change == Change(
        uri=f"{RECORDS}/a",
        object_id="a",
        old=None,
        new=answer.json["data"],
        changed=("id", "last_modified", "title"),
    )
    assert event.payload["uri"] == f"{RECORDS}/a"
    assert len(event.id) == 32


def test_a_post_knows_the_id_that_kinto_chose(world: World) -> None:
    """The uri of a posted record is its own, though Kinto's payload has the plural one."""
    data = world.app.post_json(RECORDS, {"data": {"title": "one"}}).json["data"]
    assert world.change.object_id == data["id"]
    assert world.change.uri == world.event.uri == f"{RECORDS}/{data['id']}"
    assert world.event.payload["uri"] == RECORDS


@pytest.mark.parametrize("plural", [False, True])
def test_buckets_collections_and_groups_have_their_own_ids(world: World, plural: bool) -> None:
    """Whether made by PUT or by POST, the event names the object in its own id field."""

    def make(parent: str, name: str) -> Event:
        world.forget()
        if plural:
            world.app.post_json(parent, {"data": {"id": name}})
        else:
            world.app.put_json(f"{parent}/{name}", {"data": {}})
        assert (world.change.uri, world.change.object_id) == (f"{parent}/{name}", name)
        return world.event

    bucket = make("/buckets", "b2")
    assert (bucket.resource_name, bucket.bucket_id, bucket.collection_id) == ("bucket", "b2", None)
    collection = make("/buckets/b2/collections", "c2")
    assert (collection.bucket_id, collection.collection_id) == ("b2", "c2")
    group = make("/buckets/b2/groups", "g2")
    assert (group.bucket_id, group.collection_id, group.group_id) == ("b2", None, "g2")
    assert world.change.new is not None
    assert world.change.new["members"] == []


def test_a_plural_delete_has_each_object(world: World) -> None:
    """Every deleted record is there with its own uri and its last contents; none has a new one."""
    olds = {name: world.put(name, title=name).json["data"] for name in "abc"}
    world.forget()
    world.app.delete(f"{RECORDS}?_sort=-last_modified&_limit=2")
    assert [change.object_id for change in world.event.changes] == ["c", "b"]
    for change in world.event.changes:
        assert change.uri == f"{RECORDS}/{change.object_id}"
        assert (change.old, change.new) == (olds[change.object_id], None)
        assert change.changed == ("id", "last_modified", "title")
    assert world.event.uri == RECORDS


def test_deleting_all_buckets_names_each_bucket(world: World) -> None:
    """Where Kinto's payload has no bucket at all, each change has its own."""
    world.app.put("/buckets/b2")
    world.forget()
    world.app.delete("/buckets")
    assert {change.uri for change in world.event.changes} == {"/buckets/b", "/buckets/b2"}
    assert (world.event.bucket_id, world.event.uri) == (None, "/buckets")


def test_objects_are_told_apart_by_id_when_kinto_pairs_them_wrongly(
    new_world: Callable[..., World],
) -> None:
    """Another client's write in the middle of a plural DELETE cannot give a record's contents
    to another."""

    def notify(request: Any) -> dict[str, Any]:
        request.notify_resource_event(
            parent_id="/buckets/b/collections/c",
            timestamp=1,
            data=[{"id": "b", "deleted": True}, {"id": "c", "deleted": True}],
            old=[{"id": "a", "x": 1}, {"id": "b", "x": 2}],
            action=ACTIONS.DELETE,
            resource_name="record",
            resource_data={"bucket_id": "b", "collection_id": "c"},
        )
        return {}

    world = new_world(_route(notify))
    world.app.get("/route")
    assert [change.old for change in world.event.changes] == [{"id": "b", "x": 2}, {"id": "c"}]


def test_a_batch_becomes_one_event_for_each_kind_of_change(world: World) -> None:
    """Writes of one kind under one parent come together, each with its own uri and contents."""
    world.put("old", n=1)
    world.forget()
    world.batch(
        ("PUT", f"{RECORDS}/a"),
        ("PUT", "/buckets/b/collections/d"),
        {"method": "POST", "path": RECORDS, "body": {"data": {"n": 3}}},
        ("DELETE", f"{RECORDS}/old"),
    )
    creates, collection, delete = world.events
    first, second = creates.changes
    assert first.uri == f"{RECORDS}/a"
    assert second.new is not None
    assert (second.uri, second.new["n"]) == (f"{RECORDS}/{second.object_id}", 3)
    assert creates.uri == RECORDS
    assert collection.changes[0].uri == "/buckets/b/collections/d"
    assert delete.changes[0].old is not None
    assert delete.changes[0].old["n"] == 1


def test_the_default_bucket_has_its_real_id(new_world: Callable[..., World]) -> None:
    """A write in the default bucket is three events, and none of them says ``default``."""
    world = new_world(kinto__includes="kinto.plugins.default_bucket")
    bucket_id = world.app.get("/").json["user"]["bucket"]
    world.app.put_json("/buckets/default/collections/x/records/r", {"data": {"n": 1}})
    assert [(event.resource_name, event.uri) for event in world.events] == [
        ("bucket", f"/buckets/{bucket_id}"),
        ("collection", f"/buckets/{bucket_id}/collections/x"),
        ("record", f"/buckets/{bucket_id}/collections/x/records/r"),
    ]
    assert {event.bucket_id for event in world.events} == {bucket_id}
    assert {event.root_url for event in world.events} == {"http://localhost/v1/"}


def test_uris_have_no_mount_point(world: World) -> None:
    """Behind a path prefix of the web server, uris stay as they are in Kinto."""
    world.app.extra_environ["SCRIPT_NAME"] = "/mounted"
    world.app.put("/buckets/m")
    assert world.change.uri == "/buckets/m"
    assert world.event.root_url == "http://localhost/mounted/v1/"


def test_a_plugins_own_kind_of_object_is_captured(new_world: Callable[..., World]) -> None:
    """An event of a resource without an address in the API still tells its objects apart."""

    def notify(request: Any) -> dict[str, Any]:
        for name in ("x", "y"):
            request.notify_resource_event(
                parent_id="",
                timestamp=1,
                data={"id": name},
                action=ACTIONS.CREATE,
                resource_name="gadget",
                resource_data={},
            )
        return {}

    world = new_world(_route(notify))
    world.app.get("/route")
    assert [change.uri for change in world.event.changes] == ["/route/x", "/route/y"]


# --- what changed --------------------------------------------------------------------------------


def test_an_update_names_the_fields_that_differ(world: World) -> None:
    """Changed are fields that came, went or differ as JSON; not the time of the change."""
    old = world.put("a", same=1, went="x", number=1, inner={"flag": True}).json["data"]
    world.forget()
    new = world.put("a", same=1, came="y", number=2, inner={"flag": 1}).json["data"]
    assert (world.change.old, world.change.new) == (old, new)
    assert world.change.changed == ("came", "inner", "number", "went")


def test_writing_the_same_again_changes_nothing(world: World) -> None:
    """Kinto makes it an update; there is an event, and no field has changed."""
    world.put("a", title="one", price=1.0, tags=["x", {"y": None}])
    world.forget()
    world.put("a", title="one", price=1.0, tags=["x", {"y": None}])
    assert (world.event.action, world.change.changed) == ("update", ())


@pytest.mark.parametrize("method", ["put_json", "patch_json"])
def test_permissions_alone_change_no_field(world: World, method: str) -> None:
    """A change of permissions only is an update without a changed field, and without the ACL."""
    world.put("a", title="one")
    world.forget()
    write = getattr(world.app, method)
    write(f"{RECORDS}/a", {"permissions": {"read": ["system.Everyone"]}})
    assert world.change.changed == ()
    assert world.change.new is not None
    assert world.change.new["title"] == "one"
    assert b"Everyone" not in world.event.encode()


@pytest.mark.parametrize("headers", [LIGHT, DIFF, {}])
def test_a_patch_has_the_whole_object(world: World, headers: dict[str, str]) -> None:
    """Response-Behavior shortens what the client gets, never what is announced."""
    world.put("a", title="one", other="x")
    world.forget()
    world.app.patch_json(f"{RECORDS}/a", {"data": {"title": "two"}}, headers=headers)
    stored = world.app.get(f"{RECORDS}/a").json["data"]
    assert world.change.new == stored
    assert (world.change.object_id, world.change.changed) == ("a", ("title",))


@pytest.mark.parametrize("path", ["/buckets/b", "/buckets/b/collections/c"])
def test_a_light_patch_of_metadata_has_the_whole_object(world: World, path: str) -> None:
    """Buckets and collections are read where they are stored, as records are."""
    world.app.put_json(path, {"data": {"x": 1, "y": 1}})
    world.forget()
    world.app.patch_json(path, {"data": {"x": 2}}, headers=LIGHT)
    assert world.change.new == world.app.get(path).json["data"]


def test_light_patches_in_a_batch_each_have_their_own_state(world: World) -> None:
    """The storage knows the last one only; a channel may wait for the one in between."""
    world.put("a", state="work", other="x")
    world.forget()
    for headers in (LIGHT, DIFF):
        world.batch(
            *(
                {
                    "method": "PATCH",
                    "path": f"{RECORDS}/a",
                    "body": {"data": {"state": state}},
                    "headers": headers,
                }
                for state in ("to-review", "signed", "work")
            )
        )
        (event,) = world.events
        states = [(one.old["state"], one.new["state"], one.new["other"]) for one in event.changes]
        assert states == [
            ("work", "to-review", "x"),
            ("to-review", "signed", "x"),
            ("signed", "work", "x"),
        ]
        world.forget()


def test_a_light_patch_of_what_is_deleted_next_is_put_together(world: World) -> None:
    """In one batch the object may be gone when it is looked up; its last state is still told."""
    world.put("a", title="one", other="x")
    world.forget()
    patch = {
        "method": "PATCH",
        "path": f"{RECORDS}/a",
        "body": {"data": {"title": "two"}},
        "headers": LIGHT,
    }
    world.batch(patch, ("DELETE", f"{RECORDS}/a"))
    update, delete = world.events
    assert update.changes[0].new is not None
    assert update.changes[0].new["title"] == "two"
    assert update.changes[0].new["other"] == "x"
    assert delete.changes[0].new is None


def test_the_hash_of_a_password_stays_in_kinto(new_world: Callable[..., World]) -> None:
    """Account events say that the password changed, never what its hash is (B20)."""
    world = new_world(
        kinto__includes="kinto.plugins.accounts",
        kinto__account_create_principals="system.Everyone",
        multiauth__policies="account basicauth",
        **{
            "multiauth__policy__account__use": (
                "kinto.plugins.accounts.authentication.AccountsAuthenticationPolicy"
            )
        },
    )
    world.app.authorization = None
    world.app.put_json("/accounts/bob@x.org", {"data": {"password": "s3cr3t-1"}})
    assert world.event.user_id is None
    assert (world.change.uri, world.change.object_id) == ("/accounts/bob@x.org", "bob@x.org")
    world.app.authorization = ("Basic", ("bob@x.org", "s3cr3t-1"))
    world.app.patch_json("/accounts/bob@x.org", {"data": {"password": "s3cr3t-2"}}, headers=LIGHT)
    world.app.authorization = ("Basic", ("bob@x.org", "s3cr3t-2"))
    world.app.delete("/accounts/bob@x.org")
    create, update, delete = world.events
    assert update.user_id == "account:bob@x.org"
    assert update.changes[0].changed == ("password",)
    assert update.changes[0].new is not None
    assert update.changes[0].new["id"] == "bob@x.org"
    assert delete.changes[0].old is not None
    for event in (create, update, delete):
        assert b"$2b$" not in event.encode()


def test_reads_are_captured_where_somebody_asks(new_world: Callable[..., World]) -> None:
    """A read has the same object as old and new, and no changed field."""
    world = new_world(kinto__event_listeners__recorder__actions="read create")
    world.put("a", title="one")
    world.forget()
    world.app.get(f"{RECORDS}/a")
    assert (world.event.action, world.change.changed) == ("read", ())
    assert world.change.old == world.change.new
    world.forget()
    world.app.get(f"{RECORDS}?_fields=title")
    assert [change.uri for change in world.event.changes] == [f"{RECORDS}/a"]
    world.forget()
    world.app.get("/buckets/b/groups")
    assert world.events == []


def test_the_id_of_the_request_is_that_of_the_whole_batch(world: World) -> None:
    """Sub-requests get ids of their own from Kinto; the event has the one the client sent."""
    world.app.post_json(
        "/batch",
        {"requests": [{"method": "PUT", "path": f"{RECORDS}/a"}]},
        headers={"X-Request-Id": "from-the-client"},
    )
    assert world.event.request_id == "from-the-client"
    world.forget()
    world.put("b")
    assert world.event.request_id


# --- what others do to it ------------------------------------------------------------------------


def test_later_subscribers_cannot_change_what_was_captured(
    new_world: Callable[..., World],
) -> None:
    """Kinto hands the same dictionaries to all; ours is a copy from the first moment."""

    def spoil(event: Any) -> None:
        event.payload["uri"] = "spoilt"
        for impacted in event.impacted_objects:
            impacted["new"]["title"] = "spoilt"
            impacted.setdefault("old", {})["title"] = "spoilt"

    world = new_world(lambda config: config.add_subscriber(spoil, ResourceChanged))
    world.put("a", title="one")
    world.put("a", title="two")
    create, update = world.events
    assert b"spoilt" not in create.encode() + update.encode()
    assert update.changes[0].changed == ("title",)


def test_an_event_seen_by_two_listeners_is_captured_once(
    new_world: Callable[..., World],
) -> None:
    """Two aliases get the same event from Kinto; it keeps one id and is announced once."""
    worlds: list[World] = []

    def again(event: Any) -> None:
        for world in worlds:
            world.recorder.commits.collect(event)

    world = new_world(lambda config: config.add_subscriber(again, ResourceChanged))
    worlds.append(world)
    world.put("a")
    world.put("b")
    assert [event.changes[0].object_id for event in world.events] == ["a", "b"]


def test_what_subscribers_write_is_captured_too(new_world: Callable[..., World]) -> None:
    """A subscriber that copies a record makes an event of its own, not merged with the first."""

    def copy(event: Any) -> None:
        if event.payload["collection_id"] != "c":
            return
        for impacted in event.impacted_objects:
            event.request.notify_resource_event(
                parent_id="/buckets/b/collections/copies",
                timestamp=event.payload["timestamp"],
                data=impacted["new"],
                action=ACTIONS.CREATE,
                resource_name="record",
                resource_data={
                    "bucket_id": "b",
                    "collection_id": "copies",
                    "id": impacted["new"]["id"],
                },
            )

    world = new_world(
        lambda config: config.add_subscriber(copy, ResourceChanged, for_resources=("record",))
    )
    world.put("a")
    assert [event.uri for event in world.events] == [
        f"{RECORDS}/a",
        "/buckets/b/collections/copies/records/a",
    ]


def test_a_subscriber_that_begins_a_transaction_loses_us_nothing(
    new_world: Callable[..., World],
) -> None:
    """After the commit other code may begin a transaction, which forgets the hooks behind it."""

    def begin(event: Any) -> None:
        with transaction.manager:
            pass

    world = new_world(lambda config: config.add_subscriber(begin, AfterResourceChanged))
    world.put("a")
    assert world.change.object_id == "a"


# --- what did not happen -------------------------------------------------------------------------


def test_a_refused_write_is_not_announced(new_world: Callable[..., World]) -> None:
    """Subscribers that run after us may refuse the write, with any status."""

    def refuse(event: Any) -> None:
        for impacted in event.impacted_objects:
            if impacted["new"].get("bad") == "request":
                raise_invalid(event.request, name="bad", description="no")
            if impacted["new"].get("bad") == "user":
                raise HTTPForbidden()
            if impacted["new"].get("bad") == "code":
                raise RuntimeError("a bug in a plugin")

    world = new_world(lambda config: config.add_subscriber(refuse, ResourceChanged))
    world.put("a", status=400, bad="request")
    world.put("b", status=403, bad="user")
    world.put("c", status=500, bad="code")
    world.put("d")
    assert world.change.object_id == "d"
    assert [event.changes[0].object_id for event in world.recorder.captured] == ["d"]


def test_a_failing_commit_is_not_announced(new_world: Callable[..., World]) -> None:
    """What was captured goes with the transaction when its commit fails."""

    def fail(event: Any) -> None:
        def hook() -> None:
            raise RuntimeError("cannot commit")

        if event.payload["resource_name"] == "record":
            transaction.get().addBeforeCommitHook(hook)

    world = new_world(lambda config: config.add_subscriber(fail, ResourceChanged))
    world.put("a", status=500)
    assert world.events == []


class Unwilling:
    """A resource that refuses to commit, as a database does on a conflict."""

    def sortKey(self) -> str:
        return "~~~"

    def tpc_vote(self, current: Any) -> None:
        raise RuntimeError("cannot commit")

    def abort(self, current: Any) -> None:
        pass

    commit = tpc_begin = tpc_finish = tpc_abort = abort


def test_a_database_that_refuses_the_commit(new_world: Callable[..., World]) -> None:
    """When the commit itself fails, everything before it was in vain, and is not announced."""

    def join(event: Any) -> None:
        if event.payload["resource_name"] == "record":
            transaction.get().join(Unwilling())

    world = new_world(lambda config: config.add_subscriber(join, ResourceChanged))
    world.put("a", status=500)
    # The next request of a thread does this.
    transaction.abort()
    assert len(world.recorder.captured) == 1
    assert world.events == []


def test_requests_that_change_nothing_announce_nothing(world: World) -> None:
    """Conflicting preconditions, missing objects, and posting what exists make no event."""
    world.put("a")
    world.forget()
    world.app.put_json(f"{RECORDS}/a", {}, headers={"If-None-Match": "*"}, status=412)
    world.app.delete(f"{RECORDS}/missing", status=404)
    world.app.post_json(RECORDS, {"data": {"id": "a"}}, status=200)
    world.app.delete(f"{RECORDS}?id=missing")
    assert world.events == []


def test_a_batch_goes_on_after_a_refused_write(world: World) -> None:
    """Sub-requests that answer 404, 403 or 412 announce nothing; the others do (R21)."""
    world.put("a")
    world.forget()
    statuses = world.batch(
        ("PUT", f"{RECORDS}/b"),
        ("DELETE", f"{RECORDS}/missing"),
        {"method": "PUT", "path": f"{RECORDS}/a", "headers": {"If-None-Match": "*"}},
        {"method": "PUT", "path": f"{RECORDS}/c", "headers": {"Authorization": "Basic eDp5"}},
        ("PUT", f"{RECORDS}/d"),
    )
    assert statuses == [201, 404, 412, 403, 201]
    assert [change.object_id for change in world.event.changes] == ["b", "d"]


def test_a_conflict_in_a_batch_voids_what_it_rolled_back(world: World) -> None:
    """A 409 aborts the transaction and the batch goes on in a new one. What came before is not
    announced, though Kinto merges it with the rest and still sends the events of both (R21)."""
    statuses = world.batch(
        ("PUT", f"{RECORDS}/before"),
        ("PUT", "/buckets/b/groups/before"),
        CONFLICT,
        ("PUT", f"{RECORDS}/after"),
    )
    assert statuses == [201, 201, 409, 201]
    assert world.exists("after")
    # Memory cannot undo it; what Kinto aborted is void all the same.
    assert world.exists("before") is not world.transactional
    assert world.event.uri == world.event.payload["uri"] == f"{RECORDS}/after"
    assert world.event.payload["record_id"] == "after"
    assert world.change.new is not None
    assert world.event.payload["timestamp"] == world.change.new["last_modified"]
    assert b"before" not in world.event.encode()


def test_two_conflicts_in_a_batch(world: World) -> None:
    """Each conflict voids what came before it; several objects stay under one event."""
    world.batch(
        ("PUT", f"{RECORDS}/a"),
        CONFLICT,
        ("PUT", f"{RECORDS}/b"),
        CONFLICT,
        ("PUT", f"{RECORDS}/c"),
        ("PUT", f"{RECORDS}/d"),
    )
    names = [change.object_id for change in world.event.changes]
    assert names == ["c", "d"]
    assert world.exists("a") is not world.transactional
    assert world.event.payload["uri"] == RECORDS
    assert "record_id" not in world.event.payload


def test_a_conflict_at_the_end_of_a_batch(world: World) -> None:
    """When everything was rolled back, nothing is announced."""
    world.batch(("PUT", f"{RECORDS}/a"), ("PUT", f"{RECORDS}/b"), CONFLICT)
    assert world.events == []


def test_other_subscribers_see_kintos_events_untouched(new_world: Callable[..., World]) -> None:
    """Leaving void objects out is our own business."""
    seen: list[str] = []

    def watch(event: Any) -> None:
        seen.extend(impacted["new"]["id"] for impacted in event.impacted_objects)

    def plugin(config: Any) -> None:
        _conflict(config)
        config.add_subscriber(watch, ResourceChanged, for_resources=("record",))

    new_world(plugin).batch(("PUT", f"{RECORDS}/a"), CONFLICT, ("PUT", f"{RECORDS}/b"))
    assert seen == ["a", "b"]


def test_a_failing_batch_announces_nothing(new_world: Callable[..., World]) -> None:
    """A sub-request that breaks fails the whole batch."""

    def fail(request: Any) -> None:
        raise RuntimeError("broken")

    world = new_world(_route(fail))
    world.batch(("PUT", f"{RECORDS}/a"), ("GET", "/route"), status=500)
    assert world.events == []


def test_refusing_before_the_commit(world: World) -> None:
    """The client gets the error that was raised before the commit, and nothing is announced."""
    world.recorder.refuse_with = http_error(HTTPForbidden(), message="not today")
    answer = world.app.put_json(f"{RECORDS}/a", {"data": {}}, status=403)
    assert answer.json["message"] == "not today"
    world.recorder.refuse_with = None
    assert world.events == []
    # Nobody's connection stays in the transaction.
    assert not transaction.get()._resources
    # Only PostgreSQL can take a write back.
    assert world.exists("a") is not world.transactional


# --- what JSON cannot hold -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    ["9" * 30, "-1e300", '"\\u0000"', '"\\ud83d\\ude00"', "[" * 90 + "]" * 90, "1e-400"],
    ids=["big integer", "huge float", "NUL", "emoji", "deep", "tiny float"],
)
def test_odd_json_comes_through(world: World, value: str) -> None:
    """What Kinto answers to such a write stays what it was, and what it takes is captured."""
    answer = world.app.put(
        f"{RECORDS}/a",
        f'{{"data": {{"odd": {value}}}}}',
        headers={"Content-Type": "application/json"},
        expect_errors=True,
    )
    if answer.status_int == 201:
        assert world.change.new == answer.json["data"]
    else:
        # PostgreSQL takes no NUL.
        assert "u0000" in value
        assert world.transactional


def test_the_deepest_json_that_kinto_takes_is_no_deeper_because_of_us(
    new_world: Callable[..., World],
) -> None:
    """Whatever Kinto would have stored, it still stores, and announces."""
    world = new_world()

    def write(depth: int) -> int:
        body = '{"data":' + '{"a":' * depth + "1" + "}" * depth + "}"
        headers = {"Content-Type": "application/json"}
        answer = world.app.put(f"{RECORDS}/a", body, headers=headers, expect_errors=True)
        return int(answer.status_int)

    for depth in range(100, 420, 10):
        world.forget()
        if write(depth) == 500:
            break
        assert world.change.uri == f"{RECORDS}/a"
    assert depth > 200


@pytest.mark.parametrize(
    "value",
    [10**5000, object(), {1: {2}}, float("nan")],
    ids=["5,001 digits", "no JSON at all", "set", "not a number"],
)
def test_what_cannot_be_encoded_never_fails_the_write(
    new_world: Callable[..., World], caplog: pytest.LogCaptureFixture, value: Any
) -> None:
    """Its change goes on without contents, the others of the event complete, and it is logged."""

    def spoil(request: Any) -> dict[str, Any]:
        for name, inner in (("good", "x"), ("bad", value)):
            request.notify_resource_event(
                parent_id="/buckets/b/collections/c",
                timestamp=1,
                data={"id": name, "value": inner},
                action=ACTIONS.CREATE,
                resource_name="record",
                resource_data={"bucket_id": "b", "collection_id": "c"},
            )
        return {}

    world = new_world(_route(spoil))
    world.app.get("/route")
    good, bad = world.event.changes
    assert good.new == {"id": "good", "value": "x"}
    assert (bad.uri, bad.changed) == (f"{RECORDS}/bad", ("id", "value"))
    if isinstance(value, (int, float, dict)) and value != 10**5000:
        assert bad.new is not None
    else:
        assert (bad.old, bad.new) == (None, None)
        (logged,) = [line for line in caplog.messages if world.event.id in line]
        assert f"{RECORDS}/bad" in logged
        assert f"{RECORDS}/good" not in logged


def _route(function: Callable[[Any], Any]) -> Callable[[Any], None]:
    """A plugin with one address, ``/route``, that calls the function."""

    def includeme(config: Any) -> None:
        config.add_route("route", "/route")
        config.add_view(function, route_name="route", renderer="json")

    return includeme
