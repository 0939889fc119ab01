"""The server is away, full, locked or another one: what is said of it, and how work goes on."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from kinto_dispatch.errors import QueueUnavailable
from kinto_dispatch.queue.log import StreamsLog
from kinto_dispatch.queue.streams import StreamsQueue
from kinto_dispatch.queue.values import (
    START_OF_LOG,
    Claim,
    Dead,
    Done,
    Entry,
    Fate,
    Later,
    Settlement,
)
from kinto_dispatch.testing.valkey import LocalValkey
from kinto_dispatch.testing.waiting import eventually, eventually_async


PASSWORD = "s3cr3t/pass"
QUOTED = "s3cr3t%2Fpass"


@pytest.fixture
def brief(valkey: LocalValkey) -> Iterator[StreamsLog]:
    """The producer's side with the patience of a request, on a server that may be killed."""
    log = StreamsLog(lambda: valkey.url, "kd", ("ops",), 0.2)
    yield log
    log.close()


@pytest.fixture
async def worker(valkey: LocalValkey) -> AsyncIterator[StreamsQueue]:
    """The worker's side, on the same server."""
    queue = StreamsQueue(lambda: valkey.url, "kd", ("ops",), 0.5)
    yield queue
    await queue.close()


async def refusal(url: str) -> str:
    """What a worker and a web process both say of a server."""
    queue = StreamsQueue(lambda: url, "kd", ("ops",), 2.0)
    log = StreamsLog(lambda: url, "kd", ("ops",), 2.0)
    with pytest.raises(QueueUnavailable) as of_queue:
        await queue.register(["ops"])
    await queue.close()
    with pytest.raises(QueueUnavailable) as of_log:
        log.append([("event", b"")])
    log.close()
    assert str(of_queue.value) == str(of_log.value)
    return str(of_queue.value)


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that answers everything with the same."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            # A client that hangs up in the middle is no trouble of the server's.
            with connection, suppress(OSError):
                while connection.recv(65536):
                    connection.sendall(answer)

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve)
    thread.start()
    yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


# --- away and back -----------------------------------------------------------------------


async def test_a_server_that_was_killed_is_used_again_by_the_same_objects(
    valkey: LocalValkey, brief: StreamsLog, worker: StreamsQueue
) -> None:
    """While it is away every call says so at once; then everything is there again."""
    brief.append([("event-0", b"0")])
    await worker.enqueue("ops", [Entry("k", b"")])
    (claim,) = await worker.fetch("ops", "a", 1, 0)
    valkey.kill()
    started = time.monotonic()
    for call in (worker.fetch("ops", "a", 1, 5), worker.renew("ops", [claim]), worker.mark()):
        with pytest.raises(QueueUnavailable):
            await call
    with pytest.raises(QueueUnavailable):
        brief.append([("event-1", b"1")])
    with pytest.raises(QueueUnavailable):
        brief.summary()
    assert time.monotonic() - started < 5
    valkey.start()
    brief.append([("event-1", b"1")])
    assert [entry.body for entry in await worker.read_log(START_OF_LOG, 9)] == [b"0", b"1"]
    assert await worker.renew("ops", [claim]) == []
    assert await worker.settle("ops", [Settlement(claim, Done(), b"")]) == [True]


async def test_who_waits_for_deliveries_hears_of_the_server_s_end(
    valkey: LocalValkey, worker: StreamsQueue
) -> None:
    """A blocked call ends with the server, not with its own time."""
    waiting = asyncio.create_task(worker.fetch("ops", "a", 1, 60))
    await asyncio.sleep(0.2)
    valkey.kill()
    with pytest.raises(QueueUnavailable):
        await asyncio.wait_for(waiting, 5)


async def test_a_server_that_is_frozen_costs_the_time_that_was_granted(
    valkey: LocalValkey, brief: StreamsLog, worker: StreamsQueue
) -> None:
    """On an open connection and on a new one; afterwards, what was sent is there once."""
    brief.append([("event-0", b"0")])
    valkey.pause()
    try:
        for _ in range(3):
            started = time.monotonic()
            with pytest.raises(QueueUnavailable, match="did not answer in time"):
                brief.append([("event-1", b"1")])
            assert time.monotonic() - started < 1
        started = time.monotonic()
        with pytest.raises(QueueUnavailable, match="did not answer in time"):
            await worker.fetch("ops", "a", 1, 0.2)
        assert 0.5 < time.monotonic() - started < 3
    finally:
        valkey.resume()
    eventually(lambda: appended(brief, b"1"), "the server to take events")
    assert [entry.body for entry in await worker.read_log(START_OF_LOG, 9)] == [b"0", b"1"]


def appended(log: StreamsLog, body: bytes) -> bool:
    try:
        log.append([(f"event-{body.decode()}", body)])
    except QueueUnavailable:
        return False
    return True


async def test_a_cancelled_call_leaves_no_stray_reply(
    queue: StreamsQueue, other: StreamsQueue
) -> None:
    """Whatever moment a caller gives up, the next call gets its own reply."""
    await queue.cursors(["ops"])
    for round_ in range(50):
        waiting = asyncio.create_task(queue.fetch("ops", "a", 1, 30))
        await asyncio.sleep(0.0005 * (round_ % 5))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert await queue.cursors(["ops"]) == {"ops": START_OF_LOG}
    await other.enqueue("ops", [Entry("k", b"")])
    assert (await queue.status(["ops"]))[0].waiting + (await queue.status(["ops"]))[0].in_flight


async def test_the_server_is_looked_for_again_when_it_was_lost(
    tmp_path: Path, valkey: LocalValkey
) -> None:
    """Whoever names the server is asked once, and again after a loss, and may name another."""
    asked: list[str] = []
    (tmp_path / "second").mkdir()
    with LocalValkey(tmp_path / "second") as second:
        servers = iter([valkey.url, second.url])

        def find() -> str:
            asked.append(next(servers))
            return asked[-1]

        queue = StreamsQueue(find, "kd", ("ops",))
        await asyncio.gather(*(queue.cursors(["ops"]) for _ in range(5)))
        assert len(asked) == 1
        valkey.kill()
        with pytest.raises(QueueUnavailable):
            await queue.cursors(["ops"])
        assert await queue.append([("event", b"")])
        assert (await queue.status(["ops"]))[0].oldest_waiting_seconds is not None
        assert asked == [valkey.url, second.url]
        await queue.close()


async def test_closing_can_be_repeated_and_is_not_final(queue: StreamsQueue, url: str) -> None:
    """Neither side ever raises when it is closed, used or not, and both work on afterwards."""
    before = await queue.mark()
    await queue.close()
    await queue.close()
    assert await queue.mark() == before
    log = StreamsLog(lambda: url, "kd", (), 1.0)
    log.close()
    log.append([("event", b"")])
    log.close()
    log.close()
    assert len(await queue.read_log("0-0", 10)) == 1


# --- what is said ------------------------------------------------------------------------


async def test_where_nothing_listens_it_says_so(tmp_path: Path) -> None:
    """With the place, and without a password that was meant for it (B30)."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    said = await refusal(f"redis://user:{QUOTED}@127.0.0.1:{port}/3")
    assert f"redis://127.0.0.1:{port}/3" in said
    assert "nothing listens there. Start the server, or correct host and port" in said
    assert "queue_url" in said
    said = await refusal(f"unix://{tmp_path}/none.sock?db=2&password={QUOTED}")
    assert f"{tmp_path}/none.sock?db=2 " in said
    assert "no such socket" in said
    assert "s3cr3t" not in said


async def test_a_host_without_address_is_named() -> None:
    """A name that cannot be resolved is another mistake than a server that is down."""
    said = await refusal("redis://no-such-host.invalid:6379/0")
    assert "redis://no-such-host.invalid:6379/0 cannot be used: its host name cannot" in said


@pytest.mark.parametrize(
    ("userinfo", "said"),
    [
        ("", "it wants a password. Put user and password into queue_url."),
        (":wr0ng@", "it refuses the password"),
        ("nobody:wr0ng@", "it refuses the password"),
    ],
)
async def test_a_wrong_password_is_told_without_it(
    url: str, configure: Callable[[str, Any], None], userinfo: str, said: str
) -> None:
    """What is wrong and what to do, and nothing of the password, ours or the right one
    (B20, B30)."""
    configure("requirepass", PASSWORD)
    scheme, _, rest = url.partition("://")
    text = await refusal(f"{scheme}://{userinfo}{rest}")
    assert said in text
    assert "wr0ng" not in text
    assert "s3cr3t" not in text


async def test_the_right_password_opens(url: str, configure: Callable[[str, Any], None]) -> None:
    """Also with characters that a URL has to quote."""
    configure("requirepass", PASSWORD)
    scheme, _, rest = url.partition("://")
    queue = StreamsQueue(lambda: f"{scheme}://:{QUOTED}@{rest}", "kd", ("ops",))
    assert await queue.append([("event", b"")])
    assert "s3cr3t" not in repr(vars(queue))
    await queue.close()


async def test_a_password_that_nobody_asked_for_is_told(url: str) -> None:
    """A server without password refuses one (B30)."""
    scheme, _, rest = url.partition("://")
    said = await refusal(f"{scheme}://:{QUOTED}@{rest}")
    assert "Take the password out of queue_url" in said
    assert "s3cr3t" not in said


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            b"-MISCONF Errors writing to the AOF file: No space left\r\n",
            "cannot write to its disk",
        ),
        (b"-READONLY You can't write against a read only replica.\r\n", "it is a replica"),
        (b"-LOADING Valkey is loading the dataset in memory\r\n", "still loading its data. Wait;"),
        (b"-NOPERM User x has no permissions to run the 'evalsha' command\r\n", "ACL forbids"),
        (b"-MOVED 3999 127.0.0.1:6381\r\n", "node of a cluster"),
        (b"-ERR unknown command 'EVALSHA'\r\n", "Redis 6.2 or newer"),
        (b"-ERR max number of clients reached\r\n", "Raise maxclients"),
        (b"-ERR DB index is out of range\r\n", "Correct the number in queue_url"),
        (b"-NOREPLICAS Not enough good replicas to write.\r\n", "too few replicas"),
        (b"-UNKILLABLE Sorry the script already executed write commands\r\n", "UNKILLABLE"),
        (b"-BUSY Valkey is busy running a script.\r\n", "SCRIPT KILL"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "neither Redis nor Valkey. Correct queue_url."),
        (b"-NEWS something new\r\n", "something new"),
    ],
)
async def test_a_refusal_is_explained(answer: bytes, said: str) -> None:
    """In words and with what to do, whatever the server means."""
    with answering(answer) as url:
        assert said in await refusal(url)


async def test_a_server_without_tls_is_told() -> None:
    """Rather than what OpenSSL says of its version."""
    with answering(b"-ERR unknown command\r\n") as url:
        said = await refusal(url.replace("redis://", "rediss://"))
    assert "it does not speak TLS. Write redis:// for rediss:// in queue_url." in said


async def test_another_protocol_is_an_error_like_others() -> None:
    """A web server behind the queue's port breaks nothing."""
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        assert "cannot be used" in await refusal(url)


@pytest.mark.parametrize("option", ["?nonsense=1", "?socket_timeout=soon"])
async def test_a_url_that_cannot_be_used_is_told_without_its_password(option: str) -> None:
    """Options that do not exist are found when the queue is opened, not in the middle of work
    (B20, B30)."""
    said = await refusal(f"redis://:{QUOTED}@127.0.0.1:6379/0{option}")
    assert "queue_url cannot be read" in said
    assert "s3cr3t" not in said


async def test_keys_of_another_program_are_told(queue: StreamsQueue, server: redis.Redis) -> None:
    """Where the prefix is not ours alone, it says what to change."""
    server.set("kd:{lane:ops}:stream", "theirs")
    with pytest.raises(QueueUnavailable, match="Set queue_prefix"):
        await queue.fetch("ops", "a", 1, 0)
    with pytest.raises(QueueUnavailable, match="Set queue_prefix"):
        await queue.enqueue("ops", [Entry("k", b"")])


# --- full --------------------------------------------------------------------------------


async def test_where_memory_is_full_work_goes_on_but_nothing_new_comes(
    queue: StreamsQueue,
    claimed: Callable[..., Any],
    configure: Callable[[str, Any], None],
    idle: Callable[[Claim, float], Any],
) -> None:
    """All that frees memory passes: what is in the lane can be claimed, kept, taken over, settled
    with any fate, retried, given back, replayed and purged. So the queue drains by itself, and
    attempts go on being recorded (R14, R28)."""
    await queue.cursors(["ops"])
    claims = await claimed(6)
    await queue.enqueue("ops", [Entry("more", b"")])
    configure("maxmemory", 1)
    assert await queue.renew("ops", claims) == []
    await idle(claims[0], 0.05)
    claims = list(await queue.reclaim("ops", "a", 0.05, 9))
    fates: list[Fate] = [Done(), Later(0, 2), Dead("failed", ""), Later(0, 2)]
    settlements = [
        Settlement(claim, fate, b"{}") for claim, fate in zip(claims, fates, strict=False)
    ]
    for settlement in settlements[1:]:
        assert await queue.settle("ops", [settlement]) == [True]
    assert await queue.settle("ops", settlements[:1]) == [True]
    assert await queue.promote("ops", 9) == (2, None)
    await queue.release("ops", claims[4:])
    assert await queue.replay_dead("ops", await queue.dead_letters("ops")) == 1
    await queue.beat("w1", {}, 60)
    await queue.prune("ops", 0, 0)
    again = await queue.fetch("ops", "b", 99, 0)
    assert len(again) == 6
    with pytest.raises(QueueUnavailable, match="maxmemory"):
        await queue.route("ops", START_OF_LOG, "5-0", [Entry("k", b"")], [])
    with pytest.raises(QueueUnavailable, match="maxmemory"):
        await queue.enqueue("ops", [Entry("k", b"")])
    assert await queue.settle("ops", [Settlement(claim, Done(), b"{}") for claim in again]) == (
        [True] * 6
    )
    (lane,) = await queue.status(["ops"])
    assert (lane.waiting, lane.in_flight, lane.cursor) == (0, 0, START_OF_LOG)


# --- fit or not --------------------------------------------------------------------------


async def test_a_fit_server_has_no_warnings(queue: StreamsQueue, server: redis.Redis) -> None:
    """What it is and how full."""
    health, info = await queue.health(), server.info()
    assert health.server == info.get("server_name", "redis")
    assert health.version == info[f"{health.server}_version"]
    assert health.run_id == info["run_id"]
    assert health.used_memory_bytes > 100_000
    assert (health.max_memory_bytes, health.warnings) == (0, ())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("maxmemory-policy", "allkeys-lru", "Set maxmemory-policy noeviction."),
        ("appendonly", "no", "Set appendonly yes."),
        ("appendfsync", "no", "Set appendfsync everysec or always."),
        ("maxmemory", 1, "Raise maxmemory."),
    ],
)
async def test_a_server_that_may_lose_deliveries_is_warned_of(
    queue: StreamsQueue, configure: Callable[[str, Any], None], name: str, value: Any, said: str
) -> None:
    """Each danger in a sentence, with what to set."""
    configure(name, value)
    (warning,) = (await queue.health()).warnings
    assert warning.endswith(said)


async def test_a_user_with_few_rights_is_enough(url: str, server: redis.Redis) -> None:
    """The queue needs its own keys and no administrator's commands."""
    rights = ["-@all", "+@read", "+@write", "+@connection", "+@scripting", "+info", "+time"]
    run: Any = server.execute_command
    run("ACL", "SETUSER", "kd", "on", ">pw", "resetkeys", "~kd:*", *rights)
    try:
        scheme, _, rest = url.partition("://")
        queue = StreamsQueue(lambda: f"{scheme}://kd:pw@{rest}", "kd", ("ops",))
        assert (await queue.health()).warnings == ()
        assert await queue.append([("event", b"")])
        await queue.cursors(["ops"])
        await queue.route("ops", START_OF_LOG, "5-0", [Entry("k", b"")], [])
        claims = await queue.fetch("ops", "a", 1, 0)
        await queue.settle("ops", [Settlement(claims[0], Later(0, 2), b"{}")])
        await queue.promote("ops", 1)
        await queue.trim_log(0, START_OF_LOG, 1)
        await queue.prune("ops", 0, 0)
        await queue.status(["ops"])
        await queue.close()
    finally:
        run("ACL", "DELUSER", "kd")


async def test_a_script_that_the_server_forgot_is_sent_again(
    queue: StreamsQueue, other: StreamsQueue, server: redis.Redis
) -> None:
    """A restart or a SCRIPT FLUSH is not noticed."""
    await queue.enqueue("ops", [Entry("k", b"")])
    server.script_flush()
    (claim,) = await queue.fetch("ops", "a", 1, 0)
    await eventually_async(lambda: queue.status(["ops"]), "the lane")
    server.script_flush()
    assert await other.settle("ops", [Settlement(claim, Done(), b"")]) == [True]
