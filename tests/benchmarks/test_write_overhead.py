"""What a listener adds to a write: a record POST over HTTP, one after the other, in turns.

Each listener has a Kinto of its own, in a process of its own, as an operator has it: applications
that share a process push each other out of the caches of the processor, which adds a third to
what is measured. All write into one PostgreSQL that keeps what it commits (``fsync`` is on). The
order is another one in each round: with a fixed one each would be measured behind the same
neighbour, which made up to 2 % of a write. ``idle`` is a listener that does nothing; what ``bare``
and ``bare too`` differ by is noise, so what is compared are the writes of both, and those of one,
ten and fifty channels. A process is as fast as where its memory happens to lie: two that are the
same differ by 1 to 4 % as long as they live. So all of them are started several times.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import random
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from kinto_dispatch.testing.kinto import USER, LocalKinto
from kinto_dispatch.testing.postgresql import LocalPostgresql


pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
COLLECTION = "/v1/buckets/bench/collections/notes"
BODY = json.dumps({"data": {"note": "x" * 300}})
STARTS = 5
ROUNDS = 200
"""After each start."""

WARM_UP = 50
SEED = 20261123
CHANNELS = (0, 1, 10, 50)

Stats = Mapping[str, float]


@pytest.fixture
def durable_url(tmp_path: Path) -> Iterator[str]:
    """PostgreSQL as production has it: a commit is on the disk before it is answered."""
    with LocalPostgresql(tmp_path, durable=True) as server:
        yield server.create_database()


@pytest.fixture(autouse=True)
def plugins_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the servers import from here."""
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)


def test_memory_storage(tcp_url: str, tmp_path: Path) -> None:
    """Direct mode adds no more than kinto-redis' listener, however many channels there are."""
    _check(_measure({}, tcp_url, tmp_path))


def test_postgresql_storage(tcp_url: str, durable_url: str, tmp_path: Path) -> None:
    """The outbox adds at most 5 % to the p50 of a write, for any number of channels."""
    result = _measure({"kinto.storage_url": durable_url}, tcp_url, tmp_path)
    _check(result)
    assert result["dispatch, all"]["p50_ms"] <= 1.05 * result["bare, all"]["p50_ms"]


def _measure(storage: Mapping[str, str], queue_url: str, directory: Path) -> dict[str, Stats]:
    listeners = {
        "bare": {},
        "bare too": {},
        "idle": _idle(),
        "kinto-redis": _kinto_redis(queue_url),
        **{f"dispatch {n}": _ours(queue_url, n) for n in CHANNELS},
    }
    times: dict[str, list[float]] = {name: [] for name in listeners}
    rng = random.Random(SEED)
    for start in range(STARTS):
        with ExitStack() as stack:
            clients = {
                name: stack.enter_context(
                    _client({**storage, **settings}, directory / f"{name}, start {start}")
                )
                for name, settings in listeners.items()
            }
            for number in range(ROUNDS + WARM_UP):
                for name in rng.sample(list(clients), len(clients)):
                    taken = clients[name].write()
                    if number >= WARM_UP:
                        times[name].append(taken)
                if number % 100 == 0:
                    _forget(queue_url)
    times["bare, all"] = times["bare"] + times["bare too"]
    times["dispatch, all"] = [taken for n in CHANNELS if n for taken in times[f"dispatch {n}"]]
    result = {name: _statistics(values) for name, values in times.items()}
    print("\n" + json.dumps(result, indent=1))
    return result


def _check(result: Mapping[str, Stats]) -> None:
    """No more than kinto-redis adds, and flat: 50 channels cost what one does, within noise."""
    bare = result["bare, all"]["p50_ms"]
    allowed = result["kinto-redis"]["p50_ms"] - bare
    assert result["dispatch, all"]["p50_ms"] - bare <= 1.1 * allowed
    assert result["dispatch 50"]["p50_ms"] <= 1.1 * result["dispatch 1"]["p50_ms"]


class Client:
    """Writes records over one connection."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address)
        credentials = base64.b64encode(":".join(USER).encode()).decode()
        self._headers = {
            "Authorization": f"Basic {credentials}",
            "Content-Type": "application/json",
        }
        for path in (COLLECTION.partition("/collections")[0], COLLECTION):
            self._ask("PUT", path)

    def write(self) -> float:
        """Seconds that a write took."""
        started = time.perf_counter()
        self._ask("POST", f"{COLLECTION}/records", BODY)
        return time.perf_counter() - started

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _ask(self, method: str, path: str, body: str | None = None) -> None:
        self._connection.request(method, path, body, self._headers)
        answer = self._connection.getresponse()
        said = answer.read()
        assert answer.status in (200, 201), said


@contextmanager
def _client(settings: Mapping[str, str], directory: Path) -> Iterator[Client]:
    """The client of a Kinto with these settings."""
    directory.mkdir()
    with LocalKinto(settings, directory) as kinto:
        client = Client(urlsplit(kinto.url).netloc)
        yield client
        client.close()


def _statistics(taken: list[float]) -> Stats:
    cuts = statistics.quantiles(taken, n=100)
    return {"p50_ms": round(cuts[49] * 1000, 3), "p99_ms": round(cuts[98] * 1000, 3)}


def _forget(url: str) -> None:
    """Keep the server small: what is measured is an append, not a backlog."""
    client = redis.Redis.from_url(url)
    client.delete("kinto-dispatch:{log}:stream", "kinto.core.events")
    client.close()


def _idle() -> dict[str, str]:
    return {
        "kinto.event_listeners": "idle",
        "kinto.event_listeners.idle.use": "idle_listener",
    }


def _kinto_redis(url: str) -> dict[str, str]:
    listener = "kinto.event_listeners.redis"
    return {
        "kinto.event_listeners": "redis",
        f"{listener}.use": "kinto_redis.listeners",
        f"{listener}.url": url,
        f"{listener}.pool_size": "5",
    }


def _ours(url: str, count: int) -> dict[str, str]:
    """``count`` async channels; with none, one sync channel that wants nothing."""
    listener = "kinto.event_listeners.dispatch"
    names = [f"c{number}" for number in range(count)]
    channels = {f"{listener}.channels.{name}.plugin": "noop_channel:NoopChannel" for name in names}
    if not names:
        names = ["nobody"]
        channels = {
            f"{listener}.channels.nobody.plugin": "noop_channel:NoopSyncChannel",
            f"{listener}.channels.nobody.users": "account:nobody",
        }
    return {
        "kinto.event_listeners": "dispatch",
        f"{listener}.use": "kinto_dispatch",
        f"{listener}.queue_url": url,
        f"{listener}.channels": " ".join(names),
        **channels,
    }
