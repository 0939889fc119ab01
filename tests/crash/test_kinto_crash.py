"""Where the death of Kinto, or of its database, leaves a write and what is told of it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
import requests

from kinto_dispatch.event import Event
from kinto_dispatch.testing.kinto import make_app
from kinto_dispatch.testing.postgresql import LocalPostgresql
from kinto_dispatch.testing.waiting import eventually


if TYPE_CHECKING:
    from tests.conftest import Deploy, Deployment

pytestmark = pytest.mark.postgresql

BASE = "kinto.event_listeners.dispatch."
RECORDS = "/buckets/b/collections/c0/records"
ROUNDS = 3

MORTAL = """
import os, signal, transaction
from kinto.core.events import AfterResourceChanged, ResourceChanged


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def wants(event, where):
    return any(impacted["new"].get("dies") == where for impacted in event.impacted_objects)


def before(event):
    if wants(event, "before the commit"):
        # After the outbox was written.
        transaction.get().addBeforeCommitHook(die)


def after(event):
    if wants(event, "after the commit"):
        die()


def includeme(config):
    config.add_subscriber(before, ResourceChanged, for_resources=("record",))
    config.add_subscriber(after, AfterResourceChanged, for_resources=("record",))
"""


@pytest.fixture
def deployment(deploy: Deploy, postgresql_url: str, queue_url: str) -> Deployment:
    """A Kinto that dies where a record asks for it."""
    deployment = deploy(
        kinto={"kinto.storage_url": postgresql_url, "kinto.includes": "mortal"},
        queue_url=queue_url,
    )
    (deployment.directory / "mortal.py").write_text(MORTAL)
    deployment.kinto.start()
    deployment.make_collections()
    return deployment


def test_what_was_committed_when_kinto_died_is_delivered(deployment: Deployment) -> None:
    """(R22) Again and again killed between the commit and its answer: no client was told that its
    record is stored, but it is, and it is announced, once."""
    names = {f"r{number}" for number in range(ROUNDS)}
    for name in sorted(names):
        _write_and_die(deployment, name, "after the commit")
    assert _stored(deployment) == names
    deployment.burst()
    assert _delivered(deployment) == dict.fromkeys(names, 1)


def test_what_was_not_committed_when_kinto_died_never_happened(deployment: Deployment) -> None:
    """(R21) Killed when all was written and nothing committed: neither record nor event is left,
    and what comes after is announced."""
    _write_and_die(deployment, "lost", "before the commit")
    deployment.put("kept").raise_for_status()
    assert _stored(deployment) == {"kept"}
    deployment.burst()
    assert _delivered(deployment) == {"kept": 1}


def _write_and_die(deployment: Deployment, name: str, where: str) -> None:
    with pytest.raises(requests.ConnectionError):
        deployment.put(name, dies=where)
    eventually(lambda: not deployment.kinto.pids, "Kinto to be dead")
    deployment.kinto.kill()
    deployment.kinto.start()


def _stored(deployment: Deployment) -> set[str]:
    return {record["id"] for record in deployment.request("GET", RECORDS).json()["data"]}


def _delivered(deployment: Deployment) -> dict[str, int]:
    """Without the bucket and the collections."""
    told = deployment.delivered()
    return {
        name: count for name, count in told.items() if name not in {"b", "c0", "c1", "c2", "c3"}
    }


def test_when_postgresql_dies_events_and_records_stay_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(R21) After kill -9 of PostgreSQL under load each stored record has its event, and each
    event its record: nothing is lost, nothing announced that did not happen."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pg").mkdir()
    with LocalPostgresql(tmp_path / "pg", durable=True) as server:
        url = server.create_database()
        app = _app(url, tmp_path)
        with _writing(app) as count:
            for _ in range(2):
                _await_writes(count)
                server.kill()
                server.start()
            _await_writes(count)
        stored = {record["id"] for record in app.get(RECORDS).json["data"]}
        announced = [
            change.object_id
            for event in _outbox(url)
            if event.resource_name == "record"
            for change in event.changes
        ]
        app.app.registry.storage.client.session_factory.get_bind().dispose()
    assert len(announced) == len(set(announced))
    assert set(announced) == stored
    assert len(stored) >= count()


def _await_writes(count: Callable[[], int]) -> None:
    reached = count() + 10
    eventually(lambda: count() > reached, "writes to succeed", 60)


def _app(url: str, directory: Path) -> Any:
    (directory / "crash_channel.py").write_text(
        "from kinto_dispatch import hookimpl\n\n\n"
        "class Channel:\n    @hookimpl\n    async def on_event_async(self, event): ...\n"
    )
    app = make_app(
        {
            "kinto.storage_url": url,
            "kinto.event_listeners": "dispatch",
            f"{BASE}use": "kinto_dispatch",
            f"{BASE}queue_url": "redis://127.0.0.1:1/0",
            f"{BASE}channels": "ops",
            f"{BASE}channels.ops.plugin": "crash_channel:Channel",
        }
    )
    app.put("/buckets/b")
    app.put("/buckets/b/collections/c0")
    return app


@contextlib.contextmanager
def _writing(app: Any) -> Iterator[Callable[[], int]]:
    """Writes records all the while; gives how many were acknowledged."""
    acknowledged: list[str] = []
    stopping = threading.Event()

    def write() -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            answer = app.put(f"{RECORDS}/r{number}", expect_errors=True)
            if answer.status_int == 201:
                acknowledged.append(f"r{number}")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield acknowledged.__len__
    finally:
        stopping.set()
        thread.join()


def _outbox(url: str) -> list[Event]:
    with contextlib.closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT body FROM kinto_dispatch_outbox ORDER BY id")
        return [Event.decode(bytes(body)) for (body,) in cursor.fetchall()]
