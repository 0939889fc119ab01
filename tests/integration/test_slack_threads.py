"""A record's thread in Slack holds over workers and restarts. Real processes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from kinto_dispatch.testing import LocalHttp, ReceivedRequest
from kinto_dispatch.testing.waiting import eventually


if TYPE_CHECKING:
    from tests.conftest import Deploy


class Conversation(LocalHttp):
    """Answers ``chat.postMessage``; ``threads`` is what each message replies to, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[str | None] = []
        self._lock = threading.Lock()

    def respond(self, handler: Any, request: ReceivedRequest) -> None:
        with self._lock:
            body = json.loads(request.body)
            ts, thread = f"1503435956.{len(self.threads):06}", body.get("thread_ts")
            message = {"ts": ts, **({"thread_ts": thread} if thread else {})}
            self.answer(200, json.dumps({"ok": True, "ts": ts, "message": message}).encode())
            self.threads.append(thread)
            super().respond(handler, request)


@pytest.fixture
def conversation() -> Iterator[Conversation]:
    """Slack, where nothing has been said yet."""
    with Conversation() as server:
        yield server


def test_all_workers_write_into_one_thread(deploy: Deploy, conversation: Conversation) -> None:
    """Two processes side by side, and those that are started after them, reply to the message
    that the first of them sent."""
    deployment = deploy(
        {
            "ops": {
                "plugin": "slack",
                "token": "xoxb-1",
                "conversation": "C1",
                "api_url": f"{conversation.url}/api/",
                "allow_networks": "127.0.0.0/8",
            }
        }
    )

    def tell(count: int) -> None:
        expected = len(conversation.threads) + count
        deployment.publish(*({"id": "first", "title": str(n)} for n in range(count)))
        eventually(lambda: len(conversation.threads) == expected, "the messages", 60)
        eventually(deployment.is_idle, "all of it to be settled", 60)

    worker = deployment.worker("--processes", "2").start()
    tell(1)
    tell(20)
    worker.stop()
    with deployment.worker():
        tell(1)
    assert conversation.threads == [None, *["1503435956.000000"] * 21]
