"""Kinto's tutorial on notifications, as somebody does it who comes from there.

https://docs.kinto-storage.org/en/stable/tutorials/notifications-custom-code.html
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

from kinto_dispatch.queue.embedded import stop_server
from kinto_dispatch.testing.kinto import LocalKinto
from kinto_dispatch.testing.smtp import LocalSmtp
from kinto_dispatch.testing.valkey import LocalValkey
from kinto_dispatch.testing.waiting import eventually
from kinto_dispatch.testing.worker import LocalWorker


NOTES = "/buckets/default/collections/notes/records"
USER = re.compile(r"basicauth:[0-9a-f]{64}")

SEND_EMAIL = """
kinto.event_listeners = send_email

kinto.event_listeners.send_email.use = kinto_dispatch
kinto.event_listeners.send_email.plugin = email
kinto.event_listeners.send_email.mode = sync
kinto.event_listeners.send_email.server = localhost:1025
kinto.event_listeners.send_email.tls = false
kinto.event_listeners.send_email.username =
kinto.event_listeners.send_email.password =
kinto.event_listeners.send_email.from = postmaster@localhost
kinto.event_listeners.send_email.recipients = kinto@yopmail.com
"""

REDIS = """
kinto.event_listeners = redis

kinto.event_listeners.redis.use = kinto_dispatch
kinto.event_listeners.redis.plugin = redis
kinto.event_listeners.redis.mode = sync
kinto.event_listeners.redis.url = redis://localhost:6379/0
kinto.event_listeners.redis.pool_size = 5
kinto.event_listeners.redis.listname = eventqueue
"""

# Word for word.
WORKER = """
import time
import json

import redis

def main():
    db = redis.Redis()
    # Run indefinitely.
    while True:
        # Wait for new messages (blocking).
        key, payload = db.blpop("eventqueue")
        # Decode JSON payload.
        message = json.loads(payload)
        # Simulate long task.
        time.sleep(2)
        print(message)

if __name__ == "__main__":
    main()
"""

# Loaded by the interpreter before the script: its ``redis.Redis()`` means localhost:6379, and the
# test's own server is elsewhere.
CUSTOMIZE = """
import os

import redis


class Redis(redis.Redis):
    def __init__(self):
        super().__init__(unix_socket_path=os.environ["REDIS_SOCKET"])


redis.Redis = Redis
"""

Start = Callable[[Mapping[str, str]], LocalKinto]


@pytest.fixture
def start_kinto(tmp_path: Path) -> Iterator[Start]:
    """Starts Kinto with the default bucket, as its template has it, and more settings."""
    started: list[LocalKinto] = []

    def start(settings: Mapping[str, str]) -> LocalKinto:
        alias = settings["kinto.event_listeners"]
        kinto = LocalKinto(
            {
                "kinto.includes": "kinto.plugins.default_bucket",
                f"kinto.event_listeners.{alias}.queue_dir": str(tmp_path / "queue"),
                **settings,
            },
            tmp_path,
        )
        started.append(kinto)
        kinto.start()
        return kinto

    yield start
    for kinto in started:
        kinto.stop()
    stop_server(tmp_path / "queue")


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[LocalValkey]:
    """The server with the list; the queue of kinto-dispatch is another one."""
    (tmp_path / "list").mkdir()
    with LocalValkey(tmp_path / "list") as server:
        yield server


@pytest.fixture
def tutorial_worker(tmp_path: Path, valkey: LocalValkey) -> Iterator[Callable[[], list[Any]]]:
    """Runs the tutorial's worker; what it has printed until now."""
    home = tmp_path / "tutorial"
    home.mkdir()
    (home / "worker.py").write_text(WORKER)
    (home / "sitecustomize.py").write_text(CUSTOMIZE)
    output = home / "printed"
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(home / "worker.py")],
            stdout=file,
            env={
                **os.environ,
                "PYTHONPATH": str(home),
                "PYTHONUNBUFFERED": "1",
                "REDIS_SOCKET": valkey.url.removeprefix("unix://"),
            },
        )
    yield lambda: [ast.literal_eval(line) for line in output.read_text().splitlines()]
    process.kill()
    process.wait()


def settings_of(text: str, **over: str) -> dict[str, str]:
    """The lines of an ini as settings; those in ``over``, by their last part, with other values,
    and left out where that is empty."""
    pairs = (line.split("=", 1) for line in text.splitlines() if line)
    settings = {name.strip(): value.strip() for name, value in pairs}
    for name in settings:
        settings[name] = over.get(name.rpartition(".")[2], settings[name])
    return {
        name: value for name, value in settings.items() if over.get(name.rsplit(".")[-1]) != ""
    }


def write_note(kinto: LocalKinto, note: str = "kinto") -> dict[str, Any]:
    """As the tutorial does with HTTPie; the record."""
    answer = requests.post(
        f"{kinto.url}{NOTES}",
        json={"data": {"note": note}},
        auth=("token", "alice-token"),
        timeout=30,
    )
    answer.raise_for_status()
    record: dict[str, Any] = answer.json()["data"]
    return record


def subjects(smtp: LocalSmtp) -> list[str]:
    return [str(mail.message["Subject"]) for mail in smtp.messages]


def test_the_mail_is_there_before_the_answer(start_kinto: Start, smtp_server: LocalSmtp) -> None:
    """With the tutorial's settings and its mail, sent while the client waits."""
    kinto = start_kinto(settings_of(SEND_EMAIL, server=smtp_server.address))
    write_note(kinto)
    answered_at = time.perf_counter()
    assert subjects(smtp_server) == ["bucket created", "collection created", "record created"]
    mail = smtp_server.messages[-1]
    assert mail.at < answered_at
    assert (mail.sender, mail.recipients) == ("postmaster@localhost", ("kinto@yopmail.com",))
    assert mail.message["From"] == "postmaster@localhost"
    assert mail.message["To"] == "kinto@yopmail.com"
    text = mail.message.get_content().strip()
    assert text.startswith("User id: ")
    assert USER.fullmatch(text.removeprefix("User id: "))


def test_the_mail_goes_through_the_worker(
    start_kinto: Start, smtp_server: LocalSmtp, tmp_path: Path
) -> None:
    """Without ``mode = sync``: the write does not wait, and what fails is tried again."""
    settings = settings_of(SEND_EMAIL, server=smtp_server.address, mode="")
    settings["kinto.event_listeners.send_email.retry_delays_seconds"] = "0.2"
    smtp_server.refuse(451, "come back later")
    kinto = start_kinto(settings)
    with LocalWorker(kinto.ini) as worker:
        write_note(kinto)
        eventually(lambda: "come back later" in worker.said, "the first attempts")
        assert subjects(smtp_server) == []
        smtp_server.accept()
        eventually(lambda: len(smtp_server.messages) >= 3, "the mails")
        assert worker.stop() == 0
    assert sorted(subjects(smtp_server)) == [
        "bucket created",
        "collection created",
        "record created",
    ]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_the_worker_of_the_tutorial_gets_what_was_written(
    start_kinto: Start,
    valkey: LocalValkey,
    tutorial_worker: Callable[[], list[Any]],
    mode: str,
) -> None:
    """Its script, which pops from the left, prints what it printed in the tutorial: in the
    request first what was written first, through the worker in no promised order."""
    kinto = start_kinto(settings_of(REDIS, url=valkey.url, mode="sync" if mode == "sync" else ""))
    worker = LocalWorker(kinto.ini)
    if mode == "async":
        worker.start()
    try:
        notes = [write_note(kinto, "first"), write_note(kinto, "second")]
        printed = eventually(
            lambda: said if len(said := tutorial_worker()) == 4 else None, "four messages", 30
        )
    finally:
        worker.close()
    resources = [message["resource_name"] for message in printed]
    expected = ["bucket", "collection", "record", "record"]
    assert (resources if mode == "sync" else sorted(resources)) == expected
    # A POST has no id in its payload, in the tutorial neither.
    times = [note["last_modified"] for note in notes]
    records = [message for message in printed if message["resource_name"] == "record"]
    assert sorted(message["timestamp"] for message in records) == sorted(times)
    record = records[0]
    assert record["action"] == "create"
    assert record["collection_id"] == "notes"
    assert record["bucket_id"] in record["uri"]
    assert USER.fullmatch(record["user_id"])
