"""What a listener adds to a write: p50 and p99 of a record POST, request by request in turn."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import kinto
import pytest
import redis
import webtest


pytestmark = pytest.mark.benchmark

HERE = Path(__file__).parent
ROUNDS = 1_500
WARM_UP = 50
CHANNELS = (0, 1, 10, 50)
RECORDS = "/v1/buckets/bench/collections/notes/records"
AUTHORIZATION = ("Basic", ("bench", "bench"))

Stats = Mapping[str, float]


def test_memory_storage(queue_url: str) -> None:
    """Direct mode adds no more than kinto-redis' listener, however many channels there are."""
    storage = {f"kinto.{kind}_backend": f"kinto.core.{kind}.memory" for kind in _KINDS}
    result = _measure(storage, queue_url)
    _check(result)


def test_postgresql_storage(queue_url: str, postgresql_url: str, tmp_path: Path) -> None:
    """The outbox adds at most 5 % to the p50 of a write, for any number of channels."""
    storage = {
        "kinto.storage_backend": "kinto.core.storage.postgresql",
        "kinto.storage_url": postgresql_url,
        "kinto.permission_backend": "kinto.core.permission.postgresql",
        "kinto.permission_url": postgresql_url,
        "kinto.cache_backend": "kinto.core.cache.memory",
    }
    _migrate({**storage, **_ours(queue_url, 1)}, tmp_path)
    result = _measure(storage, queue_url)
    _check(result)
    assert result["dispatch 1"]["p50_ms"] <= 1.05 * result["bare"]["p50_ms"]


_KINDS = ("storage", "permission", "cache")


def _measure(storage: Mapping[str, str], queue_url: str) -> dict[str, Stats]:
    apps = {
        "bare": _app(storage),
        "kinto-redis": _app({**storage, **_kinto_redis(queue_url)}),
        **{f"dispatch {n}": _app({**storage, **_ours(queue_url, n)}) for n in CHANNELS},
    }
    times: dict[str, list[float]] = {name: [] for name in apps}
    for number in range(ROUNDS + WARM_UP):
        for name, app in apps.items():
            seconds = _post(app)
            if number >= WARM_UP:
                times[name].append(seconds)
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


def _post(app: webtest.TestApp) -> float:
    started = time.perf_counter()
    app.post_json(RECORDS, {"data": {"note": "x" * 300}}, status=201)
    return time.perf_counter() - started


def _statistics(values: list[float]) -> Stats:
    cuts = statistics.quantiles(values, n=100)
    return {"p50_ms": round(cuts[49] * 1000, 3), "p99_ms": round(cuts[98] * 1000, 3)}


def _forget(url: str) -> None:
    """Keep the server small: what is measured is an append, not a backlog."""
    client = redis.Redis.from_url(url)
    client.delete("kinto-dispatch:{log}:stream", "kinto.core.events")
    client.close()


def _app(settings: Mapping[str, str]) -> webtest.TestApp:
    base = {
        "kinto.userid_hmac_secret": "bench",
        "multiauth.policies": "basicauth",
        "kinto.bucket_create_principals": "system.Everyone",
    }
    app = webtest.TestApp(kinto.main({}, **base, **settings))
    app.authorization = AUTHORIZATION
    app.put_json("/v1/buckets/bench", {})
    app.put_json("/v1/buckets/bench/collections/notes", {})
    return app


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
            f"{listener}.channels.nobody.users": "nobody",
        }
    return {
        "kinto.event_listeners": "dispatch",
        f"{listener}.use": "kinto_dispatch",
        f"{listener}.queue_url": url,
        f"{listener}.channels": " ".join(names),
        **channels,
    }


def _migrate(settings: Mapping[str, str], directory: Path) -> None:
    ini = directory / "kinto.ini"
    lines = [f"{name} = {value}" for name, value in settings.items()]
    ini.write_text("\n".join(["[app:main]", "use = egg:kinto", *lines]))
    command = [sys.executable, "-m", "kinto", "migrate", "--ini", str(ini)]
    subprocess.run(command, check=True, capture_output=True, cwd=HERE)
