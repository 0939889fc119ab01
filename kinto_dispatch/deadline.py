"""Ends what libraries that block have begun on the network."""

from __future__ import annotations

import contextlib
import socket
import time
from threading import Timer
from types import TracebackType
from typing import Self


class Deadline:
    """Cuts the connections that it watches when its time is over; a context manager.

    For plugins that send with a library that blocks. The time-out of a socket begins anew with
    each byte, so a server that drips would keep a thread for as long as it likes. Whoever reads
    from a connection that was cut finds its end, or an ``OSError``.
    """

    def __init__(self, seconds: float) -> None:
        """``seconds`` from now on. It cuts between ``with`` and its end."""
        self._end = time.monotonic() + seconds
        self._timer = Timer(seconds, self._cut)
        self._timer.daemon = True
        self._watched: list[socket.socket] = []

    @property
    def is_over(self) -> bool:
        """Whether the time is over. What was read until then may look complete and not be."""
        return time.monotonic() >= self._end

    def watch(self, connection: socket.socket) -> None:
        """Cut this one, too, whoever uses it. Before TLS or after it, connected or not yet."""
        # The same connection under another number: TLS takes the first one for itself.
        self._watched.append(connection.dup())
        if self.is_over:  # the timer may have come and gone
            self._cut()

    def _cut(self) -> None:
        for connection in self._watched:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close nothing but its own numbers: the connections are their owner's."""
        self._timer.cancel()
        self._timer.join()
        for connection in self._watched:
            connection.close()
