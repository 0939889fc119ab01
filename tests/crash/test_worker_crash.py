"""Workers that are killed, or stand still, in the middle of their deliveries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kinto_dispatch.testing.valkey import LocalValkey
from kinto_dispatch.testing.waiting import eventually


if TYPE_CHECKING:
    from tests.conftest import Deploy, Deployment

CONCURRENCY = 20
RECORDS = 300
LEASE_SECONDS = 2
SLOW = {"ops": {"seconds": "0.1", "concurrency": str(CONCURRENCY)}}


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[LocalValkey]:
    """A server that the test may pause."""
    (tmp_path / "valkey").mkdir()
    with LocalValkey(tmp_path / "valkey") as server:
        yield server


def publish(deployment: Deployment) -> set[str]:
    ids = {f"r{number}" for number in range(RECORDS)}
    deployment.publish(*({"id": record_id} for record_id in sorted(ids)))
    return ids


def done_by(deployment: Deployment, pid: int) -> int:
    return sum(line["pid"] == pid for line in deployment.done())


def repeated(deployment: Deployment) -> Counter[str]:
    """The deliveries that ended well more than once, by key, and how often more."""
    keys = Counter(line["key"] for line in deployment.done())
    return keys - Counter(dict.fromkeys(keys, 1))


def test_what_a_killed_worker_held_is_delivered_by_another(deploy: Deploy) -> None:
    """Within seconds. What comes twice is what it had in flight, each with its key and the number
    of its attempt (R1, R2)."""
    deployment = deploy(SLOW, lease_seconds=str(LEASE_SECONDS))
    victim, other = deployment.worker().start(), deployment.worker().start()
    ids = publish(deployment)
    eventually(lambda: done_by(deployment, victim.pid) > CONCURRENCY, "both to be at work", 20)
    victim.kill()
    assert set(deployment.await_delivered(ids, seconds=30)) == ids
    eventually(deployment.is_idle, "the lane to be empty")
    assert set(repeated(deployment).values()) <= {1}
    assert len(repeated(deployment)) <= CONCURRENCY
    assert {line["attempt"] for line in deployment.begun()} == {1}
    assert deployment.dead_letters() == []
    assert other.stop() == 0


def test_death_between_the_delivery_and_its_settlement_repeats_it_once(
    deploy: Deploy, valkey: LocalValkey
) -> None:
    """The receiver has it, and nobody else can know. It comes once more, with the same key and as
    the same attempt (R2)."""
    deployment = deploy(
        {"ops": {"seconds": "0.5"}}, queue_url=valkey.url, lease_seconds=str(LEASE_SECONDS)
    )
    worker = deployment.worker().start()
    deployment.publish({"id": "r"})
    eventually(lambda: len(deployment.begun()) == 1, "the attempt to begin", 20)
    # So that it cannot be settled.
    valkey.pause()
    eventually(lambda: len(deployment.done()) == 1, "the receiver to have it", 20)
    worker.kill()
    valkey.resume()
    deployment.worker().start()
    eventually(lambda: len(deployment.done()) == 2, "it to come again", 30)
    eventually(deployment.is_idle, "the lane to be empty")
    first, second = deployment.done()
    assert (first["key"], first["attempt"]) == (second["key"], second["attempt"])
    assert deployment.delivered() == {"r": 2}


def test_a_worker_that_stood_still_harms_nothing(deploy: Deploy) -> None:
    """Longer than its lease. Others deliver what it held; when it goes on it neither takes back
    anything nor settles what is another's (R1)."""
    deployment = deploy(SLOW, lease_seconds=str(LEASE_SECONDS))
    frozen, other = deployment.worker().start(), deployment.worker().start()
    ids = publish(deployment)
    eventually(lambda: done_by(deployment, frozen.pid) > CONCURRENCY, "both to be at work", 20)
    frozen.pause()
    assert set(deployment.await_delivered(ids, seconds=30)) == ids
    eventually(deployment.is_idle, "the lane to be empty")
    before = len(deployment.begun())
    frozen.resume()
    late = {f"late{number}" for number in range(50)}
    deployment.publish(*({"id": record_id} for record_id in sorted(late)))
    deployment.await_delivered(late)
    eventually(deployment.is_idle, "the lane to be empty")
    # What it was in the middle of when it stood still ended after it went on.
    assert len(repeated(deployment)) <= CONCURRENCY
    assert set(repeated(deployment).values()) <= {1}
    assert len(deployment.begun()) == before + len(late)
    assert deployment.dead_letters() == []
    assert (frozen.stop(), other.stop()) == (0, 0)
