"""The queue is away, hangs or is slow while clients write: what a write pays, and what arrives."""

from __future__ import annotations

import asyncio
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kinto_dispatch.queue import LOG_TIMEOUT_SECONDS, open_queue
from kinto_dispatch.relay import Relay, open_relay
from kinto_dispatch.testing.kinto import make_app
from kinto_dispatch.testing.valkey import LocalValkey
from kinto_dispatch.testing.waiting import eventually, eventually_async


if TYPE_CHECKING:
    from tests.conftest import Deploy, Deployment

BASE = "kinto.event_listeners.dispatch."
BUDGET_SECONDS = 0.25
WRITES = 30

Settings = dict[str, str]

ABSENCES: dict[str, Callable[[LocalValkey], None]] = {
    "refused": LocalValkey.kill,
    "black-hole": LocalValkey.pause,
}
RETURNS: dict[str, Callable[[LocalValkey], None]] = {
    "refused": LocalValkey.start,
    "black-hole": LocalValkey.resume,
}


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[LocalValkey]:
    """A server that the test may pause and kill; not yet started."""
    (tmp_path / "valkey").mkdir()
    server = LocalValkey(tmp_path / "valkey")
    yield server
    server.stop()


def ini(queue_url: str, tmp_path: Path, **kinto: str) -> Settings:
    """One async channel, in a Kinto inside this process."""
    (tmp_path / "away_channel.py").write_text(
        "from kinto_dispatch import hookimpl\n\n\n"
        "class Channel:\n    @hookimpl\n    async def on_event_async(self, event): ...\n"
    )
    return {
        "kinto.event_listeners": "dispatch",
        f"{BASE}use": "kinto_dispatch",
        f"{BASE}queue_url": queue_url,
        f"{BASE}queue_dir": str(tmp_path / "queue"),
        f"{BASE}channels": "ops",
        f"{BASE}channels.ops.plugin": "away_channel:Channel",
        **{f"kinto.{name}": value for name, value in kinto.items()},
    }


def made(settings: Settings) -> Any:
    """The application, with a collection to write to."""
    app = make_app(settings)
    app.put("/buckets/b")
    app.put("/buckets/b/collections/c")
    return app


def write(app: Any, number: int) -> float:
    """Seconds that a write took, which succeeded."""
    started = time.monotonic()
    app.put_json(f"/buckets/b/collections/c/records/r{number}", {"data": {}}, status=201)
    return time.monotonic() - started


def heartbeat(app: Any) -> bool:
    return bool(app.get("/__heartbeat__", expect_errors=True).json["dispatch"])


def dispatcher(app: Any) -> Any:
    return app.app.registry.kinto_dispatch


# --- with an outbox ------------------------------------------------------------------------------


@pytest.mark.postgresql
def test_with_an_outbox_writes_do_not_notice(
    deploy: Deploy, valkey: LocalValkey, postgresql_url: str
) -> None:
    """(R7, R8) Under load the queue is refused, comes back, hangs and comes back: every write
    succeeds, none waits for it, the heartbeat is red meanwhile, and everything arrives."""
    valkey.start()
    deployment = deploy(kinto={"kinto.storage_url": postgresql_url}, queue_url=valkey.url)
    deployment.kinto.start()
    deployment.make_collections()
    worker = deployment.worker().start()
    before = _put_all(deployment, "before")
    during = []
    for how in ABSENCES:
        ABSENCES[how](valkey)
        during += _put_all(deployment, how)
        assert not deployment.request("GET", "/__heartbeat__").json()["dispatch"]
        RETURNS[how](valkey)
    _put_all(deployment, "after")
    names = ("before", *ABSENCES, "after")
    deployment.await_delivered(f"{name}{number}" for name in names for number in range(WRITES))
    assert worker.stop() == 0
    assert statistics.median(during) < statistics.median(before) + LOG_TIMEOUT_SECONDS / 2


def _put_all(deployment: Deployment, name: str) -> list[float]:
    """Seconds that each write took."""
    times = []
    for number in range(WRITES):
        started = time.monotonic()
        deployment.put(f"{name}{number}").raise_for_status()
        times.append(time.monotonic() - started)
    return times


@pytest.mark.postgresql
def test_with_an_outbox_writes_never_talk_to_the_queue(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(R7, R8) Nobody so much as knocks at its door."""
    monkeypatch.syspath_prepend(tmp_path)
    with closing(socket.create_server(("127.0.0.1", 0))) as door:
        url = f"redis://127.0.0.1:{door.getsockname()[1]}/0"
        app = made(ini(url, tmp_path, storage_url=postgresql_url))
        for number in range(10):
            write(app, number)
        door.setblocking(False)
        with pytest.raises(BlockingIOError):
            door.accept()


@pytest.mark.postgresql
def test_kinto_and_worker_start_without_a_queue(
    deploy: Deploy, valkey: LocalValkey, postgresql_url: str
) -> None:
    """(R6) Kinto serves and its heartbeat is red; the worker waits, in one process, and begins
    when the queue is there."""
    deployment = deploy(kinto={"kinto.storage_url": postgresql_url}, queue_url=valkey.url)
    deployment.kinto.start()
    deployment.make_collections()
    assert not deployment.request("GET", "/__heartbeat__").json()["dispatch"]
    worker = deployment.worker().start(wait=False)
    eventually(lambda: "cannot be used" in worker.said, "the worker to miss the queue", 30)
    pid = worker.pid
    deployment.put("early").raise_for_status()
    valkey.start()
    deployment.await_delivered({"early"})
    assert worker.pid == pid
    assert worker.stop() == 0
    assert worker.said.count("cannot be used") == 1
    assert deployment.request("GET", "/__heartbeat__").json()["dispatch"]


# --- direct mode ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ABSENCES)
def test_in_direct_mode_one_write_pays_and_the_loss_is_loud(
    how: str,
    valkey: LocalValkey,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """(R7, R8) The first write pays the budget at most, later ones next to nothing; the log and
    the heartbeat say what is lost; after the return writes arrive again."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("kinto_dispatch.listener.direct.KEEP_SECONDS", 0.5)
    monkeypatch.setattr("kinto_dispatch.listener.heartbeat.PATIENCE_SECONDS", 0.2)
    valkey.start()
    app = made(ini(valkey.url, tmp_path))
    before = [write(app, number) for number in range(WRITES)]
    ABSENCES[how](valkey)
    first, *later = [write(app, WRITES + number) for number in range(WRITES)]
    usual = statistics.median(before)
    # Twice: what a busy machine adds is not ours.
    assert first < usual + 2 * BUDGET_SECONDS + LOG_TIMEOUT_SECONDS
    assert sum(seconds > usual + BUDGET_SECONDS / 2 for seconds in later) <= 1
    assert statistics.median(later) < usual + BUDGET_SECONDS / 10
    lost = WRITES
    eventually(lambda: dispatcher(app).direct.dropped >= lost, "the events to be given up", 20)
    assert not heartbeat(app)
    assert "The queue does not take events" in caplog.text
    ids = [each for line in caplog.records for each in getattr(line, "event_ids", ())]
    assert len(set(ids)) == lost
    RETURNS[how](valkey)
    write(app, 1000)
    eventually(lambda: not dispatcher(app).direct.is_losing, "an event to be appended")
    assert dispatcher(app).direct.appended == 2 + WRITES + 1
    assert "The queue takes events again" in caplog.text


def test_a_kinto_without_its_queue_serves_in_direct_mode_too(
    valkey: LocalValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(R6) The queue comes up after Kinto: what was written shortly before is not lost."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("kinto_dispatch.listener.direct.KEEP_SECONDS", 60.0)
    monkeypatch.setattr("kinto_dispatch.listener.heartbeat.PATIENCE_SECONDS", 0.2)
    app = made(ini(valkey.url, tmp_path))
    write(app, 0)
    assert not heartbeat(app)
    valkey.start()
    eventually(lambda: dispatcher(app).direct.appended == 3, "what was written to be appended")
    assert dispatcher(app).direct.dropped == 0


class Slow:
    """A way to the server on which every answer takes its time: a loopback port."""

    def __init__(self, url: str, seconds: float) -> None:
        self._path = url.removeprefix("unix://").partition("?")[0]
        self._seconds = seconds
        self._sockets: list[socket.socket] = []
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._door.getsockname()[1]}/0"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._path)
            self._sockets += [client, server]
            for ends in ((client, server, 0.0), (server, client, self._seconds)):
                threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, seconds: float) -> None:
        try:
            while data := source.recv(65_536):
                time.sleep(seconds)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        """End all connections."""
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        for each in self._sockets:
            each.close()


@pytest.mark.parametrize("seconds", [0.1, 1.0])
def test_a_slow_queue_costs_a_write_no_more_than_the_budget(
    seconds: float, valkey: LocalValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(R9) With 100 ms of latency a write waits that long; with a second it counts as away, and
    writes go on without it."""
    monkeypatch.syspath_prepend(tmp_path)
    valkey.start()
    with closing(Slow(valkey.url, seconds)) as slow:
        app = made(ini(slow.url, tmp_path))
        direct = dispatcher(app).direct
        if seconds < BUDGET_SECONDS:
            eventually(lambda: direct.appended == 2, "the connection to be made")
        times = [write(app, number) for number in range(10)]
        direct.drop_all()
    assert sum(each > BUDGET_SECONDS + LOG_TIMEOUT_SECONDS for each in times) <= 1
    if seconds < BUDGET_SECONDS:
        assert statistics.median(times) > seconds
        assert direct.dropped == 0
    else:
        assert statistics.median(times) < BUDGET_SECONDS / 2


@pytest.mark.postgresql
@pytest.mark.parametrize("seconds", [0.1, 1.0])
def test_a_slow_queue_slows_the_relay_and_loses_nothing(
    seconds: float,
    valkey: LocalValkey,
    postgresql_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """(R9) With an outbox, a latency of 100 ms or a second is the relay's alone."""
    monkeypatch.syspath_prepend(tmp_path)
    valkey.start()
    with closing(Slow(valkey.url, seconds)) as slow:
        app = made(ini(slow.url, tmp_path, storage_url=postgresql_url))
        settings = dispatcher(app).configuration.settings

        async def relay_beside() -> list[float]:
            queue = open_queue(settings)
            relay = open_relay(settings, queue)
            assert relay is not None
            stopping = asyncio.Event()
            running = asyncio.create_task(relay.run(stopping))
            times = [await asyncio.to_thread(write, app, number) for number in range(WRITES)]
            await eventually_async(lambda: _has_relayed(relay, 2 + WRITES), "all to arrive", 60)
            stopping.set()
            await running
            await queue.close()
            return times

        assert statistics.median(asyncio.run(relay_beside())) < max(0.1, seconds / 2)


async def _has_relayed(relay: Relay, count: int) -> bool:
    return relay.relayed == count
