"""Who is live and who is ready, and the server that tells those who ask."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator

import pytest
import requests

from kinto_dispatch import vitals
from kinto_dispatch.cli import health
from kinto_dispatch.cli.address import AddressType
from kinto_dispatch.cli.health import HealthServer, answer
from kinto_dispatch.cli.process import through
from kinto_dispatch.cli.processes import Ear, Supervised
from kinto_dispatch.testing.waiting import eventually
from kinto_dispatch.vitals import Pulse, Standstill, Vitals


WELL = Vitals()
STUCK = Vitals(stuck=("channel 'ops': has room and fetches nothing",))
STARTS = Vitals(unready=("starts",))


# --- one process -------------------------------------------------------------------------


def test_a_lane_that_has_room_and_asks_for_nothing_stands_still() -> None:
    """Only if it was so at every look for as long as no call to the queue takes."""
    lanes, limit = Standstill(), vitals.STANDSTILL_SECONDS
    assert lanes.look({"ops": 1, "news": 1}, 0.0) == []
    assert lanes.look({"ops": 1, "news": 2}, limit) == []
    assert lanes.look({"ops": 1, "news": 2}, limit + 1) == ["ops"]
    assert lanes.look({"ops": 2, "news": 3}, limit + 2) == []


def test_a_lane_without_room_need_not_ask() -> None:
    """However long what it holds takes; when it has room, its time begins anew."""
    lanes, limit = Standstill(), vitals.STANDSTILL_SECONDS
    assert lanes.look({"ops": 1}, 0.0) == []
    assert lanes.look({}, limit * 9) == []
    assert lanes.look({"ops": 1}, limit * 10) == []


def test_silence_of_a_process_means_that_it_stands_still() -> None:
    """After some seconds; one that has just been started may take longer."""
    pulse = Pulse(100.0)
    assert pulse.look(101.0) == STARTS
    assert not pulse.look(101.0 + vitals.STARTING_SECONDS).is_live
    pulse.hear(WELL, 110.0)
    assert pulse.look(110.0 + vitals.SILENT_SECONDS) == WELL
    silent = pulse.look(111.0 + vitals.SILENT_SECONDS)
    assert not silent.is_live
    assert silent.stuck == ("its event loop has stood still for 16 s",)


def test_a_supervisor_hears_the_last_word() -> None:
    """Through a pipe; whoever does not read it holds up nobody, and half a line is none."""
    ear = Ear()
    with ear.mouth() as mouth:
        say = through(mouth)
        for _ in range(10_000):
            say(STUCK)
        ear.listen()
        say(STARTS)
        ear.listen()
        assert ear.pulse.look(time.monotonic()) == STARTS
        os.write(mouth, b'{"stuck":["ha')
        ear.listen()
        assert ear.pulse.look(time.monotonic()) == STARTS
    ear.listen()
    ear.close()
    ear.close()
    with contextlib.suppress(OSError):
        say(WELL)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("worker --help", Vitals(unready=("has ended",))),
        ("nonsense", Vitals(stuck=("died with exit code 2; it is started again",))),
    ],
)
def test_who_has_ended_says_nothing_any_more(arguments: str, said: Vitals) -> None:
    """Its supervisor says it, and tells by the exit code whether it was meant."""
    child = Supervised(arguments.split())
    assert child.vitals() == STARTS
    process = child.process
    assert process is not None
    assert process.stdin is not None
    process.wait(60)
    process.stdin.close()
    assert child.vitals() == said


# --- all of them -------------------------------------------------------------------------


def test_live_is_who_has_one_that_lives_and_ready_who_has_all() -> None:
    """One that does not is for its supervisor; the others have deliveries in flight."""
    status, body = answer("/livez", [WELL, STUCK, STARTS])
    assert (status, body["ok"]) == (200, True)
    assert body["workers"] == {"expected": 3, "live": 2, "ready": 1}
    assert body["reasons"] == [*STUCK.stuck, "starts"]
    assert answer("/readyz", [WELL, STUCK])[0] == 503
    assert answer("/readyz", [WELL, STARTS])[0] == 503
    assert answer("/readyz", [WELL, WELL])[0] == 200
    assert answer("/livez", [STUCK, STUCK])[0] == 503
    assert answer("/livez", [])[0] == answer("/readyz", [])[0] == 503


@pytest.mark.parametrize("path", ["/", "/health", "/livez/", "//livez", "/livez/../readyz", "*"])
def test_other_paths_say_which_there_are(path: str) -> None:
    """And nothing else."""
    assert answer(path, [WELL]) == (404, {"error": "not found: GET /livez or /readyz"})


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8080", ("127.0.0.1", 8080)),
        ("0", ("127.0.0.1", 0)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:80", ("::1", 80)),
        ("localhost:80", ("localhost", 80)),
    ],
)
def test_a_port_without_a_host_is_on_the_loopback_address(
    text: str, address: tuple[str, int]
) -> None:
    """Others have to be named."""
    assert AddressType().convert(text, None, None) == address


# --- the server --------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[HealthServer]:
    """One that answers for two."""
    server = HealthServer(("127.0.0.1", 0))
    server.start(lambda: [WELL, STARTS])
    yield server
    server.stop()


def connect(server: HealthServer) -> socket.socket:
    """A client that says nothing yet."""
    return socket.create_connection(server.socket.getsockname()[:2], 30)


def test_it_says_what_it_is_asked_and_no_more(server: HealthServer) -> None:
    """Not of which Python it is made; HEAD has no body, and nothing but GET and HEAD is taken."""
    got = requests.get(f"{server.url}/livez", timeout=30)
    assert got.json()["workers"] == {"expected": 2, "live": 2, "ready": 1}
    assert got.headers["Server"].strip() == "kinto-dispatch"
    head = requests.head(f"{server.url}/readyz", timeout=30)
    assert (head.status_code, head.content) == (503, b"")
    post = requests.post(f"{server.url}/livez", data="x" * 100, timeout=30)
    assert post.status_code == 501
    assert "error" in post.json()


@pytest.mark.parametrize(
    "said",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /livez HTTP/9\r\n\r\n",
        b"\xff\x00\r\n\r\n",
        b"x" * 70_000,
    ],
)
def test_what_is_no_request_does_no_harm(server: HealthServer, said: bytes) -> None:
    """It is hung up on, and the next one is answered."""
    with connect(server) as client, contextlib.suppress(OSError):
        client.sendall(said)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65_536):
            pass
    assert requests.get(f"{server.url}/livez", timeout=30).status_code == 200


def test_slow_clients_keep_nobody_out_for_long(
    server: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each connection ends after some seconds, whatever it still says; those that are too many
    end at once."""
    monkeypatch.setattr(health, "REQUEST_SECONDS", 2.0)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(server)) for _ in range(health.CONNECTIONS)]
        for client in slow:
            client.sendall(b"GET /livez HTTP/1.1\r\nX: ")
        one_more = stack.enter_context(connect(server))
        assert one_more.recv(1) == b""
        assert slow[0].recv(1) == b""

    def is_answered() -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{server.url}/livez", timeout=30).status_code == 200
        return False

    eventually(is_answered, "it to answer again", 60)


def test_a_client_that_drips_is_hung_up_on(
    server: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then would keep a connection for ever, since none of them is late."""
    monkeypatch.setattr(health, "REQUEST_SECONDS", 1.0)
    with connect(server) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nX: ")
        client.setblocking(False)

        def is_hung_up() -> bool:
            try:
                client.send(b"x")
                return client.recv(1) == b""
            except BlockingIOError:
                return False
            except OSError:
                return True

        eventually(is_hung_up, "the connection to end", 60)


def test_its_port_is_free_when_it_has_stopped() -> None:
    """For the next one."""
    server = HealthServer(("127.0.0.1", 0))
    server.start(lambda: [WELL])
    address = server.socket.getsockname()
    server.stop()
    HealthServer(address).server_close()
