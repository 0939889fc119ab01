"""What a worker answers to those who probe it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import requests

from kinto_dispatch.testing.valkey import LocalValkey
from kinto_dispatch.testing.waiting import eventually
from kinto_dispatch.testing.worker import LocalWorker


if TYPE_CHECKING:
    from tests.integration.commands.conftest import Site

BASE = "kinto.event_listeners.dispatch."


class Probe:
    """Asks a worker that was started with ``--health-port 0``."""

    def __init__(self, worker: LocalWorker) -> None:
        self.worker = worker

    @property
    def url(self) -> str:
        """Where it answers, as its log says."""
        eventually(lambda: "worker.health url=" in self.worker.said, "the port", 60)
        return self.worker.said.partition("worker.health url=")[2].split()[0]

    def ask(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and body."""
        answer = requests.get(f"{self.url}{path}", timeout=30)
        assert answer.headers["Content-Type"] == "application/json"
        return answer.status_code, answer.json()

    def await_status(self, path: str, status: int) -> dict[str, Any]:
        """The body, once it is answered with that status."""
        eventually(lambda: self.ask(path)[0] == status, f"{path} to be {status}", 60)
        return self.ask(path)[1]

    def is_closed(self) -> bool:
        """Whether nobody listens there."""
        host, port = self.url.removeprefix("http://").split(":")
        with socket.socket() as client:
            return client.connect_ex((host, int(port))) != 0


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[LocalValkey]:
    """A server of the test's own, not yet started."""
    (tmp_path / "valkey").mkdir()
    server = LocalValkey(tmp_path / "valkey")
    yield server
    server.stop()


def test_a_worker_that_fetches_is_live_and_ready(site: Site) -> None:
    """With a small body of stable keys, on the loopback address; and nothing listens when it has
    ended."""
    with LocalWorker(site.ini, "--health-port", "0") as worker:
        probe = Probe(worker)
        counts = {"expected": 1, "live": 1, "ready": 1}
        ready = probe.await_status("/readyz", 200)
        assert ready == {"ok": True, "workers": counts, "reasons": []}
        assert probe.ask("/livez?verbose") == (200, ready)
        assert probe.url.startswith("http://127.0.0.1:")
        assert worker.stop() == 0
        assert probe.is_closed()


def test_a_queue_that_is_away_makes_no_worker_less_live(site: Site, valkey: LocalValkey) -> None:
    """A new process would find it away too, so nobody shall end this one; but it is not ready,
    and says why without saying where."""
    site.set_all({f"{BASE}queue_url": valkey.url})
    with LocalWorker(site.ini, "--health-port", "127.0.0.1:0").start(wait=False) as worker:
        probe = Probe(worker)
        status, body = probe.ask("/livez")
        assert (status, body["workers"]["live"]) == (200, 1)
        body = probe.await_status("/readyz", 503)
        eventually(lambda: probe.ask("/readyz")[1]["reasons"] != ["starts"], "it to start", 60)
        assert probe.ask("/readyz")[1]["reasons"] == [
            "the queue does not answer; the log says why"
        ]
        assert body["ok"] is False
        status, body = probe.ask("/livez")
        assert (status, body["workers"]["live"]) == (200, 1)
        valkey.start()
        assert probe.await_status("/readyz", 200)["reasons"] == []


def test_a_channel_that_failed_to_load_makes_its_worker_unready(site: Site) -> None:
    """A deployment should stop there, though the other channels run; the reason, in which a
    secret may stand, is for the log."""
    (site.directory / "health_broken.py").write_text("raise OSError('boo')")
    site.set("ops", plugin="health_broken:Channel")
    with LocalWorker(site.ini, "--health-port", "0") as worker:
        probe = Probe(worker)
        reason = "channel 'ops' has failed; kinto-dispatch check says why"
        eventually(lambda: probe.ask("/readyz")[1]["reasons"] == [reason], "it to say so", 60)
        assert probe.ask("/readyz")[0] == 503
        assert probe.ask("/livez")[0] == 200


def test_the_port_outlives_each_of_several_processes(site: Site) -> None:
    """The one above them answers, and counts who died when it is back."""
    with LocalWorker(site.ini, "--processes", "2", "--health-port=0") as worker:
        probe = Probe(worker)
        assert probe.await_status("/readyz", 200)["workers"]["expected"] == 2
        child = psutil.Process(worker.pid).children()[0]
        child.kill()
        assert probe.ask("/livez")[0] == 200
        eventually(lambda: f"worker.died pid={child.pid}" in worker.said, "it to be noticed")
        assert probe.await_status("/readyz", 200)["workers"]["live"] == 2
        assert worker.said.count("worker.health url=") == 1
        assert worker.stop() == 0
        assert probe.is_closed()


def test_a_port_that_is_taken_ends_the_command(site: Site) -> None:
    """Before anything is started, with what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = site.run("worker", "--health-port", str(port))
    assert result.exit_code == 1
    assert f"--health-port 127.0.0.1:{port} cannot be used: Address already in use." in (
        result.stderr
    )
    assert "Choose another" in result.stderr


@pytest.mark.parametrize("value", ["", "x", "80a", "65536", ":80", "host:", "a/b:1", "u@h:1"])
def test_what_is_no_address_is_told(site: Site, value: str) -> None:
    """With what is one."""
    result = site.run("worker", "--health-port", value)
    assert result.exit_code == 2
    assert "is none of 8080 (on 127.0.0.1), 0.0.0.0:8080, [::]:8080" in result.stderr
