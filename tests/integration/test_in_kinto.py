"""kinto-dispatch inside a real Kinto: how it starts, where events go, what operators see."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from pyramid.exceptions import ConfigurationError

from kinto_dispatch.event import Event
from kinto_dispatch.plugins import configure
from kinto_dispatch.queue import open_log, open_queue
from kinto_dispatch.queue.embedded import stop_server
from kinto_dispatch.queue.keys import LaneKeys
from kinto_dispatch.testing.kinto import LocalKinto, full_settings, make_app
from kinto_dispatch.testing.outbox import statements
from kinto_dispatch.testing.valkey import LocalValkey
from kinto_dispatch.testing.waiting import eventually
from kinto_dispatch.worker import Worker, WorkerOptions


RECORD = "/buckets/b/collections/c/records/r"
BASE = "kinto.event_listeners.dispatch."
NOWHERE = "redis://127.0.0.1:1/0"
ASYNC = """
    async def on_event_async(event, channel, delivery):
        pass
"""
SYNC = """
    def on_event(event, channel):
        pass
"""

numbers = itertools.count()
Write = Callable[[str], str]
Settings = dict[str, str]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a plugin into a file on the import path; returns the name for the ini."""
    monkeypatch.syspath_prepend(tmp_path)
    written: list[str] = []

    def write(body: str) -> str:
        name = f"plugin_in_kinto_{next(numbers)}"
        source = textwrap.dedent(body)
        for hook in ("async def on_event_async", "def on_event("):
            source = source.replace(f"\n{hook}", f"\n@hookimpl\n{hook}")
        (tmp_path / f"{name}.py").write_text(f"from kinto_dispatch import *\n{source}")
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


@pytest.fixture
def queue_dir(tmp_path: Path) -> Iterator[Path]:
    """Where an embedded server would be; whatever runs there ends with the test."""
    directory = tmp_path / "queue"
    yield directory
    stop_server(directory)


@pytest.fixture
def ini(plugin: Write, queue_dir: Path) -> Settings:
    """One async channel, an embedded queue, everything in memory."""
    return {
        "kinto.event_listeners": "dispatch",
        f"{BASE}use": "kinto_dispatch",
        f"{BASE}queue_dir": str(queue_dir),
        f"{BASE}channels": "ops",
        f"{BASE}channels.ops.plugin": plugin(ASYNC),
    }


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[LocalValkey]:
    """A server that the test may stop, kill and pause; not yet started."""
    (tmp_path / "valkey").mkdir()
    server = LocalValkey(tmp_path / "valkey")
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="kinto_dispatch")


def heartbeat(app: Any) -> bool:
    answer = app.get("/__heartbeat__", expect_errors=True)
    return bool(answer.json["dispatch"])


def dispatcher(app: Any) -> Any:
    return app.app.registry.kinto_dispatch


def logged_events(app: Any) -> list[Event]:
    """What the log holds, read as a router would."""

    async def read() -> list[Event]:
        queue = open_queue(dispatcher(app).configuration.settings)
        entries = await queue.read_log("0-0", 1000)
        await queue.close()
        return [Event.decode(entry.body) for entry in entries]

    return asyncio.run(read())


def a_worker_comes_by(app: Any) -> None:
    async def beat() -> None:
        queue = open_queue(dispatcher(app).configuration.settings)
        await queue.beat("a worker", {}, 1.0)
        await queue.close()

    asyncio.run(beat())


def query(url: str, statement: str) -> list[Any]:
    import psycopg2

    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()


def outbox(url: str) -> list[Event]:
    rows = query(url, "SELECT body FROM kinto_dispatch_outbox ORDER BY id")
    return [Event.decode(bytes(body)) for (body,) in rows]


# --- starting ------------------------------------------------------------------------------------


def test_loading_starts_and_connects_nothing(
    ini: Settings, queue_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Kinto starts without a queue; it says what each channel is and what it needs."""
    make_app({**ini, f"{BASE}channels.ops.resources": "record"})
    assert not queue_dir.exists()
    text = "\n".join(caplog.messages)
    assert "Channel 'ops'" in text
    assert "async, in the worker" in text
    assert "kinto-dispatch worker" in text
    assert str(queue_dir) in text
    assert "no transaction that an outbox could join" in text


def test_the_start_says_what_cannot_be_undone(
    ini: Settings, plugin: Write, postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """On memory storage a refused write stays; nothing of that is said on PostgreSQL."""
    sync = {
        f"{BASE}channels.ops.plugin": plugin(SYNC),
        f"{BASE}channels.ops.mode": "sync",
        f"{BASE}channels.ops.phase": "before_commit",
    }
    make_app({**ini, **sync})
    assert "cannot undo a write" in caplog.text
    caplog.clear()
    make_app({**ini, **sync, "kinto.storage_url": postgresql_url})
    assert "before_commit" in caplog.text
    assert "undo" not in caplog.text
    assert "no transaction" not in caplog.text


def test_everything_wrong_is_told_at_once(ini: Settings) -> None:
    """The start stops with one error that names every mistake as the operator typed it."""
    wrong = {
        f"{BASE}channels.ops.plugin": "no_such_module",
        f"{BASE}channels.ops.mode": "snyc",
        f"{BASE}queue_url": "not a url",
    }
    with pytest.raises(ConfigurationError) as raised:
        make_app({**ini, **wrong})
    text = str(raised.value)
    assert "no_such_module" in text
    assert f"{BASE}channels.ops.mode" in text
    assert f"{BASE}queue_url" in text


def test_no_error_of_ours_is_taken_for_another_module(
    ini: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kinto swallows ImportError and AttributeError from a listener; it never gets one."""
    monkeypatch.setattr("kinto_dispatch.listener.wiring.DISTRIBUTION", "not-installed")
    with pytest.raises(ConfigurationError, match="PackageNotFoundError"):
        make_app(ini)


def test_a_channel_that_cannot_be_loaded_stops_nobody_else(
    ini: Settings, plugin: Write, caplog: pytest.LogCaptureFixture
) -> None:
    """Kinto starts, the log and the heartbeat say which channel has failed, the others run."""
    more = {
        f"{BASE}channels": "bad good",
        f"{BASE}channels.bad.plugin": plugin("import not_there_at_all"),
        f"{BASE}channels.bad.mode": "sync",
        f"{BASE}channels.good.plugin": plugin(
            "calls = []\n\ndef on_event(event, channel):\n    calls.append(event)\n"
        ),
        f"{BASE}channels.good.mode": "sync",
    }
    settings = {key: value for key, value in ini.items() if ".ops." not in key}
    app = make_app({**settings, **more})
    app.put("/buckets/b")
    assert len(sys.modules[more[f"{BASE}channels.good.plugin"]].calls) == 1
    assert not heartbeat(app)
    assert "channel 'bad' has failed" in caplog.text
    assert "not_there_at_all" in caplog.text


def test_a_missing_outbox_stops_the_start(ini: Settings, postgresql_url: str) -> None:
    """Rather than refusing every write, Kinto does not start and says what to run."""
    settings = {**ini, "kinto.storage_url": postgresql_url}
    with pytest.raises(ConfigurationError, match="Run `kinto migrate`"):
        make_app(settings, migrate=False)
    make_app(settings, migrate=True)
    make_app(settings, migrate=False)


def test_a_missing_outbox_stops_no_start_without_async_channels(
    ini: Settings, plugin: Write, postgresql_url: str
) -> None:
    """Sync channels alone need no outbox."""
    sync = {f"{BASE}channels.ops.plugin": plugin(SYNC), "kinto.storage_url": postgresql_url}
    make_app({**ini, **sync}, migrate=False)


def test_kinto_starts_without_its_database(
    ini: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether the outbox exists cannot be asked then; Kinto starts all the same, as it always
    does."""
    url = f"postgresql://postgres@/nothing?host={tmp_path}"
    make_app({**ini, "kinto.storage_url": url}, migrate=False)
    assert "outbox could not be prepared" in caplog.text


def test_no_connection_is_left_for_forks_to_share(ini: Settings, postgresql_url: str) -> None:
    """Servers fork after loading the application; until the first request nothing is open."""
    app = make_app({**ini, "kinto.storage_url": postgresql_url})
    pool = app.app.registry.storage.client.session_factory.get_bind().pool
    assert pool.checkedin() == 0
    app.put("/buckets/b")
    assert pool.checkedin() == 1


def test_kinto_migrate_makes_the_outbox_and_starts_nothing(
    ini: Settings, tmp_path: Path, queue_dir: Path, postgresql_url: str
) -> None:
    """The real command, on an empty database: the table is there, and no server runs."""
    kinto = LocalKinto({**ini, "kinto.storage_url": postgresql_url}, tmp_path)
    try:
        kinto.migrate()
    finally:
        kinto.stop()
    assert not queue_dir.exists()
    assert outbox(postgresql_url) == []


def test_several_aliases_share_one_dispatcher(ini: Settings, plugin: Write) -> None:
    """Whatever the aliases are called, there is one capability and one heartbeat."""
    more = {
        "kinto.event_listeners": "dispatch send_email",
        "kinto.event_listeners.send_email.use": "kinto_dispatch",
        "kinto.event_listeners.send_email.plugin": plugin(SYNC),
    }
    app = make_app({**ini, **more})
    names = [channel.name for channel in dispatcher(app).configuration.channels]
    assert names == ["ops", "send_email"]
    assert "dispatch" in app.get("/").json["capabilities"]
    assert heartbeat(app)


def test_the_capability_says_nothing_in_confidence(ini: Settings) -> None:
    """Anybody may read it: what is in use, but no channel, no destination, no queue (B20)."""
    app = make_app(ini)
    capability = app.get("/").json["capabilities"]["dispatch"]
    assert set(capability) == {"description", "url", "version", "plugins", "subscribable"}
    assert capability["plugins"] == [ini[f"{BASE}channels.ops.plugin"]]
    text = json.dumps(capability)
    assert "ops" not in text
    assert "queue" not in text


# --- with an outbox ------------------------------------------------------------------------------


@pytest.fixture
def with_outbox(ini: Settings, postgresql_url: str) -> Settings:
    """PostgreSQL storage, and a queue that cannot be reached."""
    return {**ini, "kinto.storage_url": postgresql_url, f"{BASE}queue_url": NOWHERE}


def test_events_commit_with_the_records(with_outbox: Settings, postgresql_url: str) -> None:
    """A write puts its events into the outbox, in order; the queue is not asked for anything."""
    app = make_app(with_outbox)
    paths = ["/buckets/b", "/buckets/b/collections/c", RECORD]
    started = time.monotonic()
    app.post_json("/batch", {"requests": [{"method": "PUT", "path": path} for path in paths]})
    assert time.monotonic() - started < 1
    assert [event.uri for event in outbox(postgresql_url)] == paths


def test_what_is_rolled_back_leaves_the_outbox_too(
    with_outbox: Settings, postgresql_url: str, plugin: Write
) -> None:
    """A write that another plugin refuses, and one that a batch rolls back, leave no row (R21)."""
    with_outbox["kinto.includes"] = plugin("""
        from kinto.core.errors import http_error
        from kinto.core.events import ResourceChanged
        from pyramid.httpexceptions import HTTPConflict
        import transaction

        def refuse(event):
            def fail():
                raise RuntimeError("the commit fails")

            for impacted in event.impacted_objects:
                if impacted["new"]["id"] == "refused":
                    raise RuntimeError("refused")
                if impacted["new"]["id"] == "late":
                    # After the outbox was written.
                    transaction.get().addBeforeCommitHook(fail)

        def conflict(request):
            raise http_error(HTTPConflict())

        def includeme(config):
            config.add_subscriber(refuse, ResourceChanged)
            config.add_route("conflict", "/conflict")
            config.add_view(conflict, route_name="conflict")
    """)
    app = make_app(with_outbox)
    app.put("/buckets/refused", status=500)
    app.put("/buckets/late", status=500)
    paths = ["/buckets/before", "/conflict", "/buckets/after"]
    app.post_json("/batch", {"requests": [{"method": "PUT", "path": path} for path in paths]})
    assert [event.uri for event in outbox(postgresql_url)] == ["/buckets/after"]


def test_of_a_deadlock_only_the_survivor_is_announced(
    with_outbox: Settings, postgresql_url: str, plugin: Write
) -> None:
    """Two writes wait for each other when both have written their events; PostgreSQL ends one of
    them (R21)."""
    with_outbox["kinto.includes"] = plugin("""
        import threading
        import transaction
        from kinto.core.events import ResourceChanged
        from sqlalchemy import text

        both = threading.Barrier(2, timeout=30)

        def lock(client, number):
            with client.connect() as session:
                session.execute(text(f"SELECT pg_advisory_xact_lock({number})"))

        def cross(client, number):
            try:
                both.wait()
                lock(client, number)
            except Exception:
                # Where a hook fails, the transaction would stay open.
                transaction.abort()
                raise

        def changed(event):
            client = event.request.registry.storage.client
            first, second = (1, 2) if event.payload["collection_id"] == "c1" else (2, 1)
            lock(client, first)
            # After the outbox was written.
            transaction.get().addBeforeCommitHook(cross, (client, second))

        def includeme(config):
            config.add_subscriber(changed, ResourceChanged, for_resources=("record",))
    """)
    app = make_app(with_outbox)
    # Of two collections: Kinto itself lets one write of a collection wait for another.
    collections = ["/buckets/b/collections/c1", "/buckets/b/collections/c2"]
    for path in ("/buckets/b", *collections):
        app.put(path)
    records = [f"{path}/records/r" for path in collections]
    with ThreadPoolExecutor(2) as clients:
        answers = list(clients.map(partial(app.put, expect_errors=True), records))
    statuses = [answer.status_int for answer in answers]
    assert statuses.count(201) == 1
    assert all(status in (201, 500, 503) for status in statuses)
    survivor = records[statuses.index(201)]
    assert [event.uri for event in outbox(postgresql_url)][3:] == [survivor]


def test_a_new_channel_gets_all_that_was_written_since_kinto_knows_it(
    with_outbox: Settings, queue_url: str, plugin: Write
) -> None:
    """Kinto is started again with a channel more, while a worker with the old ini goes on: when
    the new worker starts at last, the channel gets everything from between."""
    name = plugin("""
        uris = []

        async def on_event_async(event, channel, delivery):
            uris.append(event.uri)
    """)
    before = {**with_outbox, f"{BASE}queue_url": queue_url}
    after = {
        **before,
        f"{BASE}channels": "ops new",
        f"{BASE}channels.new.plugin": name,
    }
    make_app(before).put("/buckets/before")
    work(before)
    app = make_app(after)
    work(before)
    for number in range(3):
        app.put(f"/buckets/b{number}")
        work(before)
    work(after)
    assert sys.modules[name].uris == ["/buckets/b0", "/buckets/b1", "/buckets/b2"]


def work(settings: Settings) -> None:
    """A worker of this ini comes, does what there is to do, and goes."""
    configuration = configure(full_settings(settings))
    asyncio.run(Worker(configuration, WorkerOptions(burst=True)).run())


def test_a_write_costs_one_statement(with_outbox: Settings, plugin: Write) -> None:
    """Compared with a Kinto that announces nothing, and for any number of channels."""
    storage = {"kinto.storage_url": with_outbox["kinto.storage_url"]}
    name = with_outbox[f"{BASE}channels.ops.plugin"]
    names = [f"c{number}" for number in range(50)]
    many = {f"{BASE}channels.{each}.plugin": name for each in names}
    bare, one, fifty = (
        _statements_of_a_write(make_app(settings))
        for settings in (
            storage,
            with_outbox,
            {**with_outbox, f"{BASE}channels": " ".join(["ops", *names]), **many},
        )
    )
    assert [line for line in one if "kinto_dispatch" not in line] == bare
    assert len(one) == len(bare) + 1
    assert one == fifty


def _statements_of_a_write(app: Any) -> list[str]:
    """Everything that a request sends to PostgreSQL, savepoints and the like included."""
    app.put("/buckets/b")
    app.put("/buckets/b/collections/c")
    with statements(app.app.registry.storage.client) as sent:
        app.put_json("/buckets/b/collections/c/records/r", {"data": {"a": 1}})
    app.delete("/buckets/b")
    return sent


def test_an_outbox_that_cannot_be_written_refuses_the_write(
    with_outbox: Settings, postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What could not be announced does not happen: 503, come again, and nothing is stored."""
    app = make_app(with_outbox)
    query(postgresql_url, "ALTER TABLE kinto_dispatch_outbox RENAME TO gone")
    answer = app.put("/buckets/b", status=503)
    assert answer.headers["Retry-After"] == "3"
    assert answer.json["errno"] == 201
    assert "outbox cannot be written" in caplog.text
    query(postgresql_url, "ALTER TABLE gone RENAME TO kinto_dispatch_outbox")
    app.put("/buckets/b", status=201)
    assert [event.uri for event in outbox(postgresql_url)] == ["/buckets/b"]


def test_an_event_that_can_never_be_announced_refuses_the_write(
    with_outbox: Settings, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """413 with what to do, for to come again is of no use; and nothing is stored."""
    app = make_app(with_outbox)
    app.put("/buckets/b")
    monkeypatch.setattr("kinto_dispatch.outbox.postgres.LARGEST_WRITE_BYTES", 10_000)
    large = {"data": {"text": "x" * 10_000}}
    answer = app.put_json("/buckets/b/collections/c", large, status=413)
    assert answer.json["errno"] == 113
    assert "at most 10,000 can be announced. Change or delete fewer" in answer.json["message"]
    assert "Retry-After" not in answer.headers
    app.get("/buckets/b/collections/c", status=404)
    app.put("/buckets/b/collections/c", status=201)
    assert len(outbox(postgresql_url)) == 2


def test_without_async_channels_nothing_is_kept(
    ini: Settings, plugin: Write, postgresql_url: str, queue_dir: Path
) -> None:
    """Sync channels touch neither outbox nor log, on either storage."""
    sync = {f"{BASE}channels.ops.plugin": plugin(SYNC)}
    for storage in ({}, {"kinto.storage_url": postgresql_url}):
        app = make_app({**ini, **sync, **storage})
        app.put("/buckets/b")
        assert heartbeat(app)
    assert outbox(postgresql_url) == []
    assert not queue_dir.exists()


# --- direct mode ---------------------------------------------------------------------------------


def test_without_an_outbox_the_log_has_it_when_the_client_has_its_answer(
    ini: Settings, queue_url: str
) -> None:
    """On memory storage the events are appended after the commit, before the response."""
    app = make_app({**ini, f"{BASE}queue_url": queue_url})
    app.put("/buckets/b")
    app.put("/buckets/b/collections/c")
    assert [event.uri for event in logged_events(app)] == [
        "/buckets/b",
        "/buckets/b/collections/c",
    ]


def test_postgresql_without_transactions_is_direct_too(
    ini: Settings, queue_url: str, postgresql_url: str
) -> None:
    """With transaction_per_request off there is nothing to join, and no outbox is needed."""
    settings = {
        **ini,
        f"{BASE}queue_url": queue_url,
        "kinto.storage_url": postgresql_url,
        "kinto.transaction_per_request": "false",
    }
    app = make_app(settings)
    app.put("/buckets/b")
    assert [event.uri for event in logged_events(app)] == ["/buckets/b"]


def test_the_first_write_starts_the_embedded_queue(ini: Settings, queue_dir: Path) -> None:
    """Starting a server takes longer than a write may wait; the event is not lost for that."""
    app = make_app(ini)
    assert not queue_dir.exists()
    for number in range(3):
        app.put(f"/buckets/b{number}")
    eventually(lambda: dispatcher(app).direct.appended == 3, "the events to be appended")
    uris = [event.uri for event in logged_events(app)]
    assert uris == ["/buckets/b0", "/buckets/b1", "/buckets/b2"]
    assert dispatcher(app).direct.dropped == 0


def test_a_queue_that_is_away_costs_a_write_little(
    ini: Settings, own_valkey: LocalValkey, caplog: pytest.LogCaptureFixture
) -> None:
    """A queue that hangs costs one write its budget, the next ones nothing. A short absence loses
    nothing, and the order stays."""
    own_valkey.start()
    app = make_app({**ini, f"{BASE}queue_url": own_valkey.url})
    app.put("/buckets/b0")
    own_valkey.pause()
    times = []
    for number in range(1, 4):
        started = time.monotonic()
        app.put(f"/buckets/b{number}")
        times.append(time.monotonic() - started)
    own_valkey.resume()
    assert times[0] < 1
    assert max(times[1:]) < 0.2
    eventually(lambda: dispatcher(app).direct.appended == 4, "the events to be appended")
    assert [event.bucket_id for event in logged_events(app)] == ["b0", "b1", "b2", "b3"]
    assert "The queue takes events again" in caplog.text


def test_what_the_queue_does_not_take_is_dropped_loudly(
    ini: Settings,
    own_valkey: LocalValkey,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The write succeeds; the log names each event that is lost, the heartbeat is red until the
    queue takes an event again."""
    monkeypatch.setattr("kinto_dispatch.listener.direct.KEEP_SECONDS", 0.3)
    monkeypatch.setattr("kinto_dispatch.listener.heartbeat.PATIENCE_SECONDS", 0.2)
    app = make_app({**ini, f"{BASE}queue_url": own_valkey.url})
    app.put("/buckets/lost")
    eventually(lambda: dispatcher(app).direct.dropped == 1, "the event to be given up")
    (line,) = [line for line in caplog.records if line.message.startswith("Lost 1 events")]
    assert line.levelno == logging.ERROR
    (event_id,) = line.event_ids  # type: ignore[attr-defined]  # of our own
    assert event_id in line.message
    assert not heartbeat(app)
    own_valkey.start()
    a_worker_comes_by(app)
    assert not heartbeat(app)
    assert "1 events were lost" in caplog.text
    app.put("/buckets/kept")
    eventually(lambda: heartbeat(app), "the heartbeat to be green")
    assert [event.bucket_id for event in logged_events(app)] == ["kept"]


# --- the heartbeat -------------------------------------------------------------------------------


def test_the_heartbeat_needs_the_queue(
    ini: Settings, own_valkey: LocalValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red while the queue of async channels cannot be reached or hangs, and never slow."""
    monkeypatch.setattr("kinto_dispatch.listener.heartbeat.PATIENCE_SECONDS", 0.2)
    app = make_app({**ini, f"{BASE}queue_url": own_valkey.url})
    assert not heartbeat(app)
    own_valkey.start()
    assert heartbeat(app)
    own_valkey.pause()
    started = time.monotonic()
    assert not heartbeat(app)
    assert time.monotonic() - started < 5
    own_valkey.resume()
    assert heartbeat(app)


def test_a_queue_that_rejects_what_it_is_asked_turns_the_heartbeat_red(
    ini: Settings, queue_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers, so waiting does not help; the reason is in the log, and Kinto gets its word."""
    app = make_app({**ini, f"{BASE}queue_url": queue_url})
    cursor = LaneKeys(dispatcher(app).configuration.settings.queue_prefix, "ops").cursor
    server = redis.Redis.from_url(queue_url)
    server.set(cursor, "nonsense")
    assert not heartbeat(app)
    assert "it rejected a request (Invalid stream ID" in caplog.text
    server.delete(cursor)
    server.close()
    assert heartbeat(app)


def test_the_heartbeat_starts_an_embedded_queue(ini: Settings, queue_dir: Path) -> None:
    """Asking whether the queue can be reached makes it so, if it is ours."""
    assert heartbeat(make_app(ini))
    assert queue_dir.exists()


def test_events_without_a_worker_turn_the_heartbeat_red(
    ini: Settings, queue_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A forgotten worker is noticed as soon as there is something for it to do."""
    app = make_app({**ini, f"{BASE}queue_url": queue_url})
    assert heartbeat(app)
    app.put("/buckets/b")
    assert not heartbeat(app)
    assert not heartbeat(app)
    assert caplog.text.count("no worker was ever seen: run kinto-dispatch worker") == 1
    a_worker_comes_by(app)
    assert heartbeat(app)


def test_events_in_the_outbox_wait_as_well(
    with_outbox: Settings, queue_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With an outbox, what waits there counts."""
    app = make_app({**with_outbox, f"{BASE}queue_url": queue_url})
    assert heartbeat(app)
    app.put("/buckets/b")
    assert not heartbeat(app)
    a_worker_comes_by(app)
    assert heartbeat(app)


# --- over HTTP -----------------------------------------------------------------------------------


def test_several_processes_of_kinto_write_one_log(
    ini: Settings, tmp_path: Path, queue_url: str
) -> None:
    """Real processes behind one port: killed and started again, they lose nothing committed."""
    import requests

    settings = {
        **ini,
        f"{BASE}queue_url": queue_url,
        "kinto.bucket_create_principals": "system.Everyone",
    }
    auth = ("alice", "s3cr3t")
    with LocalKinto(settings, tmp_path, processes=2) as kinto:
        assert len(kinto.pids) == 2
        for number in range(10):
            url = f"{kinto.url}/buckets/b{number}"
            requests.put(url, auth=auth, timeout=10).raise_for_status()
            if number == 5:
                kinto.kill()
                kinto.start()
    app = make_app(settings)
    assert [event.bucket_id for event in logged_events(app)] == [f"b{n}" for n in range(10)]
    log = open_log(dispatcher(app).configuration.settings, ("ops",))
    assert len(log.summary()[0]) == 1
    log.close()
