"""What a receiver of webhooks answers, and what becomes of it: a real worker, over HTTP."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest
from standardwebhooks import Webhook

from kinto_dispatch.testing import LocalHttp, ReceivedRequest
from kinto_dispatch.testing.waiting import eventually


if TYPE_CHECKING:
    from tests.conftest import Deploy

SECRET = "whsec_" + base64.b64encode(b"shop" * 8).decode()
SECONDS = 60.0
"""Nothing takes as long; a machine that has much to do may."""

FirstAnswer = Callable[[], dict[str, Any]]


class Hesitant(LocalHttp):
    """Answers the first request as told, and takes all others."""

    def __init__(self, first: FirstAnswer) -> None:
        super().__init__()
        self._first = first

    def respond(self, handler: Any, request: ReceivedRequest) -> None:
        self.answer(**(self._first() if not self.requests else {}))
        super().respond(handler, request)


def in_seconds() -> dict[str, Any]:
    """Come again in two seconds."""
    return {"status": 503, "headers": {"Retry-After": "2"}}


def at_a_date() -> dict[str, Any]:
    """Come again at a time, which is two to three seconds from now."""
    until = datetime.now(UTC) + timedelta(seconds=3)
    return {"status": 429, "headers": {"Retry-After": format_datetime(until, usegmt=True)}}


def too_late() -> dict[str, Any]:
    """Take it, but say so when nobody waits any more."""
    return {"status": 200, "delay_seconds": 9.0}


@pytest.fixture
def serve() -> Iterator[Callable[[FirstAnswer], Hesitant]]:
    """Starts receivers, which end with the test."""
    with ExitStack() as stack:
        yield lambda first: stack.enter_context(Hesitant(first))


def webhook(receiver: LocalHttp, **settings: str) -> dict[str, str]:
    """A channel that posts there."""
    own = {"plugin": "webhook", "url": f"{receiver.url}/hook", "secrets": SECRET}
    return {**own, "allow_networks": "127.0.0.0/8", **settings}


def test_what_is_put_off_comes_again_with_the_same_id(
    deploy: Deploy, serve: Callable[[FirstAnswer], Hesitant]
) -> None:
    """After 503 and 429 not before Retry-After, in either of its forms; and after 2xx that came
    after the time-out. Each with a signature of its own (B11) (R20)."""
    answers = {"seconds": in_seconds, "date": at_a_date, "late": too_late}
    receivers = {name: serve(first) for name, first in answers.items()}
    channels = {
        name: webhook(
            one, retry_delays_seconds="0.1", timeout_seconds="4" if name == "late" else "30"
        )
        for name, one in receivers.items()
    }
    deployment = deploy(channels)
    with deployment.worker():
        deployment.publish({"id": "first"})
        for name, receiver in receivers.items():
            eventually(
                lambda r=receiver: len(r.requests) >= 2, f"{name} to be asked again", SECONDS
            )
        eventually(deployment.is_idle, "all of it to be settled", SECONDS)
    for name, receiver in receivers.items():
        first, second = receiver.requests[:2]
        assert first.body == second.body
        assert first.headers["webhook-id"] == second.headers["webhook-id"], name
        assert int(first.headers["webhook-timestamp"]) < int(second.headers["webhook-timestamp"])
        assert second.at - first.at >= 1.9, name
        for request in receiver.requests:
            Webhook(SECRET).verify(request.body, dict(request.headers))
        outcomes = [one["outcome"] for one in deployment.attempts(name)]
        # The deadline of the attempt is the client's and the worker's; either may be first.
        assert outcomes[0] in (["retry", "failed"] if name == "late" else ["retry"]), name
        assert outcomes[-1] == "delivered", name


def test_a_redirect_is_a_dead_letter(deploy: Deploy, http_sink: LocalHttp) -> None:
    """And nobody goes where it leads (B5) (R20)."""
    with LocalHttp() as elsewhere:
        http_sink.answer(307, headers={"Location": f"{elsewhere.url}/hook"})
        deployment = deploy({"ops": webhook(http_sink)})
        deployment.publish({"id": "first"})
        deployment.burst()
        (letter,) = deployment.dead_letters()
        assert letter.kind == "refused"
        assert letter.reason.startswith("answered 307, a redirect")
        assert elsewhere.requests == []
    assert len(http_sink.requests) == 1


def test_gone_pauses_the_channel(deploy: Deploy, http_sink: LocalHttp) -> None:
    """410 is one request, one dead letter and one warning, also for the workers that start later;
    the rest waits, and is sent once somebody resumes the channel (R20)."""
    http_sink.answer(410, b"no such shop")
    deployment = deploy({"ops": webhook(http_sink, concurrency="1")})
    deployment.publish(*({"id": f"r{n}"} for n in range(20)))

    def lane() -> tuple[bool, int, int, int]:
        (status,) = deployment.status()
        return status.paused, status.waiting, status.in_flight, status.dead

    with deployment.worker() as worker:
        eventually(lambda: lane() == (True, 19, 0, 1), "the lane to be paused", SECONDS)
        # Killed, it might just hold one that it is about to give back.
        assert worker.stop() == 0
    said = "reason='410 no such shop; the receiver wants no more'"
    assert worker.said.count("channel.paused") == 1
    assert (
        f"channel.paused channel=ops {said}: go on with: kinto-dispatch resume ops" in worker.said
    )
    assert [one.kind for one in deployment.dead_letters()] == ["refused"]

    deployment.burst()
    assert lane() == (True, 19, 0, 1)
    assert len(http_sink.requests) == 1

    http_sink.answer()
    deployment.with_queue(lambda queue: queue.pause("ops", False))
    deployment.burst()
    assert lane() == (False, 0, 0, 1)
    assert len({one.headers["webhook-id"] for one in http_sink.requests}) == 20
