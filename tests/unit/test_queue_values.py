"""What the queue sends and reads, without a server: entries, requests, judgements, words."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import resources
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from kinto_dispatch.limit import RateLimit
from kinto_dispatch.queue import commands, entries
from kinto_dispatch.queue.health import judge, read_info
from kinto_dispatch.queue.keys import LaneKeys, LogKeys, WorkerKeys
from kinto_dispatch.queue.portions import FIRST, Portion
from kinto_dispatch.queue.refusals import explained, without_password
from kinto_dispatch.queue.scripting import Evaluation, script
from kinto_dispatch.queue.values import (
    Claim,
    Dead,
    DeadEntry,
    Done,
    Entry,
    Fate,
    Later,
    Settlement,
)


SCRIPTS = sorted(
    path.name.removesuffix(".lua")
    for path in (resources.files("kinto_dispatch.queue") / "scripts").iterdir()
    if path.name not in ("shared.lua", "digests.lua")
)
FIT = {"redis_version": "7.2.4", "run_id": "r", "aof_enabled": "1", "used_memory": "10"}

fields = st.lists(
    st.sampled_from([b"key", b"body", b"attempt", b"flags", b"kind", b"at"])
    | st.binary(max_size=9)
)


def claim(**over: Any) -> Claim:
    values = {"lane": "ops", "id": "5-0", "consumer": "a", "token": 1, "key": "k", "body": b""}
    return Claim(**{**values, "attempt": 1, **over})


# --- entries -----------------------------------------------------------------------------


@given(entry_fields=fields)
def test_any_entry_becomes_a_claim_a_letter_and_an_event(entry_fields: list[bytes]) -> None:
    """Nothing that stands in a stream can break who reads it."""
    raw = (b"1700000000000-3", entry_fields)
    claim = entries.to_claim("ops", raw, "a", 7)
    assert (claim.id, claim.token) == ("1700000000000-3", 7)
    assert claim.attempt >= 0
    json.dumps(claim.key).encode()
    assert entries.to_letter("ops", raw).kind in ("refused", "failed", "poison")
    entries.to_log_entry(raw)


@given(key=st.text(), body=st.binary(), attempt=st.integers(1, 1000), replay=st.booleans())
def test_an_entry_comes_back_as_it_was(key: str, body: bytes, attempt: int, replay: bool) -> None:
    """What is sent into a lane is what is claimed from it."""
    entry = Entry(key, body, attempt, replay)
    words = [
        word if isinstance(word, bytes) else str(word).encode()
        for word in entries.lane_words(entry)
    ]
    pairs = [part for pair in zip(entries.LANE_FIELDS, words, strict=True) for part in pair]
    claim = entries.to_claim("ops", (b"1-0", pairs), "a", 1)
    assert Entry(claim.key, claim.body, claim.attempt, claim.replay) == entry
    assert (claim.suspect, claim.strikes) == (False, 0)


def test_ids_are_compared_as_numbers() -> None:
    """Ten comes after nine, and a bare time is its first entry."""
    assert entries.position("10-0") > entries.position("9-99")
    assert entries.position("5") == entries.position("5-0")


@pytest.mark.parametrize(
    ("after", "start", "numbers"),
    [
        ("0-0", "(0-0", [0, 1, 2]),
        ("7-0:0", "7-0", [1, 2]),
        ("7-0:2", "7-0", []),
        ("7-0", "(7-0", []),
    ],
)
def test_attempt_records_are_read_from_where_a_page_ended(
    after: str, start: str, numbers: list[int]
) -> None:
    """Within an entry, too: none is read twice and none is left out."""
    page = [(b"7-0", [b"record", b"0", b"record", b"1", b"record", b"2"])]
    records, last = entries.records_after(page, after)
    assert [record for _, record in records] == [b"%d" % number for number in numbers]
    assert last == "7-0"
    assert entries.first_entry_of(after) == start


# --- requests ----------------------------------------------------------------------------


@given(sizes=st.lists(st.integers(0, 30)), most=st.integers(1, 5), most_bytes=st.integers(1, 50))
def test_events_are_divided_in_order_and_within_bounds(
    sizes: list[int], most: int, most_bytes: int
) -> None:
    """A part has so many events and bytes at most, unless one event alone has more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "CHUNK", most)
        patch.setattr(commands, "CHUNK_BYTES", most_bytes)
        events = [(str(number), b"x" * size) for number, size in enumerate(sizes)]
        parts = commands.chunks(events)
    assert [event for part in parts for event in part] == events
    for part in parts:
        assert 1 <= len(part) <= most
        assert len(part) == 1 or sum(len(body) for _, body in part) <= most_bytes


def requests() -> list[Evaluation]:
    """One call of each script."""
    lane, log, workers = LaneKeys("p", "ops"), LogKeys("p"), WorkerKeys("p")
    fates: list[Fate] = [Done(), Later(1, 2), Dead("failed", "x")]
    return [
        commands.register(log, ["ops"]),
        commands.append(log, ["ops"], [("id", b"")]),
        commands.forget_ids(log),
        commands.start(lane, "0-0"),
        commands.make_group(lane),
        commands.strike(lane, claim()),
        commands.read_log(log, "0-0", 1),
        commands.route(lane, "0-0", "1-0", [Entry("k", b"")], [DeadEntry("k", b"", "failed", "")]),
        commands.renew(lane, [claim()]),
        commands.reclaim(lane, "a", 10, 1),
        commands.settle(lane, [Settlement(claim(), fate, b"") for fate in fates]),
        commands.release(lane, [claim()]),
        commands.promote(lane, 1),
        commands.claim(lane, "a", 1, RateLimit(1, 1.0), False),
        commands.move_breaker(lane, "", "open"),
        commands.beat(workers, "w", {}, 1),
        commands.list_workers(workers),
        commands.retire(lane, ["a"]),
        commands.look(lane),
        commands.look_behind(log, [], []),
        commands.replay_dead(lane, ["1-0"]),
        commands.prune(lane, 0, 0, 1),
    ]


def test_a_script_touches_the_keys_of_one_hash_tag() -> None:
    """So that a cluster stays possible. Every script is among those that were looked at."""
    used = {request.script.digest for request in requests()}
    assert used == {script(verb).digest for verb in SCRIPTS}
    for request in requests():
        assert len({re.search(r"{.*}", key)[0] for key in request.keys}) == 1


@pytest.mark.parametrize("verb", SCRIPTS)
def test_a_script_runs_on_every_server(verb: str) -> None:
    """No shebang, which Redis 6.2 does not know and which forbids scripts where memory is full;
    no command that Redis 6.2 or Valkey lacks."""
    text = script(verb).text
    assert not text.startswith("#!")
    called = set(re.findall(r"call\(\s*'(\w+)'", text))
    assert not called & {"XACKDEL", "XDELEX", "XNACK", "XAUTOCLAIM", "KEYS", "SCAN"}
    assert called <= {
        *("XADD", "XACK", "XDEL", "XCLAIM", "XPENDING", "XRANGE", "XLEN", "XINFO", "XTRIM"),
        *("XGROUP", "ZADD", "ZREM", "ZRANGE", "ZRANGEBYSCORE", "ZREMRANGEBYSCORE", "ZCARD"),
        *("ZREMRANGEBYRANK", "HGET", "HSET", "HDEL", "HEXISTS", "GET", "SET", "EXISTS", "TIME"),
        *("DEL", "INFO", "XREADGROUP", "HMGET", "HINCRBY", "HRANDFIELD", "ZCOUNT"),
        *("RPUSH", "LPOP", "LINDEX", "LRANGE", "LSET"),
    }


def test_a_call_that_may_wait_for_ever_is_never_made() -> None:
    """BLOCK 0 has no end: no wait means no BLOCK, and the shortest is a millisecond."""
    lane = LaneKeys("p", "ops")
    assert "BLOCK" not in commands.fetch(lane, "a", 1, 0)
    assert commands.fetch(lane, "a", 1, 0.0001)[6:8] == ("BLOCK", 1)
    assert commands.wait_for_log(LogKeys("p"), "0-0", 1, 1.5)[3:5] == ("BLOCK", 1500)


# --- judgements --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({}, ()),
        ({"redis_version": "6.2.0"}, ()),
        ({"redis_version": "6.0.20"}, ("6.2 or newer is needed",)),
        ({"redis_version": "5.0"}, ("6.2 or newer is needed",)),
        ({"role": "slave"}, ("Point queue_url to the primary",)),
        ({"cluster_enabled": "1"}, ("node of a cluster",)),
        ({"aof_enabled": "0"}, ("Set appendonly yes",)),
        ({"aof_last_write_status": "err"}, ("could not append",)),
        ({"rdb_last_bgsave_status": "err"}, ("could not save",)),
        ({"maxmemory_policy": "allkeys-lru"}, ("maxmemory-policy is allkeys-lru",)),
        ({"maxmemory_policy": "volatile-ttl"}, ()),
        ({"maxmemory": "11"}, ("10 of 11 bytes",)),
        ({"maxmemory": "20"}, ()),
        ({"aof_enabled": "0", "maxmemory": "1"}, ("Set appendonly", "Raise maxmemory")),
    ],
)
def test_a_server_is_judged_by_what_it_says(
    over: Mapping[str, str], said: tuple[str, ...]
) -> None:
    """Each danger in one sentence with what to do; a fit server has none."""
    warnings = judge({**FIT, **over}).warnings
    assert len(warnings) == len(said)
    for warning, part in zip(warnings, said, strict=True):
        assert part in warning


def test_what_a_server_says_of_itself_is_read() -> None:
    """Sections, empty lines and values with colons."""
    info = read_info(b"# Server\r\nredis_version:7.2.4\r\nvalkey_version:9.1.2\r\n\r\nos:a:b\r\n")
    assert info == {"redis_version": "7.2.4", "valkey_version": "9.1.2", "os": "a:b"}
    health = judge(info)
    assert (health.server, health.version, health.run_id) == ("valkey", "9.1.2", "")
    assert judge({}).warnings == ()


# --- words -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://user:se%40cret@host:1/2?ssl=1", "redis://host:1/2"),
        ("redis://:secret@[::1]:1", "redis://[::1]:1"),
        ("redis://secret@host", "redis://host"),
        ("unix:///run/redis.sock?db=3&password=secret", "unix:///run/redis.sock?db=3"),
        ("unix://user:secret@/run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_a_url_is_shown_without_who_logs_in(url: str, shown: str) -> None:
    """Where the server is, and nothing more."""
    assert without_password(url) == shown


def test_a_password_in_the_words_of_others_is_blotted_out() -> None:
    """As it was typed and as it was sent (B20, B30)."""
    url = "redis://user:se%40cret@host"
    text = str(explained(url, redis.RedisError("cannot parse se%40cret or se@cret")))
    assert "cannot parse *** or ***" in text


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ECONNREFUSED, "nothing listens"),
        (errno.EACCES, "may not open"),
        (errno.EIO, "output"),
    ],
)
def test_the_cause_of_a_lost_connection_is_told(number: int, reason: str) -> None:
    """However deep redis-py has buried it."""
    lost = redis.ConnectionError("Error connecting: input/output error")
    lost.__context__ = OSError(number, "input/output error")
    assert reason in str(explained("redis://host", lost))


def test_naming_the_queue_loads_no_client() -> None:
    """Commands that only print help import the port, not redis-py."""
    code = (
        "import sys, kinto_dispatch.queue.protocol; print({'redis', 'pydantic'} & {*sys.modules})"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "set()"


# --- portions ----------------------------------------------------------------------------


def test_a_portion_goes_by_what_came() -> None:
    """It grows while answers are full and small, falls to what fits of the largest that came, and
    is halved by each call without an answer; never to nothing."""
    portion = Portion(1_000)
    assert portion.of(5) == 5
    assert portion.of(10_000) == FIRST
    portion.came([1] * FIRST)
    assert portion.of(10_000) == 2 * FIRST
    portion.came([1])
    assert portion.of(10_000) == 2 * FIRST
    portion.came([1, 300])
    assert portion.of(10_000) == 3
    portion.failed()
    portion.failed()
    assert portion.of(10_000) == 1
    portion.came([5_000])
    assert portion.of(10_000) == 1
    portion.came([10])
    assert portion.of(10_000) == 2
    portion.came([])
    assert portion.of(10_000, claimed_bytes=999) == 2
    assert portion.of(10_000, claimed_bytes=1_000) == 0
