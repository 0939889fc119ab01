"""What blocks on the network ends in time, however slowly the other side talks."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator

import pytest

from kinto_dispatch import Deadline, legible
from kinto_dispatch.testing import ScriptedServer, SilentServer, drip


LONG = 30.0
"""Seconds that a socket would wait for each byte."""


@pytest.fixture
def dripping() -> Iterator[ScriptedServer]:
    """A server that says a byte every tenth of a second."""
    with ScriptedServer(drip(b"x")) as server:
        yield server


def test_a_connection_is_cut_though_bytes_still_come(dripping: ScriptedServer) -> None:
    """Its reader sees the end of it (B8)."""
    with socket.create_connection(("127.0.0.1", dripping.port), LONG) as connection:
        started = time.monotonic()
        with Deadline(0.5) as deadline:
            deadline.watch(connection)
            assert not deadline.is_over
            while connection.recv(1):
                pass
            assert deadline.is_over
        assert time.monotonic() - started < LONG / 2


def test_a_handshake_is_cut_as_well(dripping: ScriptedServer) -> None:
    """TLS takes the number of the connection for itself (B8)."""
    with socket.create_connection(("127.0.0.1", dripping.port), LONG) as connection:
        started = time.monotonic()
        with Deadline(0.5) as deadline:
            deadline.watch(connection)
            with pytest.raises((ssl.SSLError, OSError)):
                ssl.create_default_context().wrap_socket(connection, server_hostname="x")
        assert time.monotonic() - started < LONG / 2


def test_what_comes_too_late_is_cut_at_once() -> None:
    """The timer has gone by then."""
    with (
        SilentServer() as server,
        socket.create_connection(("127.0.0.1", server.port), LONG) as connection,
        Deadline(0.0) as deadline,
    ):
        deadline.watch(connection)
        assert connection.recv(1) == b""


def test_in_time_nothing_is_cut_and_nothing_is_left() -> None:
    """The connection stays its owner's, also after the deadline."""
    with (
        SilentServer() as server,
        socket.create_connection(("127.0.0.1", server.port), LONG) as connection,
    ):
        with Deadline(0.2) as deadline:
            deadline.watch(connection)
        time.sleep(0.4)  # what is shown is that nothing happens in this time
        connection.sendall(b"still there")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("550 no such user", "550 no such user"),
        ("a\r\nBcc: b\0c\x85d\u2028e\x0b  f", "a Bcc: b c d e f"),
        ("\x1b[31mred\u202e \ud800 \ufffd ", "[31mred"),
        ("\tGrüße\u3000👩\u200d🔬\n", "Grüße 👩\u200d🔬"),
    ],
)
def test_text_of_others_is_one_line(text: str, line: str) -> None:
    """Whatever ends a line or does not show becomes a space (B14, B24)."""
    assert legible(text) == line
