"""A real ``kinto-dispatch worker`` in processes of its own, to be stopped, killed and paused."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil  # type: ignore[import-untyped]  # it brings no types

from kinto_dispatch.testing.waiting import eventually


START_SECONDS = 30.0
STOP_SECONDS = 40.0


class LocalWorker:
    """``kinto-dispatch worker`` with an ini and more arguments, as an operator starts it.

    The directory of the ini is on the import path, and what the worker says goes to a file there.
    One process ends when the tests are gone, however they ended.
    """

    def __init__(self, ini: Path, *arguments: str, name: str = "worker") -> None:
        self.log_file = ini.parent / f"{name}.log"
        self._ini = ini
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._family: list[psutil.Process] = []

    def start(self, *, wait: bool = True) -> Self:
        """Start it; with ``wait`` return when all of its processes have said so."""
        before = self.said.count("worker.started")
        path = [str(self._ini.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        command = [sys.executable, "-m", "kinto_dispatch", "worker", "--supervised"]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--ini", str(self._ini), *self._arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
                start_new_session=True,
            )
        if wait:
            count = before + self._count()
            eventually(lambda: self._has_started(count), "the worker to start", START_SECONDS)
        return self

    @property
    def pid(self) -> int:
        """The process that was started: with ``--processes``, the one above the others."""
        return self._running().pid

    @property
    def children(self) -> list[psutil.Process]:
        """All processes below it that live."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [
                child
                for child in psutil.Process(self.pid).children(recursive=True)
                if child.status() != psutil.STATUS_ZOMBIE
            ]
        return []

    @property
    def said(self) -> str:
        """What it wrote to its standard output and standard error."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def signal(self, number: int) -> None:
        """Send a signal to the process that was started."""
        self._remember()
        self._running().send_signal(number)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """The exit code, once it has ended by itself. Raises ``subprocess.TimeoutExpired``."""
        process = self._running()
        self._remember()
        process.wait(seconds)
        process.communicate()
        self._process = None
        return process.returncode

    def stop(self) -> int:
        """End it as an operator would, with SIGTERM; its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL to all of its processes at once."""
        self._remember()
        # From the top: nobody shall start again what was killed.
        for process in self._family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._running().wait()
        self._running().communicate()
        self._process = None

    def pause(self) -> None:
        """Stop the process in its tracks."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        self.signal(signal.SIGCONT)

    @property
    def leftovers(self) -> list[psutil.Process]:
        """Processes that were once part of it and still live, although it has ended."""
        return [process for process in self._family if process.is_running()]

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it in any case. Does nothing if it has ended."""
        if self._process is not None:
            self.kill()

    def _has_started(self, count: int) -> bool:
        if self._running().poll() is not None:
            raise AssertionError(f"The worker ended: {self.said[-3000:]}")
        return self.said.count("worker.started") >= count

    def _count(self) -> int:
        words = [*self._arguments, "--processes", "1"]
        return int(words[words.index("--processes") + 1])

    def _remember(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            self._family += [psutil.Process(self.pid), *self.children]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise AssertionError("The worker does not run; call start() first.")
        return self._process
