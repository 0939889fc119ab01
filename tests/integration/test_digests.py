"""Many changes become few messages, across real workers, and whatever happens to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.testing.builders import make_change, make_event
from kinto_dispatch.testing.waiting import eventually


if TYPE_CHECKING:
    from tests.conftest import Deploy, Deployment

PROGRAM = str(Path(sys.executable).with_name("kinto-dispatch"))
LEASE_SECONDS = "2"


def publish(deployment: Deployment, count: int) -> set[str]:
    """One event for each of so many records."""
    ids = {f"r{number}" for number in range(count)}
    deployment.publish(*({"id": record_id} for record_id in sorted(ids)))
    return ids


def publish_versions(deployment: Deployment, first: int, last: int) -> None:
    """Events ``v001``, ``v002``... about the same record, as Kinto puts them into the log."""
    events = [
        make_event(id=f"v{number:03}", changes=(make_change(object_id="r"),))
        for number in range(first, last + 1)
    ]
    deployment.with_queue(lambda queue: queue.append([(one.id, one.encode()) for one in events]))


def keys(lines: list[dict[str, Any]]) -> list[str]:
    return [line["key"] for line in lines]


def outcomes(deployment: Deployment) -> Counter[str]:
    return Counter(record["outcome"] for record in deployment.attempts())


def test_an_import_is_one_message(deploy: Deploy) -> None:
    """A hundred records in four batches, which two workers route: everything is told once, in one
    message, and each event says where it went."""
    deployment = deploy({"ops": {"digest_seconds": "1"}})
    deployment.kinto.start()
    deployment.make_collections()
    ids = deployment.post_all(100)
    for _ in range(2):
        deployment.worker().start(wait=False)
    assert set(deployment.await_delivered(ids).values()) == {1}
    # The bucket, its four collections and the records were made before anybody collected.
    (message,) = deployment.done()
    assert len(message["ids"]) == 105
    assert message["key"].endswith(":ops:digest")
    eventually(lambda: outcomes(deployment)["delivered"] == 1, "it to be settled")
    assert outcomes(deployment) == {"joined": 9, "delivered": 1}


def test_each_collection_is_told_of_alone(deploy: Deploy) -> None:
    """With ``digest_by``."""
    own = {"digest_seconds": "1", "digest_by": "collection", "resources": "record"}
    deployment = deploy({"ops": own})
    deployment.kinto.start()
    deployment.make_collections()
    ids = deployment.post_all(40, batch=5)
    deployment.worker().start(wait=False)
    assert set(deployment.await_delivered(ids).values()) == {1}
    assert [len(line["ids"]) for line in deployment.done()] == [10] * 4


def test_a_killed_worker_takes_nothing_of_a_digest_along(deploy: Deploy) -> None:
    """What it had collected is the queue's, and another one sends it."""
    deployment = deploy({"ops": {"digest_seconds": "3"}}, lease_seconds=LEASE_SECONDS)
    victim = deployment.worker().start()
    ids = publish(deployment, 60)
    eventually(lambda: deployment.status()[0].collecting == 1, "them to be collected", 20)
    victim.kill()
    assert deployment.begun() == []
    deployment.worker().start(wait=False)
    assert set(deployment.await_delivered(ids).values()) == {1}
    assert len(deployment.done()) == 1


def test_death_in_the_middle_of_a_digest_repeats_it_as_it_was(deploy: Deploy) -> None:
    """With the same key and the same changes, though more has come meanwhile: a receiver can
    recognise it. What came meanwhile follows."""
    own = {"digest_seconds": "0.5", "seconds": "1.5"}
    deployment = deploy({"ops": own}, lease_seconds=LEASE_SECONDS)
    victim = deployment.worker().start()
    first = publish(deployment, 5)
    eventually(lambda: len(deployment.begun()) == 1, "it to begin", 20)
    deployment.publish({"id": "later"})
    victim.kill()
    deployment.worker().start(wait=False)
    deployment.await_delivered(first | {"later"})
    eventually(deployment.is_idle, "the lane to be empty", 20)
    cut_off, again, more = deployment.begun()
    assert (cut_off["key"], cut_off["ids"]) == (again["key"], again["ids"])
    assert set(again["ids"]) == first
    assert more["ids"] == ["later"]
    assert deployment.dead_letters() == []


def test_no_older_version_overtakes_a_newer_one(deploy: Deploy) -> None:
    """What is told of a record is told in its order, by whatever worker, the newest last; the
    versions that are not told of say which one took their place."""
    own = {"collapse": "latest", "seconds": "0.2"}
    deployment = deploy({"ops": own})
    for _ in range(2):
        deployment.worker().start(wait=False)
    for number in range(1, 50, 7):
        publish_versions(deployment, number, number + 6)
    eventually(lambda: "v049:ops:0" in keys(deployment.done()), "the newest to be told", 30)
    eventually(deployment.is_idle, "the lane to be empty")
    told = keys(deployment.done())
    assert told == sorted(told)
    assert len(told) < 49
    skipped = {one["key"] for one in deployment.attempts() if one["outcome"] == "skipped"}
    assert skipped == {f"v{number:03}:ops:0" for number in range(1, 50)} - set(told)


def test_a_receiver_that_was_away_gets_the_latest_only(deploy: Deploy) -> None:
    """What was to be retried makes room for what is newer."""
    own = {"collapse": "latest", "retry_delays_seconds": "1"}
    deployment = deploy({"ops": own})
    worker = deployment.worker().start()
    change = make_change(object_id="r", new={"id": "r", "do": "retry"})
    event = make_event(id="v000", changes=(change,))
    deployment.with_queue(lambda queue: queue.append([(event.id, event.encode())]))
    eventually(lambda: len(deployment.begun()) >= 1, "the first to be tried", 20)
    publish_versions(deployment, 1, 9)
    eventually(lambda: keys(deployment.done()) == ["v009:ops:0"], "the latest to be told", 20)
    eventually(deployment.is_idle, "the lane to be empty")
    assert outcomes(deployment)["skipped"] == 9
    assert worker.stop() == 0


def test_what_became_of_an_event_is_told(deploy: Deploy) -> None:
    """``explain`` follows it into its digest, and so do the dead letters."""
    deployment = deploy({"ops": {"digest_seconds": "1"}})
    first, second = deployment.publish({"id": "a", "do": "reject"}, {"id": "b"})
    deployment.worker().start(wait=False)
    eventually(lambda: len(deployment.dead_letters()) == 1, "it to be refused", 20)
    (letter,) = deployment.dead_letters()
    assert letter.key == f"{second.id}:ops:digest"
    for event in (first, second):
        explained = ask(deployment, "explain", event.id)
        assert explained["event"]["event_id"] == event.id
        (channel,) = explained["channels"]
        states = {one["key"]: one["state"] for one in channel["deliveries"]}
        assert states == {f"{event.id}:ops": "joined", letter.key: "dead"}
        (row,) = ask(deployment, "attempts", "--event", event.id, "--outcome", "joined")
        assert row["reason"] == f"into {letter.key}"
        (shown,) = ask(deployment, "dead", "show", event.id)
        assert [one["id"] for one in shown["event"]] == [first.id, second.id]
    deployment.with_queue(forget_log)
    assert ask(deployment, "explain", first.id)["event"]["event_id"] == first.id


async def forget_log(queue: Queue) -> None:
    """As retention does, once nothing is unrouted."""
    await queue.trim_log(1 << 50, "9999999999999-0", 0)


def ask(deployment: Deployment, *words: str) -> Any:
    """What a command prints as JSON."""
    command = [PROGRAM, *words, "--ini", str(deployment.ini), "--json"]
    path = os.pathsep.join([str(deployment.directory), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
