"""A real Kinto: inside the test's process, or over HTTP in processes of its own.

Settings are those of Kinto's ini, as text. ``kinto.storage_url`` alone is enough for PostgreSQL;
without it everything is in memory. Both bring the database up to date with ``kinto migrate``.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kinto_dispatch.testing.waiting import eventually


if TYPE_CHECKING:
    from webtest import TestApp

DEFAULTS = {
    "kinto.userid_hmac_secret": "not a secret",
    "multiauth.policies": "basicauth",
}
USER = ("alice", "s3cr3t")
"""Whom ``make_app`` signs in; set ``app.authorization`` for somebody else, or ``None``."""

START_SECONDS = 30.0
STOP_SECONDS = 10.0

KINTO = "from kinto.__main__ import main; raise SystemExit(main())"
"""The command ``kinto``; the package does nothing under ``python -m``."""

INI = """\
[app:main]
use = egg:kinto
{settings}

[loggers]
keys = root

[handlers]
keys = console

[formatters]
keys = line

[logger_root]
level = INFO
handlers = console

[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = line

[formatter_line]
format = %(asctime)s %(process)d %(levelname)s %(name)s %(message)s
"""


def make_app(settings: Mapping[str, str], *, migrate: bool = True) -> TestApp:
    """Kinto in this process, as ``webtest`` drives it; paths need no ``/v1``.

    Raises what Kinto raises at its start, ``pyramid.exceptions.ConfigurationError`` above all.
    Needs the package ``webtest``.
    """
    import kinto
    import webtest

    class Request(webtest.app.TestRequest):  # type: ignore[misc]  # webtest is untyped
        @classmethod
        def blank(cls, path: str, *args: Any, **kwargs: Any) -> Any:
            return super().blank(
                path if path.startswith("/v1/") else f"/v1{path}", *args, **kwargs
            )

    full = full_settings(settings)
    with warnings.catch_warnings():
        # Kinto warns when storage and permissions share a database, as most do.
        warnings.simplefilter("ignore")
        if migrate:
            migrate_database(full)
        wsgi = kinto.main({}, **full)
    app = webtest.TestApp(wsgi)
    app.RequestClass = Request
    app.authorization = ("Basic", USER)
    if client := getattr(wsgi.registry.storage, "client", None):
        weakref.finalize(app, client.session_factory.get_bind().dispose)
    return app


def full_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """The settings with what every Kinto needs, and with backends that fit the storage's URL."""
    place = "memory" if "kinto.storage_url" not in settings else "postgresql"
    backends = {
        "kinto.storage_backend": f"kinto.core.storage.{place}",
        "kinto.permission_backend": f"kinto.core.permission.{place}",
        "kinto.permission_url": settings.get("kinto.storage_url", ""),
        "kinto.cache_backend": "kinto.core.cache.memory",
    }
    return {**DEFAULTS, **backends, **settings}


def migrate_database(settings: Mapping[str, str]) -> None:
    """What ``kinto migrate`` does, in this process."""
    import kinto
    from kinto.core.scripts import migrate

    wsgi = kinto.main({"command": "migrate"}, **settings)
    migrate({"registry": wsgi.registry})


class LocalKinto:
    """Kinto over HTTP on a free loopback port, in one or more processes that share the port.

    ``directory`` gets ``kinto.ini`` and ``kinto.log``, and is on the import path of Kinto. The
    port stays the same over ``kill`` and ``start``, and nobody else gets it in between.
    """

    def __init__(
        self, settings: Mapping[str, str], directory: Path, processes: int = 1, threads: int = 8
    ) -> None:
        self.ini = directory / "kinto.ini"
        self.log_file = directory / "kinto.log"
        self._directory = directory
        self._threads = threads
        self._count = processes
        self._processes: list[subprocess.Popen[bytes]] = []
        self._migrated = False
        lines = (
            f"{name} = {value.replace('%', '%%')}"
            for name, value in full_settings(settings).items()
        )
        self.ini.write_text(INI.format(settings="\n".join(lines)))
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}/v1"

    def start(self) -> None:
        """Start all processes; returns when Kinto answers."""
        if not self._migrated:
            self.migrate()
        descriptor = self._socket.fileno()
        for _ in range(self._count):
            self._processes.append(
                self._spawn(
                    *("-m", "kinto_dispatch.testing.serve_kinto"),
                    *(str(self.ini), str(descriptor), str(self._threads)),
                    descriptor=descriptor,
                )
            )
        eventually(self._answers, "Kinto to answer", START_SECONDS)

    def stop(self) -> None:
        """End all processes as an operator would, with SIGTERM, and give back the port."""
        self._end(signal.SIGTERM)
        self._socket.close()

    def kill(self) -> None:
        """SIGKILL for all processes; ``start`` begins again on the same port."""
        self._end(signal.SIGKILL)

    @property
    def pids(self) -> list[int]:
        """The processes that run."""
        return [process.pid for process in self._processes if process.poll() is None]

    def __enter__(self) -> LocalKinto:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def migrate(self) -> None:
        """Run the real ``kinto migrate``. The first ``start`` does so by itself."""
        process = self._spawn("-c", KINTO, "migrate", "--ini", str(self.ini))
        process.communicate()
        if process.returncode != 0:
            raise AssertionError(f"kinto migrate failed: {self._last_words()}")
        self._migrated = True

    def _spawn(self, *arguments: str, descriptor: int | None = None) -> subprocess.Popen[bytes]:
        path = [str(self._directory), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "PYTHONWARNINGS": "ignore",
        }
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *arguments],
                # The process ends when this pipe closes, so when the tests are killed.
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environ,
                pass_fds=() if descriptor is None else (descriptor,),
                start_new_session=True,
            )

    def _answers(self) -> bool:
        if any(process.poll() is not None for process in self._processes):
            raise AssertionError(f"Kinto ended: {self._last_words()}")
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=START_SECONDS)
        try:
            connection.request("GET", "/v1/__lbheartbeat__")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def _end(self, sign: signal.Signals) -> None:
        for process in self._processes:
            process.send_signal(sign)
        for process in self._processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            process.communicate()
        self._processes.clear()

    def _last_words(self) -> str:
        return self.log_file.read_text(errors="replace")[-3000:]
