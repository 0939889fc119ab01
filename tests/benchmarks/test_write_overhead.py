"""What a listener adds to a write: a record POST, request by request, in another order each round.

With a fixed order each would be measured behind the same neighbour, with what that one leaves in
the caches of the processor, which made up to 2 % of a write. Time passes for others as well; the
processor time of this process (``cpu_p50_ms``) is what can be compared where the machine is not
quiet. ``idle`` is a listener that does nothing.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import redis
import webtest

from kinto_dispatch.testing.kinto import make_app


pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
ROUNDS = 800
WARM_UP = 50
SEED = 20261123
CHANNELS = (0, 1, 10, 50)
RECORDS = "/buckets/bench/collections/notes/records"

Stats = Mapping[str, float]


def test_memory_storage(tcp_url: str) -> None:
    """Direct mode adds no more than kinto-redis' listener, however many channels there are."""
    _check(_measure({}, tcp_url))


def test_postgresql_storage(tcp_url: str, postgresql_url: str) -> None:
    """The outbox adds at most 5 % to the p50 of a write, for any number of channels."""
    result = _measure({"kinto.storage_url": postgresql_url}, tcp_url)
    _check(result)
    assert result["dispatch 1"]["p50_ms"] <= 1.05 * result["bare"]["p50_ms"]


def _measure(storage: Mapping[str, str], queue_url: str) -> dict[str, Stats]:
    apps = {
        "bare": _app(storage),
        "idle": _app({**storage, **_idle()}),
        "kinto-redis": _app({**storage, **_kinto_redis(queue_url)}),
        **{f"dispatch {n}": _app({**storage, **_ours(queue_url, n)}) for n in CHANNELS},
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in apps}
    rng = random.Random(SEED)
    for number in range(ROUNDS + WARM_UP):
        for name in rng.sample(list(apps), len(apps)):
            taken = _post(apps[name])
            if number >= WARM_UP:
                times[name].append(taken)
        if number % 100 == 0:
            _forget(queue_url)
    result = {name: _statistics(values) for name, values in times.items()}
    print("\n" + json.dumps(result, indent=1))
    return result


def _check(result: Mapping[str, Stats]) -> None:
    """No more than kinto-redis adds, and flat: 50 channels cost what one does, within noise."""
    bare = result["bare"]["p50_ms"]
    allowed = result["kinto-redis"]["p50_ms"] - bare
    assert result["dispatch 1"]["p50_ms"] - bare <= 1.1 * allowed
    assert result["dispatch 50"]["p50_ms"] <= 1.1 * result["dispatch 1"]["p50_ms"]


def _post(app: webtest.TestApp) -> tuple[float, float]:
    """Seconds that a write took: of time, and of this process' processor."""
    started, cpu_started = time.perf_counter(), time.process_time()
    app.post_json(RECORDS, {"data": {"note": "x" * 300}}, status=201)
    cpu = time.process_time() - cpu_started
    return time.perf_counter() - started, cpu


def _statistics(taken: list[tuple[float, float]]) -> Stats:
    cuts = statistics.quantiles([seconds for seconds, _ in taken], n=100)
    cpu = statistics.median(cpu for _, cpu in taken)
    figures = {"p50_ms": cuts[49], "p99_ms": cuts[98], "cpu_p50_ms": cpu}
    return {name: round(seconds * 1000, 3) for name, seconds in figures.items()}


def _forget(url: str) -> None:
    """Keep the server small: what is measured is an append, not a backlog."""
    client = redis.Redis.from_url(url)
    client.delete("kinto-dispatch:{log}:stream", "kinto.core.events")
    client.close()


def _app(settings: Mapping[str, str]) -> webtest.TestApp:
    app = make_app(settings)
    app.put_json("/buckets/bench", {})
    app.put_json("/buckets/bench/collections/notes", {})
    return app


def _idle() -> dict[str, str]:
    sys.path.insert(0, str(HERE))
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
    sys.path.insert(0, str(HERE))
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
