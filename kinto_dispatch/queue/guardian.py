"""The guardian of an embedded server: starts it, stands by, and ends it when nobody uses it.

``embedded.py`` runs this file as a script, by its path and with the standard library alone, so
that the process stays small and starts in some 50 ms.

What makes a second server impossible: the guardian locks the data directory itself (``flock``, no
lock file that somebody could tidy away) and hands the lock down to the server, which then is its
only holder. The kernel lets go of it when the server is gone, however it went, and not before.

A guardian is a client of its server like any other. When it is killed, the server stays, and the
next ``ensure_server`` sees that no guardian is connected and sends a new one, which finds the
lock taken and attaches. Several guardians at once do no harm: the one that came first stays.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType


SOCKET = "valkey.sock"
LOG = "valkey.log"
NAME = "kinto-dispatch-guardian"

READY = "ready"
BUSY = "busy"

POLL_SECONDS = 5.0
LOG_MAX_BYTES = 1_000_000
LOG_TAIL_BYTES = 2_000
LOG_TAIL_LINES = 5

# The socket is relative: the server is started in its directory, so that the length of the path
# does not matter to it.
OPTIONS = {
    "port": "0",
    "unixsocket": SOCKET,
    "unixsocketperm": "700",
    "appendonly": "yes",
    "appendfsync": "always",
    "save": "",
    "maxmemory-policy": "noeviction",
}


class Refused(ConnectionError):
    """The server answered with an error: it loads its data, or has no place for a client."""


class Connection:
    """A connection to the server that speaks just enough of its protocol.

    Every method blocks until the server answers, at most ``timeout_seconds`` where given, and
    raises ``OSError`` when there is no server or the connection ends.
    """

    def __init__(self, path: str, timeout_seconds: float | None = None) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_seconds)
        try:
            self._socket.connect(path)
        except BaseException:
            self._socket.close()
            raise
        self._replies = self._socket.makefile("rb")

    def ask(self, command: str) -> str:
        """The server's reply as text; an error reply raises ``Refused``."""
        self._socket.sendall(f"{command}\r\n".encode())
        line = self._replies.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server closed the connection")
        kind, rest = line[:1], line[1:].decode(errors="replace").strip()
        if kind == b"-":
            raise Refused(rest)
        return self._bulk(int(rest)) if kind == b"$" else rest

    def _bulk(self, length: int) -> str:
        body = self._replies.read(length + 2)
        if len(body) < length + 2:
            raise ConnectionError("the server closed the connection")
        return body[:-2].decode(errors="replace")

    def stay(self, seconds: float) -> None:
        """Do nothing for ``seconds``; raises at once when the server closes the connection."""
        readable, _, _ = select.select([self._socket], [], [], seconds)
        if readable:
            raise ConnectionError("the server closed the connection")

    def close(self) -> None:
        """Give the connection back. Never raises."""
        with suppress(OSError):
            self._replies.close()
        self._socket.close()


def guardians(connection: Connection) -> tuple[list[int], int]:
    """The client ids of the guardians that are connected, and how many other clients are."""
    lines = connection.ask("CLIENT LIST").splitlines()
    clients = [dict(item.partition("=")[::2] for item in line.split(" ")) for line in lines]
    ids = [int(client["id"]) for client in clients if client.get("name") == NAME]
    return ids, len(clients) - len(ids)


def lock_directory(directory: str = ".") -> int | None:
    """A descriptor that holds the directory's lock, ``None`` if another has it.

    Raises ``OSError`` where the file system cannot lock a directory, as NFS cannot.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def unlock(lock: int) -> None:
    """Free the lock at once, even if another thread forked and its child has the descriptor."""
    fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(lock)


def log_tail(directory: str = ".", since: int = 0) -> str:
    """The last lines of the server's log after the byte ``since``. Never raises."""
    try:
        with open(os.path.join(directory, LOG), "rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(since, end - LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").strip().splitlines()
            return "\n".join(lines[-LOG_TAIL_LINES:])
    except OSError as error:
        return f"(not readable: {error})"


def spawn(binary: str, lock: int) -> subprocess.Popen[bytes]:
    """Start the server in the current directory. From now on it alone holds the lock."""
    command = [binary]
    for name, value in OPTIONS.items():
        command += [f"--{name}", value]
    with open(LOG, "ab") as log:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[lock], env={}
        )
    os.close(lock)
    return server


def attach() -> Connection:
    """A connection that the server knows as a guardian's; raises ``OSError`` if none is ready."""
    connection = Connection(SOCKET)
    try:
        # PING is what a server refuses while it loads its data; it lets the name pass.
        connection.ask("PING")
        connection.ask(f"CLIENT SETNAME {NAME}")
    except BaseException:
        connection.close()
        raise
    return connection


def start(binary: str, lock: int) -> Connection | None:
    """Start the server and wait until it has loaded its data, for as long as that takes.

    ``None`` if somebody ends it meanwhile. Raises ``OSError`` with its own last words when it
    gives up.
    """
    if os.path.exists(LOG) and os.path.getsize(LOG) > LOG_MAX_BYTES:
        os.replace(LOG, f"{LOG}.1")
    begin = os.path.getsize(LOG) if os.path.exists(LOG) else 0
    server = spawn(binary, lock)
    while server.poll() is None:
        with suppress(OSError):
            return attach()
        time.sleep(0.02)
    if server.returncode <= 0:
        return None
    raise OSError(f"the server ended with status {server.returncode}: {last_words(begin)}")


def last_words(since: int) -> str:
    """What the log says since then, and how full the disk is, which silences the log."""
    disk = os.statvfs(".")
    free = disk.f_bavail * disk.f_frsize // 1_000_000
    return f"{log_tail(since=since) or '(its log is empty)'} ({free} MB are free on its disk)"


def take_charge(binary: str) -> Connection | None:
    """Start the server, or attach to the one that runs; ``None`` if that does not succeed now,
    but may soon. Raises ``OSError`` when the server cannot be started."""
    lock = lock_directory()
    if lock is not None:
        return start(binary, lock)
    with suppress(OSError):
        return attach()
    return None


def gone(directory: Path) -> bool:
    """Whether the directory was deleted, or another put in its place: then nobody can find this
    server any more, and what it writes is lost."""
    try:
        return not os.path.samestat(directory.stat(), os.stat("."))
    except FileNotFoundError:
        return True
    except OSError:
        return False


def watch(connection: Connection, directory: Path, idle_seconds: float) -> None:
    """Stand by until there is nothing to guard, and end the server when its time has come.

    Its time has come when no client but guardians was connected for ``idle_seconds``, counting
    also those that came and went between two looks, or when its directory is gone. Raises
    ``OSError`` when the server has ended, and returns when an older guardian is there.
    """
    own = int(connection.ask("CLIENT ID"))
    arrivals, last_use = "", time.monotonic()
    while True:
        connection.stay(min(idle_seconds / 4, POLL_SECONDS))
        ids, users = guardians(connection)
        if min(ids) < own:
            return
        before, arrivals = arrivals, statistic(connection, "total_connections_received")
        if users or arrivals != before:
            last_use = time.monotonic()
        if time.monotonic() - last_use >= idle_seconds or gone(directory):
            with suppress(Refused):
                connection.ask("SHUTDOWN")


def statistic(connection: Connection, name: str) -> str:
    """One value of the server's ``INFO stats``."""
    lines = connection.ask("INFO stats").splitlines()
    return dict(line.partition(":")[::2] for line in lines)[name]


def report(text: str) -> None:
    """Tell the starter, if it still listens. Once ready, its pipe is left for the log."""
    with suppress(OSError):
        os.write(1, text.encode(errors="replace"))
    if text == READY:
        log = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)


def become_independent() -> None:
    """Depend on nothing that the starter left us: what it blocked, ignored or shares."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.umask(0o077)


def guard(connection: Connection, directory: Path, idle_seconds: float) -> None:
    """``watch`` until it has nothing more to do, also when an operator cuts the connection.

    On SIGTERM, as a service manager sends it to everybody, the server ends too.
    """
    signal.signal(signal.SIGTERM, end_politely)
    try:
        while True:
            try:
                return watch(connection, directory, idle_seconds)
            except OSError:
                connection.close()
                connection = attach()
    except OSError:
        reap()
    except SystemExit:
        with suppress(OSError):
            attach().ask("SHUTDOWN")
        reap()


def end_politely(number: int, frame: FrameType | None) -> None:
    """Leave ``watch`` for the end of ``guard``."""
    raise SystemExit


def reap() -> None:
    """Wait for the end of the server where it is our child: in a container, nobody else may."""
    with suppress(ChildProcessError):
        os.wait()


def main(directory: str, binary: str, idle_seconds: str) -> None:
    """Fork, so that the starter has no child to wait for, and guard what is in ``directory``."""
    if os.fork():
        os._exit(0)
    become_independent()
    try:
        os.chdir(directory)
        connection = take_charge(binary)
    except OSError as error:
        report(str(error))
        return
    report(READY if connection else BUSY)
    if connection:
        guard(connection, Path(directory), float(idle_seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
