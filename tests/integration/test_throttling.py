"""A destination that says how long it wants nothing is left alone for as long. Real processes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from kinto_dispatch.testing import LocalHttp
from kinto_dispatch.testing.waiting import eventually


if TYPE_CHECKING:
    from tests.conftest import Deploy

RECORDS = 300
SLOTS = 5
REST = 3.0
SLACK = {"plugin": "slack", "webhook_url": "{url}/services/T/B/x"}
BOT = {"plugin": "slack", "token": "xoxb-1", "conversation": "C1", "api_url": "{url}/api/"}
WEBHOOK = {"plugin": "webhook", "url": "{url}/hook"}
SECRET = {"secrets": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDwjS5oZ0v4JY="}
RATE_LIMITED = json.dumps({"ok": False, "error": "ratelimited"}).encode()


@pytest.mark.parametrize(
    ("channel", "status", "answer"),
    [
        (SLACK, 429, b"ratelimited"),
        (BOT, 200, RATE_LIMITED),
        (WEBHOOK | SECRET, 503, b"in maintenance"),
    ],
    ids=["webhook of Slack", "bot of Slack", "webhook"],
)
def test_a_throttled_lane_rests_as_long_as_it_was_asked_to(
    deploy: Deploy, http_sink: LocalHttp, channel: dict[str, str], status: int, answer: bytes
) -> None:
    """Not only the delivery that was told: of hundreds that wait, those that were under way are
    sent, and after the time one, by which the lane finds out whether it may go on (R20)."""
    http_sink.answer(status, answer, {"Retry-After": f"{REST:g}"})
    options = {name: value.replace("{url}", http_sink.url) for name, value in channel.items()}
    options |= {"allow_networks": "127.0.0.0/8", "concurrency": str(SLOTS)}
    deployment = deploy({"ops": options})
    deployment.publish(*({"id": f"r{number}"} for number in range(RECORDS)))
    requests = http_sink.requests

    def breaker_is(state: str) -> bool:
        (lane,) = deployment.status()
        return lane.breaker == state

    with deployment.worker("--processes", "2"):
        eventually(lambda: breaker_is("throttled"), "the lane to rest", 60)
        first = requests[0].at
        eventually(lambda: requests[-1].at >= first + REST, "the probe", 30)
        eventually(lambda: breaker_is("throttled"), "it to rest again", 30)
        told = [one.at - first for one in requests]
        assert len(told) <= 1 + 10 * SLOTS
        assert [at for at in told if 1 < at < REST] == []
        assert len([at for at in told if at >= REST]) <= 2
        http_sink.answer(200, b'{"ok": true, "ts": "1.1"}')
        eventually(deployment.is_idle, "all of it to be delivered", 90)
    assert breaker_is("closed")
    assert deployment.dead_letters() == []
