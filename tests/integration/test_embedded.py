"""One embedded server for each directory, whoever starts it, in any order and over any death."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from kinto_dispatch.errors import QueueUnavailable
from kinto_dispatch.queue.embedded import ensure_server, server_url, stop_server
from kinto_dispatch.testing.waiting import eventually


# Says that it is set, waits for a line, ensures the server, prints its pid, and stays.
STARTER = """
import sys
from pathlib import Path
import redis
from kinto_dispatch.queue.embedded import ensure_server

print("set", flush=True)
sys.stdin.readline()
with redis.Redis.from_url(ensure_server(Path(sys.argv[1]))) as client:
    print(client.info("server")["process_id"], flush=True)
sys.stdin.readline()
"""

# Counts in the server until its input ends, over any number of its deaths; prints how many counts
# were acknowledged, and how many it tried.
WRITER = """
import select, sys
from pathlib import Path
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from kinto_dispatch.queue.embedded import ensure_server

print("set", flush=True)
acknowledged = tried = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    client = redis.Redis.from_url(ensure_server(Path(sys.argv[1])), retry=Retry(NoBackoff(), 0))
    try:
        while not select.select([sys.stdin], [], [], 0)[0]:
            tried += 1
            client.incr("count")
            acknowledged += 1
    except redis.RedisError:
        pass
    client.close()
print(acknowledged, tried, flush=True)
"""


class Child:
    """A process of ours in a group of its own that is told what to do over its input."""

    def __init__(self, script: str, *args: object, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )

    @property
    def output(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def line(self) -> str:
        """Its next line; blocks until there is one."""
        return self.output.readline().strip()

    def go_on(self) -> None:
        """Give it the line that it waits for."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self, sign: signal.Signals = signal.SIGKILL) -> int:
        """Signal its whole group, if it is still there; its status once it has gone."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, sign)
        with suppress(BrokenPipeError), self.process:
            pass
        return self.process.wait()


@pytest.fixture
def children() -> Iterator[list[Child]]:
    """Children to be killed after the test, if they are still there."""
    started: list[Child] = []
    yield started
    for child in started:
        child.end()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """The directory of a server; after the test none of its processes is left."""
    directory = tmp_path / "queue"
    yield directory
    try:
        stop_server(directory)
        eventually(lambda: not processes(directory), "its processes to be gone")
    finally:
        for pid in processes(directory):
            os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def guardians(directory: Path) -> list[int]:
    """The guardians of this directory that run now."""
    listing = subprocess.run(["ps", "-axwwo", "pid=,args="], capture_output=True, text=True)
    lines = [line for line in listing.stdout.splitlines() if f"guardian.py {directory} " in line]
    return [int(line.split()[0]) for line in lines]


def servers(directory: Path) -> list[int]:
    """All servers that ever started on this directory, by their own log."""
    log = directory / "valkey.log"
    text = log.read_text() if log.exists() else ""
    return [int(pid) for pid in re.findall(r"pid=(\d+), just started", text)]


def processes(directory: Path) -> list[int]:
    """Guardians and servers of this directory that run now."""
    return guardians(directory) + [pid for pid in servers(directory) if alive(pid)]


def connect(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, decode_responses=True, retry=Retry(NoBackoff(), 0))


def server_pid(url: str) -> int:
    with connect(url) as client:
        return int(client.info("server")["process_id"])


def kill_server(url: str) -> int:
    """SIGKILL; returns when the process is gone."""
    pid = server_pid(url)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid), "the killed server to be gone")
    return pid


def start_together(children: list[Child], directory: Path, count: int) -> list[int]:
    """The server's pid as seen by each of ``count`` processes that all ask at once."""
    starters = [Child(STARTER, directory) for _ in range(count)]
    children += starters
    assert [child.line() for child in starters] == ["set"] * count
    for child in starters:
        child.go_on()
    return [int(child.line()) for child in starters]


def test_many_starters_get_one_server(home: Path, children: list[Child]) -> None:
    """Eight processes that ask at once get the same server, and only one was ever started."""
    pids = start_together(children, home, 8)
    assert pids == servers(home) * 8
    eventually(lambda: len(guardians(home)) == 1, "the guardians that came too late to leave")


def test_many_starters_after_a_crash_get_one_server(home: Path, children: list[Child]) -> None:
    """What a killed server leaves behind misleads nobody."""
    first = kill_server(ensure_server(home))
    assert (home / "valkey.sock").exists()
    pids = start_together(children, home, 8)
    assert [first, pids[0]] == servers(home)
    assert pids == [pids[0]] * 8


def test_only_the_user_can_reach_the_server(home: Path) -> None:
    """It has a socket of mode 0700 in a directory of mode 0700, and no port."""
    with connect(ensure_server(home)) as client:
        assert client.config_get("port") == {"port": "0"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendfsync") == {"appendfsync": "always"}
    assert (home / "valkey.sock").stat().st_mode & 0o777 == 0o700
    assert home.stat().st_mode & 0o777 == 0o700


def test_a_killed_server_comes_back_with_its_data(home: Path) -> None:
    """Whatever was acknowledged before a SIGKILL is there for the next who asks."""
    url = ensure_server(home)
    with connect(url) as client:
        client.set("kept", "yes")
    killed = kill_server(url)
    assert ensure_server(home) == url
    with connect(url) as client:
        assert client.get("kept") == "yes"
    assert server_pid(url) != killed


def test_nothing_is_lost_or_doubled_while_the_server_dies_again_and_again(
    home: Path, children: list[Child]
) -> None:
    """Writers that start it again in a race lose no acknowledged write over five kills."""
    writers = [Child(WRITER, home) for _ in range(4)]
    children += writers
    assert [child.line() for child in writers] == ["set"] * 4
    killed = {kill_server(ensure_server(home)) for _ in range(5)}
    for child in writers:
        child.go_on()
    counts = [tuple(map(int, child.line().split())) for child in writers]
    with connect(ensure_server(home)) as client:
        counted = int(client.get("count"))
    assert sum(ack for ack, _ in counts) <= counted <= sum(tried for _, tried in counts)
    assert sum(ack for ack, _ in counts) > 0
    assert killed < set(servers(home))
    assert len(servers(home)) == 6


def test_a_server_killed_while_it_starts_is_started_again(
    home: Path, children: list[Child]
) -> None:
    """A death before the first answer is no reason to give up; only what the server says is."""
    starter = Child(STARTER, home)
    children.append(starter)
    assert starter.line() == "set"
    starter.go_on()
    killed: set[int] = set()
    while len(killed) < 3 and starter.process.poll() is None:
        # As fast as can be: the server takes some 30 ms from this log line to its first answer.
        for pid in set(servers(home)) - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    assert int(starter.line()) == servers(home)[-1]
    assert killed == set(servers(home)[:-1])


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_the_server_outlives_its_starter(
    home: Path, children: list[Child], sign: signal.Signals
) -> None:
    """Neither a killed starter nor a Ctrl-C at its whole group takes the server along."""
    pids = start_together(children, home, 1)
    assert children[0].end(sign) != 0
    assert server_pid(server_url(home)) == pids[0]
    assert len(guardians(home)) == 1


def test_the_server_inherits_nothing(home: Path, children: list[Child]) -> None:
    """A port that the starter listened on is free when the starter ends."""
    listen = "import socket; s = socket.create_server(('127.0.0.1', 0)); s.set_inheritable(True); "
    child = Child(f"{listen} print(s.getsockname()[1], flush=True)\n{STARTER}", home)
    children.append(child)
    port = int(child.line())
    child.go_on()
    assert child.line() == "set"
    assert int(child.line()) == server_pid(server_url(home))
    child.end()
    with socket.create_server(("127.0.0.1", port), reuse_port=False):
        pass


def test_an_idle_server_ends_and_comes_back(home: Path) -> None:
    """With no client for ``idle_seconds`` no process remains, and the data waits on disk."""
    with connect(ensure_server(home, idle_seconds=0.4)) as client:
        client.set("kept", "yes")
    eventually(lambda: not processes(home), "the idle server and its guardian to end")
    with connect(ensure_server(home, idle_seconds=0.4)) as client:
        assert client.get("kept") == "yes"


def test_a_server_with_a_client_is_not_idle(home: Path) -> None:
    """A client that only waits keeps the server."""
    with connect(ensure_server(home, idle_seconds=0.4)) as client:
        assert client.blpop(["nothing"], timeout=1.6) is None
        assert client.ping()
    assert len(servers(home)) == 1


def test_a_server_with_visitors_is_not_idle(home: Path) -> None:
    """Clients that come and go between two looks of the guardian keep the server."""
    url = ensure_server(home, idle_seconds=1.5)
    end = time.monotonic() + 2.5
    eventually(lambda: server_pid(url) and time.monotonic() > end, "the visits to end")
    assert len(servers(home)) == 1


def test_a_server_that_lost_its_guardian_gets_another(home: Path) -> None:
    """A killed guardian takes nothing along; the next who asks sends one that ends the server."""
    url = ensure_server(home, idle_seconds=0.4)
    with connect(url) as client:
        client.ping()
        (first,) = guardians(home)
        os.kill(first, signal.SIGKILL)
        eventually(lambda: not alive(first), "the guardian to be gone")
        assert ensure_server(home, idle_seconds=0.4) == url
        (second,) = guardians(home)
    assert second != first
    (server,) = servers(home)
    eventually(lambda: not alive(second) and not alive(server), "both to end when idle")


def test_a_guardian_that_is_cut_off_comes_back(home: Path) -> None:
    """Whoever ends all connections of the server does not leave it unguarded."""
    ensure_server(home, idle_seconds=0.4)
    before = guardians(home)
    with connect(server_url(home)) as client:
        client.client_kill_filter(_type="normal", skipme=True)
        eventually(lambda: "guardian" in str(client.client_list()), "the guardian to be back")
        assert guardians(home) == before
    eventually(lambda: not processes(home), "both to end when idle")


def test_a_running_server_is_asked_and_nothing_else(home: Path, children: list[Child]) -> None:
    """Where the server runs, a call starts no process."""
    ensure_server(home)
    script = (
        "import sys\nfrom kinto_dispatch.queue.embedded import ensure_server, Path\n"
        "sys.addaudithook(lambda name, args: print(name) if name == 'subprocess.Popen' else 0)\n"
        "ensure_server(Path(sys.argv[1])); print('asked')"
    )
    children.append(Child(script, home))
    assert children[0].line() == "asked"


def test_sigterm_to_the_guardian_ends_both(home: Path) -> None:
    """A service manager that ends everybody politely leaves nothing behind."""
    ensure_server(home)
    (guardian,), (server,) = guardians(home), servers(home)
    os.kill(guardian, signal.SIGTERM)
    eventually(lambda: not alive(guardian) and not alive(server), "both to end")


def test_a_server_without_its_directory_ends(home: Path) -> None:
    """A server whose directory was deleted is not left behind, unreachable."""
    ensure_server(home, idle_seconds=12)
    (guardian,), (server,) = guardians(home), servers(home)
    shutil.rmtree(home)
    eventually(lambda: not alive(guardian) and not alive(server), "both to end")


def test_a_path_of_any_length_works(tmp_path: Path, children: list[Child]) -> None:
    """A path too long for a socket leads to the same server from everywhere, also for processes
    with temporary directories of their own."""
    directory = tmp_path / ("deep" * 30) / "queue"
    with tempfile.TemporaryDirectory(prefix="kd-") as one, tempfile.TemporaryDirectory() as other:
        children += [Child(STARTER, directory, env={"TMPDIR": path}) for path in (one, other)]
        try:
            for child in children:
                assert child.line() == "set"
                child.go_on()
            assert [int(child.line()) for child in children] == servers(directory) * 2
        finally:
            os.kill(servers(directory)[0], signal.SIGTERM)
            eventually(lambda: not guardians(directory), "the server to end")


def test_a_server_that_cannot_start_is_quoted(home: Path) -> None:
    """The error holds the server's own last words, where its log is, and what to do."""
    home.mkdir(mode=0o700)
    (home / "appendonlydir").touch()
    with pytest.raises(QueueUnavailable) as caught:
        ensure_server(home)
    text = str(caught.value)
    assert "the server ended with status 1" in text
    assert "appendonlydir" in text
    assert f"Its log is {home}/valkey.log" in text
    assert "set queue_dir to another directory" in text


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable for root")
def test_an_unreadable_directory_is_an_error(home: Path) -> None:
    """The error says what the system said."""
    home.mkdir(mode=0o000)
    with pytest.raises(QueueUnavailable, match="Permission denied"):
        ensure_server(home)
    home.chmod(0o700)


def test_a_half_written_last_command_is_left_out(home: Path) -> None:
    """A log that a power cut has cut short is loaded up to its last whole command."""
    url = ensure_server(home)
    with connect(url) as client:
        client.set("whole", "yes")
        client.set("half", "no")
    kill_server(url)
    (log,) = (home / "appendonlydir").glob("*.incr.aof")
    os.truncate(log, log.stat().st_size - 5)
    with connect(ensure_server(home)) as client:
        assert client.mget("whole", "half") == ["yes", None]


def test_a_server_that_hangs_is_never_doubled(home: Path) -> None:
    """A stopped server is an error in bounded time, and no reason to start a second one."""
    url = ensure_server(home)
    pid = server_pid(url)
    os.kill(pid, signal.SIGSTOP)
    begin = time.monotonic()
    try:
        with pytest.raises(QueueUnavailable, match="no answer in time"):
            ensure_server(home, timeout_seconds=1)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert time.monotonic() - begin < 4
    assert ensure_server(home) == url
    assert servers(home) == [pid]


def test_a_caller_in_a_hurry_is_not_kept(home: Path) -> None:
    """A start goes on without a caller that has no time for it, and the next one finds it done."""
    with suppress(QueueUnavailable):
        ensure_server(home, timeout_seconds=0.001)
    (pid,) = eventually(lambda: servers(home), "the server to start")
    assert server_pid(ensure_server(home)) == pid
    os.kill(pid, signal.SIGSTOP)
    begin = time.monotonic()
    try:
        with pytest.raises(QueueUnavailable, match=r"no answer in time \(timed out\)"):
            ensure_server(home, timeout_seconds=0.1)
        assert time.monotonic() - begin < 0.5
    finally:
        os.kill(pid, signal.SIGCONT)


def test_an_interpreter_is_found_where_executable_is_none(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application server that embeds Python names itself as the executable."""
    monkeypatch.setattr(sys, "executable", "/bin/sh")
    assert server_pid(ensure_server(home)) in servers(home)


def test_stopping_ends_the_server_and_keeps_its_data(home: Path) -> None:
    """When ``stop_server`` returns, the server has gone."""
    with connect(ensure_server(home)) as client:
        client.set("kept", "yes")
    (pid,) = servers(home)
    stop_server(home)
    eventually(lambda: not alive(pid), "the server to be reaped")
    with connect(ensure_server(home)) as client:
        assert client.get("kept") == "yes"
