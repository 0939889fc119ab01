"""A warm parent: everything is imported and nothing started, so that a child is there at once.

``python -m tests.chaos.zygote INI LISTENING_FD LOG PLANT`` reads commands from standard
input, one JSON object a line, and answers on standard output:

    {"start": "worker"}            {"started": "worker", "pid": 12}
    {"signal": 9, "pid": 12}       {"signalled": 12, "alive": true}
                                   {"ended": 12, "status": -9}

When its standard input closes it kills its children and ends; when it dies, they end by
themselves. A signal only ever reaches a child that has not been reaped, never a stranger.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
from typing import Any, NoReturn


WARM = (
    "kinto",
    "kinto.core.cache.memory",
    "kinto.core.permission.postgresql",
    "kinto.core.storage.postgresql",
    "kinto.views",
    "psycopg2",
    "pyramid.paster",
    "waitress",
    "kinto_dispatch.cli",
    "kinto_dispatch.cli.process",
    "kinto_dispatch.cli.worker",
    "kinto_dispatch.listener",
    "kinto_dispatch.outbox.postgres",
    "kinto_dispatch.queue.log",
    "kinto_dispatch.queue.streams",
    "kinto_dispatch.worker",
    "tests.chaos.recorder",
)
"""What web and worker processes import at their start."""


def main(ini: str, listening: int, log_path: str, plant: str) -> None:
    """Serve until standard input closes."""
    for name in WARM:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    Zygote(ini, listening, log_path, plant).serve()


class Zygote:
    """Forks, signals and reaps. Has no threads, which a fork would lose."""

    def __init__(self, ini: str, listening: int, log: str, plant: str) -> None:
        self._ini = ini
        self._listening = listening
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._plant = plant
        self._children: set[int] = set()
        # Closed by our end alone: our children wait for that.
        self._lifeline, self._life = os.pipe()
        self._wake, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(self._wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Answer commands and tell of deaths."""
        commands = b""
        while True:
            ready, _, _ = select.select([0, self._wake], [], [])
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
                self._reap()
            if 0 in ready:
                part = os.read(0, 65536)
                if not part:
                    break
                *lines, commands = (commands + part).split(b"\n")
                for line in lines:
                    self._obey(json.loads(line))
        for pid in self._children:
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            os.waitpid(pid, 0)

    def _obey(self, command: dict[str, Any]) -> None:
        if "start" in command:
            pid = self._fork(command["start"])
            self._children.add(pid)
            _say(started=command["start"], pid=pid)
            return
        pid = command["pid"]
        self._reap()
        if pid in self._children:
            os.kill(pid, command["signal"])
        _say(signalled=pid, alive=pid in self._children)

    def _reap(self) -> None:
        for pid in list(self._children):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self._children.discard(pid)
                _say(ended=pid, status=os.waitstatus_to_exitcode(status))

    def _fork(self, kind: str) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                self._become(kind)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(1)
        return pid

    def _become(self, kind: str) -> NoReturn:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.close(self._life)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(self._log, 1)
        os.dup2(self._log, 2)
        threading.Thread(target=_end_with, args=(self._lifeline,), daemon=True).start()
        if kind == "web":
            _serve_kinto(self._ini, self._listening)
        _work(self._ini, self._plant)


def _end_with(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(0)


def _serve_kinto(ini: str, listening: int) -> NoReturn:
    import waitress
    from pyramid.paster import get_app, setup_logging

    setup_logging(ini)
    application = get_app(ini)
    shared = socket.socket(fileno=listening)
    waitress.serve(application, sockets=[shared], threads=6, _quiet=True)
    os._exit(0)


def _work(ini: str, plant: str) -> NoReturn:
    from kinto_dispatch.cli import main

    if plant:
        from tests.chaos.plants import PLANTS

        PLANTS[plant]()
    sys.argv = ["kinto-dispatch", "worker", "--ini", ini]
    main()
    os._exit(0)


def _say(**words: Any) -> None:
    os.write(1, json.dumps(words).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
