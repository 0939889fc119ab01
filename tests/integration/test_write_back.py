"""A receiver that writes, in answer, the very record that it was told of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import requests

from kinto_dispatch.testing.waiting import eventually


if TYPE_CHECKING:
    from tests.conftest import Deploy, Deployment

COLLECTION = "/buckets/b/collections/c"
RECORD = f"{COLLECTION}/records/r"
BOT = ("bot", "s3cr3t")


def as_bot(kinto: Deployment, method: str, path: str, **options: Any) -> Any:
    """What Kinto answers to the receiver."""
    answer = requests.request(method, f"{kinto.kinto.url}{path}", auth=BOT, timeout=30, **options)
    answer.raise_for_status()
    return answer.json()


def waiting(kinto: Deployment) -> dict[str, int]:
    """How many deliveries are in each lane, claimed or not."""
    return {lane.channel: lane.waiting + lane.in_flight for lane in kinto.status()}


def test_a_hook_that_is_written_back_to_does_not_loop(deploy: Deploy, queue_url: str) -> None:
    """One that leaves out the user that its receiver writes as is told of what others write, and
    of nothing else. One that does not goes round, no faster than its channel's ``rate_limit``,
    and holds up no other channel (B30)."""
    open_channel = {"subscribable": "true"}
    kinto = deploy(
        {"careful": open_channel, "careless": {**open_channel, "rate_limit": "1/hour"}},
        queue_url=queue_url,
    )
    kinto.kinto.start()
    kinto.worker().start()
    bot = as_bot(kinto, "GET", "/")["user"]["id"]
    permissions = {"write": ["system.Authenticated"]}
    kinto.request("PUT", "/buckets/b", json={"permissions": permissions}).raise_for_status()
    hooks = [
        {"channel": "careful", "resources": ["record"], "users": [f"!{bot}"]},
        {"channel": "careless", "resources": ["record"]},
    ]
    data = {"kinto-dispatch": {"hooks": hooks}}
    kinto.request("PUT", COLLECTION, json={"data": data}).raise_for_status()

    kinto.request("PUT", RECORD).raise_for_status()
    for channel in ("careful", "careless"):
        kinto.await_delivered({"r"}, channel)
        as_bot(kinto, "PATCH", RECORD, json={"data": {"seen_by": channel}})
    eventually(lambda: waiting(kinto)["careless"] == 2, "the second round to wait for its turn")

    kinto.request("PUT", f"{COLLECTION}/records/s").raise_for_status()
    assert kinto.await_delivered({"s"}, "careful") == {"r": 1, "s": 1}
    eventually(lambda: waiting(kinto) == {"careful": 0, "careless": 3}, "the lanes to be at rest")
    assert kinto.delivered("careful") == {"r": 1, "s": 1}
    assert kinto.delivered("careless") == {"r": 1}
