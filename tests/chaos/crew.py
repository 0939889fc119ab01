"""The web and worker processes of a run: started by the zygote, started again when they die."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from kinto_dispatch.testing.waiting import eventually
from tests.chaos.settings import write_ini


START_SECONDS = 30.0
STOP_SECONDS = 20.0
REVIVE_SECONDS = 0.2
"""What a supervisor takes to notice a death."""


@dataclass(frozen=True, slots=True)
class Unasked:
    """A process that ended though nobody had killed it, ``age`` seconds after it was started."""

    kind: str
    pid: int
    status: int
    age: float


class Crew:
    """Keeps ``wanted`` processes of each kind alive: ``web`` and ``worker``.

    ``port`` is where the webs answer; it is held over all their deaths. ``unasked`` lists those
    that ended by themselves.
    """

    def __init__(self, settings: Mapping[str, str], directory: Path, plant: str = "") -> None:
        self.unasked: list[Unasked] = []
        self.log = directory / "processes.log"
        self._directory = directory
        self._plant = plant
        self._wanted: dict[str, int] = {}
        self._alive: dict[str, dict[int, float]] = {"web": {}, "worker": {}}
        self._killed: set[int] = set()
        self._asked: set[int] = set()
        self._codes: dict[int, int] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listening.getsockname()[1]
        path = directory / "kinto.ini"
        write_ini(settings, path)
        self._zygote = self._spawn(path)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _spawn(self, ini: Path) -> subprocess.Popen[bytes]:
        descriptor = self._listening.fileno()
        with (self._directory / "zygote.log").open("ab") as errors:
            return subprocess.Popen(
                [
                    *(sys.executable, "-W", "ignore", "-m", "tests.chaos.zygote"),
                    *(str(ini), str(descriptor), str(self.log), self._plant),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                pass_fds=(descriptor,),
                cwd=Path(__file__).parents[2],
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
                start_new_session=True,
            )

    # --- what the run asks for -----------------------------------------------------------

    def want(self, kind: str, count: int) -> None:
        """So many of a kind from now on, and as long as the crew is open."""
        with self._changed:
            self._wanted[kind] = count
            missing = count - len(self._alive[kind])
        for _ in range(missing):
            self._say(start=kind)
        eventually(lambda: len(self.pids(kind)) == count, f"{count} of {kind}", START_SECONDS)

    def pids(self, kind: str) -> list[int]:
        """The processes of a kind that run, the oldest first."""
        with self._changed:
            return list(self._alive[kind])

    def kill(self, pid: int) -> None:
        """SIGKILL; another one is started."""
        with self._changed:
            self._killed.add(pid)
        self._say(signal=signal.SIGKILL, pid=pid)
        eventually(lambda: not self._is_alive(pid), f"the end of {pid}")

    def ask_to_end(self, pid: int) -> None:
        """SIGTERM; another one is started when it has ended, which it must with exit code 0."""
        with self._changed:
            self._asked.add(pid)
        self._say(signal=signal.SIGTERM, pid=pid)

    def stop(self, pid: int) -> None:
        """Stop it in its tracks."""
        self._say(signal=signal.SIGSTOP, pid=pid)

    def go_on(self, pid: int) -> None:
        """Let it go on."""
        self._say(signal=signal.SIGCONT, pid=pid)

    def dismiss(self, kind: str) -> list[int]:
        """End all of a kind as an operator does, with SIGTERM; their exit codes."""
        with self._changed:
            self._wanted[kind] = 0
            pids = list(self._alive[kind])
            self._killed.update(pids)
        for pid in pids:
            self._say(signal=signal.SIGTERM, pid=pid)
        eventually(lambda: not self.pids(kind), f"the end of every {kind}", STOP_SECONDS)
        return [self._codes[pid] for pid in pids]

    def close(self) -> None:
        """End everything, whatever state it is in. May be called twice."""
        self._closing = True
        with contextlib.suppress(OSError):
            assert self._zygote.stdin is not None
            self._zygote.stdin.close()
        try:
            self._zygote.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._zygote.kill()
            self._zygote.wait()
        self._listener.join(STOP_SECONDS)
        assert self._zygote.stdout is not None
        self._zygote.stdout.close()
        self._listening.close()

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- what the zygote says ------------------------------------------------------------

    def _say(self, **words: Any) -> None:
        assert self._zygote.stdin is not None
        self._zygote.stdin.write(json.dumps(words).encode() + b"\n")
        self._zygote.stdin.flush()

    def _listen(self) -> None:
        assert self._zygote.stdout is not None
        for line in self._zygote.stdout:
            words = json.loads(line)
            if "started" in words:
                with self._changed:
                    self._alive[words["started"]][words["pid"]] = time.monotonic()
            elif "ended" in words:
                self._bury(words["ended"], words["status"])

    def _bury(self, pid: int, status: int) -> None:
        with self._changed:
            (kind,) = (kind for kind, pids in self._alive.items() if pid in pids)
            age = time.monotonic() - self._alive[kind].pop(pid)
            if pid not in self._killed and not (pid in self._asked and status == 0):
                self.unasked.append(Unasked(kind, pid, status, round(age, 1)))
            self._codes[pid] = status
            revive = not self._closing and len(self._alive[kind]) < self._wanted[kind]
        if revive:
            timer = threading.Timer(REVIVE_SECONDS, self._revive, [kind])
            timer.daemon = True
            timer.start()

    def _revive(self, kind: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            if not self._closing and self._wanted[kind]:
                self._say(start=kind)

    def _is_alive(self, pid: int) -> bool:
        with self._changed:
            return any(pid in pids for pids in self._alive.values())
