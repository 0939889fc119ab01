"""The queue stops for a minute under load: p99 of writes, beside a Kinto without kinto-dispatch.

``QUEUE_AWAY_SECONDS`` says for how long, ``pytest -s`` shows the figures.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import webtest

from kinto_dispatch.testing.kinto import make_app
from kinto_dispatch.testing.valkey import LocalValkey
from kinto_dispatch.testing.waiting import eventually


if TYPE_CHECKING:
    from tests.conftest import Deploy

SECONDS = float(os.environ.get("QUEUE_AWAY_SECONDS", "60"))
USUAL_SECONDS = 5.0
MOST_ADDED_MS = 5.0
BASE = "kinto.event_listeners.dispatch."
RECORDS = "/buckets/bench/collections/notes/records"

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(SECONDS * 3 + 300)]


@pytest.fixture
def valkey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalValkey]:
    """A server that is stopped in its tracks, beside the plugin of the deployment."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "valkey").mkdir()
    with LocalValkey(tmp_path / "valkey") as server:
        yield server


def test_a_minute_without_the_queue(
    deploy: Deploy, valkey: LocalValkey, postgresql_url: str
) -> None:
    """With an outbox the p99 of a write stays within 5 ms of a Kinto without us, all events arrive
    after the queue's return, and none twice (R7, R8)."""
    deployment = deploy(kinto={"kinto.storage_url": postgresql_url}, queue_url=valkey.url)
    bare = _app({"kinto.storage_url": postgresql_url})
    ours = _app(deployment.settings)
    worker = deployment.worker().start()
    written: set[str] = set()
    result = {"usual": _alternate(bare, ours, USUAL_SECONDS, written)}
    valkey.pause()
    result["away"] = _alternate(bare, ours, SECONDS, written)
    waiting = _unrelayed(ours)
    valkey.resume()
    returned = time.monotonic()
    deployment.await_delivered(written, seconds=120)
    caught_up_seconds = round(time.monotonic() - returned, 1)
    told = deployment.delivered()
    print("\n" + json.dumps({**result, "waited": waiting, "caught_up_seconds": caught_up_seconds}))
    assert worker.stop() == 0
    assert max(told.values()) == 1
    assert result["away"]["ours"]["p99_ms"] - result["away"]["bare"]["p99_ms"] <= MOST_ADDED_MS


def test_a_minute_without_the_queue_in_direct_mode(deploy: Deploy, valkey: LocalValkey) -> None:
    """One write pays the budget, and then they cost what they always did (R7, R8)."""
    deployment = deploy(queue_url=valkey.url)
    bare, ours = _app({}), _app(deployment.settings)
    result = {"usual": _alternate(bare, ours, USUAL_SECONDS, set())}
    valkey.pause()
    result["away"] = _alternate(bare, ours, SECONDS, set())
    valkey.resume()
    direct = ours.app.registry.kinto_dispatch.direct
    eventually(lambda: ours.post(RECORDS) and not direct.is_losing, "events to be taken again")
    print("\n" + json.dumps({**result, "dropped": direct.dropped, "appended": direct.appended}))
    assert direct.dropped > 0
    assert result["away"]["ours"]["max_ms"] <= 1000
    assert result["away"]["ours"]["p99_ms"] - result["away"]["bare"]["p99_ms"] <= MOST_ADDED_MS


def _app(settings: Mapping[str, str]) -> webtest.TestApp:
    app = make_app(settings)
    app.put("/buckets/bench")
    app.put("/buckets/bench/collections/notes")
    return app


def _alternate(bare: Any, ours: Any, seconds: float, written: set[str]) -> dict[str, Any]:
    """Write to both in turn, for so long; what that took."""
    times: dict[str, list[float]] = {"bare": [], "ours": []}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, app in (("bare", bare), ("ours", ours)):
            started = time.perf_counter()
            answer = app.post_json(RECORDS, {"data": {"note": "x" * 300}}, status=201)
            times[name].append(time.perf_counter() - started)
            if app is ours:
                written.add(answer.json["data"]["id"])
    return {name: _figures(taken) for name, taken in times.items()}


def _figures(taken: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(taken, n=100)
    figures = {"p50_ms": cuts[49], "p99_ms": cuts[98], "max_ms": max(taken)}
    return {"writes": len(taken), **{name: round(s * 1000, 3) for name, s in figures.items()}}


def _unrelayed(app: Any) -> int:
    from kinto_dispatch.outbox.reader import PostgresOutboxReader

    settings = app.app.registry.kinto_dispatch.configuration.settings
    reader = PostgresOutboxReader(settings.storage_url.get_secret_value())
    waiting = reader.status().waiting
    reader.close()
    return waiting
