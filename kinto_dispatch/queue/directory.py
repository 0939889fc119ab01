"""The directory of an embedded server: made and judged safe, and a way to the socket in it.

The socket is in the directory. Where its path is too long for the system, a symbolic link in a
private directory under the system's temporary one leads there. The link says nothing but where
the directory is, so each process may have another, as services with their own ``/tmp`` do.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from kinto_dispatch.errors import QueueUnavailable
from kinto_dispatch.queue.guardian import LOG, SOCKET


SOCKET_PATH_MAX_BYTES = 103 if sys.platform == "darwin" else 107
OTHER_WAYS = "Or set queue_url to a Redis or Valkey server of your own."


def url_of(socket: Path) -> str:
    """The URL of a server on that socket."""
    return f"unix://{quote(os.fsencode(socket))}"


def unavailable(directory: Path, reason: str) -> QueueUnavailable:
    """The error that says why the directory's server cannot be used."""
    log = directory / LOG
    advice = "Put that right, or set queue_dir to another directory."
    if os.path.exists(log):
        advice = f"Its log is {log}. {advice}"
    url = url_of(directory / SOCKET)
    return QueueUnavailable(url, f"embedded server: {reason}", f"{advice} {OTHER_WAYS}")


def prepared(directory: Path) -> Path:
    """The directory, made if need be for this user alone; refused where others may write."""
    directory = directory.absolute()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        raise unavailable(directory, f"its directory cannot be used: {error}") from error
    if problem := _unsafe(found, 0o022):
        raise unavailable(directory, f"its directory {directory} {problem}")
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


def socket_path(directory: Path) -> Path:
    """A path to the directory's socket that the system takes."""
    socket = directory / SOCKET
    if _fits(socket):
        return socket
    return _alias(directory) / SOCKET


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
    if problem or not _fits(alias / SOCKET):
        raise _too_long(directory, f"{private} {problem or 'is too long as well'}")
    return alias


def _too_long(directory: Path, problem: str) -> QueueUnavailable:
    limit = SOCKET_PATH_MAX_BYTES - len(SOCKET) - 1
    return QueueUnavailable(
        url_of(directory / SOCKET),
        f"embedded server: the path of its socket is longer than {SOCKET_PATH_MAX_BYTES} bytes, "
        f"and no short way to it can be made: {problem}",
        f"Set queue_dir to a path of at most {limit} bytes. {OTHER_WAYS}",
    )
