"""The main job: what Kinto has committed arrives, all of it and nothing else. Real processes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

from kinto_dispatch.testing.waiting import eventually


if TYPE_CHECKING:
    from tests.conftest import Deploy, Deployment

RECORDS = "/buckets/b/collections/c0/records"

REFUSING = """
from kinto.core.errors import http_error, raise_invalid
from kinto.core.events import ResourceChanged
from pyramid.httpexceptions import HTTPConflict


def refuse(event):
    for impacted in event.impacted_objects:
        if impacted["new"].get("forbidden"):
            raise_invalid(event.request, name="forbidden", description="not here")


def conflict(request):
    raise http_error(HTTPConflict())


def includeme(config):
    config.add_subscriber(refuse, ResourceChanged)
    config.add_route("conflict", "/conflict")
    config.add_view(conflict, route_name="conflict")
"""


@pytest.fixture(params=["memory", "postgresql"])
def storage(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """Kinto's settings for its storage."""
    if request.param == "memory":
        return {}
    return {"kinto.storage_url": request.getfixturevalue("postgresql_url")}


# Most of it is Kinto's own work: half a minute on two idle cores.
@pytest.mark.timeout(300)
def test_ten_thousand_records_arrive(deploy: Deploy, postgresql_url: str) -> None:
    """Written in batches of 25 by clients side by side, through the outbox and two worker
    processes: what arrives is the set that was written, each once."""
    deployment = deploy(
        {"ops": {"resources": "record"}},
        kinto={"kinto.storage_url": postgresql_url},
        processes=2,
    )
    _write_and_compare(deployment, 10_000, "--processes", "2")


def test_without_an_outbox_two_thousand_records_arrive(deploy: Deploy) -> None:
    """With memory storage the events go to the log after the commit, with the same result."""
    _write_and_compare(deploy({"ops": {"resources": "record"}}), 2_000)


def _write_and_compare(deployment: Deployment, count: int, *arguments: str) -> None:
    deployment.worker(*arguments).start()
    deployment.kinto.start()
    deployment.make_collections()
    started = time.monotonic()
    written = deployment.post_all(count)
    took = time.monotonic() - started
    delivered = deployment.await_delivered(written)
    late = time.monotonic() - started - took
    print(f"{len(written):,} records in {took:.1f} s, all there {late:.1f} s later")
    assert len(written) == count
    assert set(delivered) == written
    assert set(delivered.values()) == {1}
    assert deployment.dead_letters() == []
    assert len({line["key"] for line in deployment.done()}) == count // 25


def test_what_did_not_happen_is_not_announced(deploy: Deploy, storage: Mapping[str, str]) -> None:
    """What a plugin of Kinto refuses, what comes too late, and what a conflict in a batch rolls
    back is told to no channel, neither in the request nor in the worker."""
    deployment = deploy(
        {"ops": {"resources": "record"}, "here": {"resources": "record", "mode": "sync"}},
        kinto={**storage, "kinto.includes": "refusing"},
    )
    (deployment.directory / "refusing.py").write_text(REFUSING)
    with deployment.worker() as worker:
        deployment.kinto.start()
        deployment.make_collections()
        statuses = [
            deployment.put("first").status_code,
            deployment.put("refused", forbidden=True).status_code,
            deployment.request(
                "PUT", f"{RECORDS}/first", json={"data": {}}, headers={"If-None-Match": "*"}
            ).status_code,
            *_batch(deployment, "rolled-back", "/conflict", "after"),
            *_batch(deployment, "kept", "refused"),
            deployment.put("last").status_code,
        ]
        assert statuses == [201, 400, 412, 201, 409, 201, 400, 201]
        deployment.await_delivered(["first", "after", "last"])
        eventually(deployment.is_idle, "the lane to be empty")
        assert worker.stop() == 0
    happened = {"first": 1, "after": 1, "last": 1}
    assert deployment.delivered("ops") == happened
    assert deployment.delivered("here") == happened


def _batch(deployment: Deployment, *names: str) -> list[int]:
    """The statuses of a batch; one alone if it was refused as a whole."""
    parts = [
        {"method": "PUT", "path": name}
        if name.startswith("/")
        else {
            "method": "PUT",
            "path": f"{RECORDS}/{name}",
            "body": {"data": {"forbidden": name == "refused"}},
        }
        for name in names
    ]
    answer = deployment.request("POST", "/batch", json={"requests": parts})
    if answer.status_code != 200:
        return [answer.status_code]
    return [part["status"] for part in answer.json()["responses"]]
