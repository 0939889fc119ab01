"""How long a committed write takes to its channel while nothing else is to be done."""

from __future__ import annotations

import json
import statistics
import time
from typing import TYPE_CHECKING

import pytest


if TYPE_CHECKING:
    from tests.conftest import Deploy, Deployment

pytestmark = pytest.mark.benchmark

WRITES = 200
PAUSE_SECONDS = 0.05
AIM_MS = 50


def test_an_idle_worker_delivers_at_once(deploy: Deploy, postgresql_url: str) -> None:
    """From PostgreSQL's timestamp of the record, which is before its commit, to the first line of
    the hook: half of the deliveries take less than 50 ms, through outbox, relay, log and lane."""
    deployment = deploy(
        {"ops": {"resources": "record"}}, kinto={"kinto.storage_url": postgresql_url}
    )
    deployment.kinto.start()
    deployment.make_collections()
    deployment.worker().start()
    _write(deployment, "warm", 20)
    written = _write(deployment, "r", WRITES)
    begun = {line["ids"][0]: line["at"] for line in deployment.begun()}
    took = sorted((begun[name] - at) * 1000 for name, at in written.items())
    result = {
        "deliveries": WRITES,
        "p50_ms": round(statistics.median(took), 1),
        "p99_ms": round(took[int(WRITES * 0.99)], 1),
    }
    print("\n" + json.dumps(result))
    assert result["p50_ms"] < AIM_MS


def _write(deployment: Deployment, prefix: str, count: int) -> dict[str, float]:
    """When each record was written, in seconds, by its id. Returns when all have arrived."""
    written: dict[str, float] = {}
    for number in range(count):
        answer = deployment.put(f"{prefix}{number}")
        answer.raise_for_status()
        written[f"{prefix}{number}"] = answer.json()["data"]["last_modified"] / 1000
        time.sleep(PAUSE_SECONDS)
    deployment.await_delivered(written)
    return written
