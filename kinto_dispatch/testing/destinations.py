"""Destinations that do not answer, on loopback."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self


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
