"""Channels that run in the request: when they are called, what they may refuse, how long they
may take. In a real Kinto, on memory and on PostgreSQL."""

from __future__ import annotations

import importlib
import itertools
import logging
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kinto_dispatch.capture import Captured
from kinto_dispatch.listener.sync import SyncChannels
from kinto_dispatch.outcome import Delivered
from kinto_dispatch.testing import make_change, make_channel, make_event
from kinto_dispatch.testing.kinto import LocalKinto, make_app
from kinto_dispatch.testing.waiting import eventually


RECORD = "/buckets/b/collections/c/records/r"
KEEPER = """
    calls = []

    def on_event(event, channel):
        calls.append(event)
"""

numbers = itertools.count()
Write = Callable[[str], str]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a plugin into a file on the import path; returns the name for the ini."""
    monkeypatch.syspath_prepend(tmp_path)
    written: list[str] = []

    def write(body: str) -> str:
        name = f"plugin_of_a_test_{next(numbers)}"
        source = "from kinto_dispatch import *\n" + textwrap.dedent(body)
        source = source.replace("def on_event(", "@hookimpl\ndef on_event(")
        (tmp_path / f"{name}.py").write_text(source)
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


def module(name: str) -> Any:
    """The plugin's module, to look into."""
    return importlib.import_module(name)


@pytest.fixture(params=["memory", "postgresql"])
def storage(request: pytest.FixtureRequest) -> dict[str, str]:
    """The settings of either storage."""
    if request.param == "postgresql":
        return {"kinto.storage_url": request.getfixturevalue("postgresql_url")}
    return {}


def ini(storage: dict[str, str], **channels: dict[str, str]) -> dict[str, str]:
    """A dispatcher with these sync channels for records."""
    base = "kinto.event_listeners.dispatch."
    settings = {
        **storage,
        "kinto.event_listeners": "dispatch",
        f"{base}use": "kinto_dispatch",
        f"{base}channels": " ".join(channels),
    }
    for name, options in channels.items():
        options = {"mode": "sync", "resources": "record", **options}
        settings |= {f"{base}channels.{name}.{key}": value for key, value in options.items()}
    return settings


def start(settings: dict[str, str]) -> Any:
    """A Kinto with these settings, and a collection in it."""
    app = make_app(settings)
    app.put("/buckets/b")
    app.put("/buckets/b/collections/c")
    return app


def put(app: Any, status: int = 201, **data: Any) -> Any:
    return app.put_json(RECORD, {"data": data}, status=status)


def attempts(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The line that each call leaves in the log."""
    return [line for line in caplog.records if line.getMessage().startswith("sync.attempted")]


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="kinto_dispatch")


# --- being told ----------------------------------------------------------------------------------


def test_a_channel_is_told_before_the_client_gets_its_answer(
    storage: dict[str, str], plugin: Write, caplog: pytest.LogCaptureFixture
) -> None:
    """The hook has the event when the response comes; one log line says so with all its fields."""
    name = plugin(KEEPER)
    app = start(ini(storage, ops={"plugin": name}))
    put(app, title="one")
    (event,) = module(name).calls
    assert (event.uri, event.changes[0].new["title"]) == (RECORD, "one")
    (line,) = attempts(caplog)
    fields = ("event_id", "channel", "phase", "outcome", "reason")
    expected = [event.id, "ops", "after_commit", "delivered", None]
    assert [getattr(line, field) for field in fields] == expected
    assert 0 <= line.duration_seconds < 5  # type: ignore[attr-defined]  # of our own
    assert line.levelno == logging.INFO


def test_after_the_commit_the_record_is_there(postgresql_url: str, plugin: Write) -> None:
    """A hook that runs after the commit finds the record, from any other connection."""
    name = plugin("""
        import psycopg2
        url, found = None, []

        def on_event(event, channel):
            connection = psycopg2.connect(url)
            cursor = connection.cursor()
            cursor.execute("SELECT count(*) FROM objects WHERE resource_name = 'record'")
            found.append(cursor.fetchone()[0])
            connection.close()
    """)
    app = start(ini({"kinto.storage_url": postgresql_url}, ops={"plugin": name}))
    module(name).url = postgresql_url
    put(app)
    assert module(name).found == [1]


def test_a_channel_gets_only_what_its_route_wants(storage: dict[str, str], plugin: Write) -> None:
    """Changes that the route does not want are not in the event, and no event is empty."""
    news, nothing = plugin(KEEPER), plugin(KEEPER)
    app = start(
        ini(
            storage,
            news={"plugin": news, "when": "new.kind == 'news'"},
            nothing={"plugin": nothing, "actions": "delete"},
        )
    )
    specs = [
        {"method": "POST", "path": RECORD.rpartition("/")[0], "body": {"data": {"kind": kind}}}
        for kind in ("news", "other", "news")
    ]
    app.post_json("/batch", {"requests": specs})
    (event,) = module(news).calls
    assert [change.new["kind"] for change in event.changes] == ["news", "news"]
    assert module(nothing).calls == []


def test_split_changes_makes_a_call_for_each_object(
    storage: dict[str, str], plugin: Write
) -> None:
    """With split_changes each object comes alone, all under the same event id."""
    name = plugin(KEEPER)
    app = start(ini(storage, ops={"plugin": name, "split_changes": "true"}))
    paths = [RECORD + number for number in "123"]
    app.post_json("/batch", {"requests": [{"method": "PUT", "path": path} for path in paths]})
    calls = module(name).calls
    assert [[change.uri for change in event.changes] for event in calls] == [[p] for p in paths]
    assert len({event.id for event in calls}) == 1


def test_two_aliases_are_one_dispatcher(storage: dict[str, str], plugin: Write) -> None:
    """Several aliases only add channels: each is told once, within what its alias passes on."""
    one, two = plugin(KEEPER), plugin(KEEPER)
    settings = ini(storage, ops={"plugin": one})
    settings["kinto.event_listeners"] = "dispatch tickets"
    base = "kinto.event_listeners.tickets."
    settings |= {
        f"{base}use": "kinto_dispatch",
        f"{base}actions": "delete",
        f"{base}plugin": two,
        f"{base}mode": "sync",
    }
    app = start(settings)
    put(app)
    app.delete(RECORD)
    first, second = module(one).calls
    assert (first.action, second.action) == ("create", "delete")
    assert [event.id for event in module(two).calls] == [second.id]


def test_reads_are_told_where_the_alias_asks_for_them(
    storage: dict[str, str], plugin: Write
) -> None:
    """Kinto passes reads on to a listener with ``actions = read``."""
    name = plugin(KEEPER)
    settings = ini(storage, ops={"plugin": name})
    settings["kinto.event_listeners.dispatch.actions"] = "create read"
    app = start(settings)
    put(app, title="one")
    app.get(RECORD)
    create, read = module(name).calls
    assert (create.action, read.action) == ("create", "read")
    assert read.changes[0].old == read.changes[0].new == create.changes[0].new


def test_a_listener_may_be_named_by_its_module(plugin: Write) -> None:
    """Without an alias Kinto takes the module's name for one."""
    name = plugin(KEEPER)
    base = "kinto.event_listeners.kinto_dispatch."
    app = make_app({"kinto.event_listeners": "kinto_dispatch", f"{base}plugin": name})
    app.put("/buckets/b")
    assert [event.uri for event in module(name).calls] == ["/buckets/b"]


# --- failing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise RuntimeError('no route to host')", "RuntimeError: no route to host"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise TimeoutError('in the hook')", "TimeoutError: in the hook"),
        ("return Retry('busy', after=3)", "busy"),
        ("return Rejected('unknown user')", "unknown user"),
        ("return True", "on_event returned bool"),
        ("return Veto(403, 'too late')", "Veto after the commit"),
    ],
)
def test_a_failing_channel_hurts_nobody_else(
    plugin: Write, caplog: pytest.LogCaptureFixture, body: str, reason: str
) -> None:
    """Whatever a hook does, the write stands, the next channel is told, and the log says why."""
    bad, good = plugin(f"def on_event(event, channel):\n    {body}\n"), plugin(KEEPER)
    app = start(ini({}, bad={"plugin": bad}, good={"plugin": good}))
    put(app)
    assert len(module(good).calls) == 1
    failed, delivered = attempts(caplog)
    assert (failed.channel, failed.outcome) == ("bad", "failed")
    assert reason in failed.reason
    assert failed.levelno == logging.WARNING
    assert delivered.outcome == "delivered"


def test_a_route_that_cannot_be_judged_is_a_failure(
    plugin: Write, caplog: pytest.LogCaptureFixture
) -> None:
    """An expression that breaks on one record is logged, not swallowed, and the write stands."""
    name = plugin(KEEPER)
    app = start(ini({}, ops={"plugin": name, "when": "length(new.title) > `3`"}))
    put(app, title=5)
    assert module(name).calls == []
    (line,) = attempts(caplog)
    assert (line.outcome, line.levelno) == ("failed", logging.WARNING)
    assert "length(new.title)" in line.reason


def test_a_hook_cannot_change_what_the_next_one_gets_told_of_kinto(
    storage: dict[str, str], plugin: Write
) -> None:
    """Hooks get a copy: what they do to it reaches neither Kinto nor the stored record."""
    name = plugin("""
        def on_event(event, channel):
            event.changes[0].new["title"] = "spoilt"
    """)
    app = start(ini(storage, ops={"plugin": name, "phase": "before_commit"}))
    assert put(app, title="one").json["data"]["title"] == "one"
    assert app.get(RECORD).json["data"]["title"] == "one"


# --- hanging -------------------------------------------------------------------------------------

HANGS = """
    import threading
    gate, calls = threading.Event(), []

    def on_event(event, channel):
        calls.append(event)
        gate.wait(60)
"""


@pytest.fixture
def hanging(plugin: Write) -> Iterator[str]:
    """A plugin whose hook does not return while the test runs."""
    name = plugin(HANGS)
    yield name
    module(name).gate.set()


def test_a_hanging_hook_is_left_behind(
    storage: dict[str, str], hanging: str, plugin: Write, caplog: pytest.LogCaptureFixture
) -> None:
    """The client waits timeout_seconds and no longer, then the next channel is called."""
    good = plugin(KEEPER)
    channels = {"bad": {"plugin": hanging, "timeout_seconds": "0.2"}, "good": {"plugin": good}}
    app = start(ini(storage, **channels))
    started = time.monotonic()
    put(app)
    assert 0.2 <= time.monotonic() - started < 2
    assert len(module(good).calls) == 1
    hung, _ = attempts(caplog)
    assert hung.reason == "no answer within 0.2 s (timeout_seconds)"


def test_a_batch_waits_once_for_a_hanging_hook(
    hanging: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What else the channel would get from the same request fails at once."""
    channel = {"plugin": hanging, "timeout_seconds": "0.2", "split_changes": "true"}
    app = start(ini({}, ops=channel))
    specs = [{"method": "PUT", "path": f"{RECORD}{number}"} for number in range(20)]
    started = time.monotonic()
    app.post_json("/batch", {"requests": specs})
    assert time.monotonic() - started < 2
    assert len(module(hanging).calls) == 1
    reasons = [line.reason for line in attempts(caplog)]
    assert len(reasons) == 20
    assert set(reasons[1:]) == {"not called, since the call before it hangs"}


def test_when_all_threads_hang_later_calls_fail_at_once(
    hanging: str, plugin: Write, caplog: pytest.LogCaptureFixture
) -> None:
    """Sixteen calls left behind are the most; then the log says that none is made, and what to
    do. Another channel is told as ever, and one call that comes back makes room for the next."""
    good = plugin(KEEPER)
    channels = {"bad": {"plugin": hanging, "timeout_seconds": "0.05"}, "good": {"plugin": good}}
    app = start(ini({}, **channels))
    put(app)
    eventually(lambda: _is_hopeless(app, caplog), "all threads to hang")
    caller = app.app.registry.kinto_dispatch._sync._after[0]
    caller._timeout_seconds = 60
    started = time.monotonic()
    assert _is_hopeless(app, caplog)
    assert time.monotonic() - started < 30
    assert len(module(hanging).calls) == 16
    assert {line.outcome for line in attempts(caplog) if line.channel == "good"} == {"delivered"}
    assert len(module(good).calls) * 2 == len(attempts(caplog))
    module(hanging).gate.set()
    eventually(lambda: _delivers(app, caplog), "the threads to come free")


def _is_hopeless(app: Any, caplog: pytest.LogCaptureFixture) -> bool:
    put(app, 200)
    bad, _ = attempts(caplog)[-2:]
    reason = (
        r"not called: all 16 threads .* each over its deadline of .* \(timeout_seconds\)\. Give"
    )
    return re.match(reason, bad.reason) is not None


def tell_from_many(sync: SyncChannels, count: int) -> list[threading.Thread]:
    """So many requests at once, each in a thread of its own as in a web server."""
    events = [Captured("event", make_event().encode())]
    requests = [threading.Thread(target=sync.after_commit, args=(events,)) for _ in range(count)]
    for request in requests:
        request.start()
    return requests


def test_more_requests_than_threads_take_turns(
    hanging: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that find no thread wait for one, within the same time; none fails for being late."""
    sync = SyncChannels([make_channel(module(hanging), mode="sync")], {"test": 30})
    requests = tell_from_many(sync, 40)
    eventually(lambda: len(module(hanging).calls) == 16, "all threads to be busy")
    module(hanging).gate.set()
    for request in requests:
        request.join(30)
    assert [line.outcome for line in attempts(caplog)] == ["delivered"] * 40


def test_a_request_that_finds_no_thread_in_time_is_told_so(
    hanging: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With how many calls there are, and how many of them hang; it is not made later."""
    channel = make_channel(module(hanging), mode="sync", split_changes="true")
    sync = SyncChannels([channel], {"test": 0.5})
    first = tell_from_many(sync, 16)
    eventually(lambda: len(module(hanging).calls) == 16, "all threads to be busy")
    sync.after_commit(
        [Captured("late", make_event(id="late", changes=[make_change()] * 2).encode())]
    )
    late = [line.reason for line in attempts(caplog) if line.event_id == "late"]
    assert re.match(
        r"no thread came free within 0\.5 s \(timeout_seconds\): 16 calls are under way \(at most "
        r"16\), \d+ of them over their deadline\. Make the hook answer sooner, or",
        late[0],
    )
    assert late[1:] == ["not called, since there was no thread for the call before it"]
    module(hanging).gate.set()
    for request in first:
        request.join(30)

    def delivers() -> bool:
        sync.after_commit([Captured("next", make_event().encode())])
        return attempts(caplog)[-1].outcome == "delivered"

    eventually(delivers, "the threads to come free")
    assert "late" not in {event.id for event in module(hanging).calls}


def test_one_call_that_comes_back_makes_room(plugin: Write) -> None:
    """Also where it was given up long ago, and all others still hang."""
    hangs = module(plugin(HANGS_BY_ITSELF))
    sync = SyncChannels([make_channel(hangs, mode="sync")], {"test": 0.05})
    events = [Captured("event", make_event().encode())]

    def is_full() -> bool:
        sync.after_commit(events)
        return len(hangs.gates) == 16

    eventually(is_full, "all threads to hang")
    (caller,) = sync._after
    caller._timeout_seconds = 60
    hangs.gates[7].set()
    eventually(lambda: caller._threads.busy == 15, "one thread to come free")
    hangs.hangs = False
    assert list(caller.call(events)) == [Delivered()]
    for gate in hangs.gates:
        gate.set()


HANGS_BY_ITSELF = """
    import threading
    gates, hangs = [], True

    def on_event(event, channel):
        if hangs:
            gates.append(threading.Event())
            gates[-1].wait(60)
"""


def test_requests_get_threads_in_the_order_in_which_they_came(plugin: Write) -> None:
    """None waits for ever behind those that come later."""
    hook = module(plugin(NOTES_THE_ORDER))
    sync = SyncChannels([make_channel(hook, mode="sync")], {"test": 60})
    (caller,) = sync._after
    requests = tell_from_many(sync, 16)
    eventually(lambda: caller._threads.under_way == (16, 0), "all threads to be busy")
    for number in range(30):
        captured = Captured("event", make_event(request_id=f"{number}").encode())
        requests.append(threading.Thread(target=sync.after_commit, args=([captured],)))
        requests[-1].start()
        eventually(lambda: caller._threads.busy == len(requests), "the request to be in line")
    for _ in range(30):
        begun = len(hook.order)
        hook.places.release()
        eventually(partial(_has_more_than, hook.order, begun), "the next to begin")
    hook.places.release(16)
    for request in requests:
        request.join(30)
    assert hook.order[16:] == [f"{number}" for number in range(30)]


def _has_more_than(order: list[str], count: int) -> bool:
    return len(order) > count


NOTES_THE_ORDER = """
    import threading
    places, order = threading.Semaphore(0), []

    def on_event(event, channel):
        order.append(event.request_id)
        places.acquire(timeout=60)
"""


def test_a_server_that_ends_a_request_ends_its_wait(hanging: str) -> None:
    """As gunicorn and gevent do, with an exception: the call counts as one that hangs."""
    sync = SyncChannels([make_channel(module(hanging), mode="sync")], {"test": 60})
    (caller,) = sync._after
    with pytest.raises(SystemExit):
        _end_soon(lambda: sync.after_commit([Captured("event", make_event().encode())]), hanging)
    assert caller._threads.under_way == (1, 1)


def _end_soon(request: Callable[[], None], hanging: str) -> None:
    def end(number: int, frame: object) -> None:
        raise SystemExit(1)

    main = threading.main_thread().ident or 0

    def end_it() -> None:
        eventually(lambda: module(hanging).calls, "the call to begin")
        waits = threading.Condition.wait.__code__
        eventually(lambda: sys._current_frames()[main].f_code is waits, "the request to wait")
        signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, end)
    ender = threading.Thread(target=end_it)
    try:
        ender.start()
        request()
    finally:
        ender.join()
        signal.signal(signal.SIGUSR1, before)


def _delivers(app: Any, caplog: pytest.LogCaptureFixture) -> bool:
    put(app, 200)
    return all(line.outcome == "delivered" for line in attempts(caplog)[-2:])


def test_a_hanging_hook_does_not_keep_the_process_from_ending(tmp_path: Path) -> None:
    """Kinto ends on SIGTERM although a hook never returned."""
    (tmp_path / "hangs.py").write_text(
        "from kinto_dispatch import hookimpl\nimport time\n"
        "@hookimpl\ndef on_event(event):\n    time.sleep(600)\n"
    )
    settings = ini({}, ops={"plugin": "hangs", "resources": "bucket", "timeout_seconds": "0.1"})
    kinto = LocalKinto(settings, tmp_path)
    kinto.start()
    curl = [sys.executable, "-c", PUT_BUCKET, f"{kinto.url}/buckets/b"]
    try:
        subprocess.run(curl, check=True, timeout=20)
        (process,) = kinto._processes
        started = time.monotonic()
        process.terminate()
        process.wait(10)
        assert time.monotonic() - started < 5
    finally:
        kinto.stop()
    assert "no answer within 0.1 s" in kinto.log_file.read_text()


PUT_BUCKET = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], method="PUT")
request.add_header("Authorization", "Basic YWxpY2U6czNjcjN0")
assert urllib.request.urlopen(request, timeout=10).status == 201
"""


def test_a_channel_without_a_timeout_gets_five_seconds(plugin: Write) -> None:
    """A client waits, so the default is shorter than in the worker; what the ini says counts."""
    one, two = plugin(KEEPER), plugin(KEEPER)
    app = make_app(ini({}, a={"plugin": one}, b={"plugin": two, "timeout_seconds": "30"}))
    callers = app.app.registry.kinto_dispatch._sync._after
    assert [caller._timeout_seconds for caller in callers] == [5.0, 30.0]


# --- refusing ------------------------------------------------------------------------------------

VETOES = """
    status, calls = 403, []

    def on_event(event, channel):
        calls.append(event)
        if event.changes[0].new.get("bad"):
            return Veto(status, "not on a Friday")
"""


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 418, 422, 429, 451, 499])
def test_a_veto_refuses_the_write(
    storage: dict[str, str], plugin: Write, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """The client gets the status and the reason in Kinto's format; nobody is told of the write,
    and PostgreSQL takes it back."""
    judge, told = plugin(VETOES), plugin(KEEPER)
    app = start(
        ini(
            storage,
            judge={"plugin": judge, "phase": "before_commit"},
            told={"plugin": told},
        )
    )
    module(judge).status = status
    answer = put(app, status, bad=True)
    assert answer.content_type == "application/json"
    assert (answer.json["code"], answer.json["message"]) == (status, "not on a Friday")
    assert answer.json["error"]
    assert module(told).calls == []
    (line,) = attempts(caplog)
    assert (line.outcome, line.reason) == ("vetoed", f"{status} not on a Friday")
    stays = not storage
    app.get(RECORD, status=200 if stays else 404)
    put(app, 200 if stays else 201)
    assert len(module(told).calls) == 1


def test_a_veto_refuses_a_whole_batch(storage: dict[str, str], plugin: Write) -> None:
    """The requests of a batch share a transaction, so they share the refusal."""
    judge = plugin(VETOES)
    app = start(ini(storage, judge={"plugin": judge, "phase": "before_commit"}))
    specs = [
        {"method": "PUT", "path": f"{RECORD}1", "body": {"data": {"bad": True}}},
        {"method": "PUT", "path": "/buckets/b2"},
    ]
    app.post_json("/batch", {"requests": specs}, status=403)
    if storage:
        app.get("/buckets/b2", status=403)


def test_raising_never_refuses_a_write(storage: dict[str, str], plugin: Write) -> None:
    """A bug in a hook before the commit is logged; the write goes on."""
    name = plugin("def on_event(event, channel):\n    raise RuntimeError('a bug')\n")
    app = start(ini(storage, ops={"plugin": name, "phase": "before_commit"}))
    put(app)
    app.get(RECORD)


@pytest.mark.parametrize(
    "body", ["raise RuntimeError('a bug')", "return Rejected('no')", "time.sleep(1)", "return 1"]
)
def test_on_failure_abort_refuses_what_cannot_be_told(
    storage: dict[str, str], plugin: Write, body: str
) -> None:
    """The client is asked to come again: 503 with Retry-After."""
    name = plugin(f"import time\ndef on_event(event, channel):\n    {body}\n")
    channel = {"phase": "before_commit", "on_failure": "abort", "timeout_seconds": "0.1"}
    app = start(ini(storage, ops={"plugin": name, **channel}))
    answer = put(app, 503)
    assert answer.headers["Retry-After"] == "3"
    assert (answer.json["code"], answer.json["errno"]) == (503, 201)
    app.get(RECORD, status=404 if storage else 200)


def test_on_failure_abort_lets_pass_what_is_told(storage: dict[str, str], plugin: Write) -> None:
    """A hook that does its job aborts nothing, whether it returns Delivered or nothing."""
    for body in ("return Delivered('250 ok')", "return None"):
        name = plugin(f"def on_event(event, channel):\n    {body}\n")
        channel = {"plugin": name, "phase": "before_commit", "on_failure": "abort"}
        start(ini(storage, ops=channel))


def test_no_connection_stays_in_a_transaction(postgresql_url: str, plugin: Write) -> None:
    """After a refusal every connection is free again, even if rendering the error asks the
    database once more: nothing stays locked."""
    judge = plugin(VETOES)
    settings = ini(
        {"kinto.storage_url": postgresql_url}, judge={"plugin": judge, "phase": "before_commit"}
    )
    settings["kinto.includes"] = plugin("""
        from pyramid.httpexceptions import HTTPForbidden

        def render(error, request):
            request.registry.storage.count_all("record", "/buckets/b/collections/c")
            return error

        def includeme(config):
            config.add_exception_view(render, context=HTTPForbidden, request_method="PUT")
    """)
    app = start(settings)
    for status in (403, 404):
        module(judge).status = status
        # This thread lives on, as those of a web server do.
        put(app, status, bad=True)
        assert _idle_in_transaction(postgresql_url) == []
    app.put_json(RECORD, {"data": {}}, status=201)


def _idle_in_transaction(url: str) -> list[Any]:
    import psycopg2

    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT state, query FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND state LIKE 'idle in transaction%'"
            )
            return list(cursor.fetchall())
    finally:
        connection.close()
