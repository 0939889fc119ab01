"""Destinations that do not answer, or answer badly, on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self


DRIP_SECONDS = 0.1


class _Bound:
    """A port of 127.0.0.1 that nobody else can have meanwhile; a context manager."""

    def __enter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", 0)) if self.listens else socket.socket()
        if not self.listens:
            self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    listens = False

    @property
    def address(self) -> str:
        """``127.0.0.1:port``."""
        return f"127.0.0.1:{self.port}"


class DeadServer(_Bound):
    """Refuses every connection."""


class SilentServer(_Bound):
    """Takes connections, never reads from them and never answers."""

    listens = True


class ScriptedServer(_Bound):
    """Talks as ``talk`` does to each client, each in a thread of its own; where ``talk`` returns
    or the connection breaks, it is closed. Waits at its end for those that still talk."""

    listens = True

    def __init__(self, talk: Callable[[socket.socket], None]) -> None:
        self._talk = talk
        self._threads: list[threading.Thread] = []
        self._clients: list[socket.socket] = []

    def __enter__(self) -> Self:
        super().__enter__()
        self._start(self._serve)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for waiting in (self._socket, *self._clients):
            with contextlib.suppress(OSError):
                waiting.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        super().__exit__(kind, error, traceback)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                self._clients.append(client)
                self._start(self._meet, client)

    def _meet(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            self._talk(client)


def drip(drop: bytes, head: bytes = b"") -> Callable[[socket.socket], None]:
    """For a ``ScriptedServer``: a beginning, then a drop every tenth of a second, until the client
    goes. Each drop begins a time-out of the client anew."""

    def talk(client: socket.socket) -> None:
        client.sendall(head)
        while True:
            client.sendall(drop)
            time.sleep(DRIP_SECONDS)

    return talk
