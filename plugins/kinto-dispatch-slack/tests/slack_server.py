"""A server that answers ``chat.postMessage`` as Slack does, and keeps what it shows."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import Any

from kinto_dispatch.testing import LocalHttp, ReceivedRequest


@dataclass(frozen=True)
class Shown:
    """A message in a conversation. ``thread`` is the message that it replies to."""

    conversation: str
    ts: str
    thread: str | None
    text: str
    body: dict[str, Any]


class SlackServer(LocalHttp):
    """Slack, for one workspace.

    A reply to a message that is not there stands in the conversation, without an error. With
    ``refusing`` an error is answered to every reply to that message. ``next_answers`` are given
    before anything else: a status, a body and headers each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Shown] = []
        self.refusing: dict[str, str] = {}
        self.next_answers: list[tuple[int, bytes, dict[str, str]]] = []
        self._deleted: set[str] = set()
        self._lock = threading.Lock()

    @property
    def options(self) -> dict[str, str]:
        """The settings that lead here."""
        return {
            "token": "xoxb-1",
            "conversation": "C1",
            "api_url": f"{self.url}/api/",
            "allow_networks": "127.0.0.0/8",
        }

    @property
    def threads(self) -> list[str | None]:
        """What each message replies to, in order."""
        return [message.thread for message in self.shown]

    def delete(self, ts: str) -> None:
        """Somebody deletes this message."""
        self._deleted.add(ts)

    def respond(self, handler: Any, request: ReceivedRequest) -> None:
        """As ``LocalHttp.respond``."""
        with self._lock:
            if self.next_answers:
                self.answer(*self.next_answers.pop(0))
            else:
                self.answer(200, json.dumps(self._post(json.loads(request.body))).encode())
            super().respond(handler, request)

    def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        conversation, thread = body["channel"], body.get("thread_ts")
        if thread in self.refusing:
            return {"ok": False, "error": self.refusing[thread]}
        there = {one.ts for one in self.shown if one.conversation == conversation}
        thread = thread if thread in there - self._deleted else None
        ts = f"1503435956.{len(self.shown):06}"
        self.shown.append(Shown(conversation, ts, thread, body["text"], body))
        message = {"text": body["text"], "type": "message", "ts": ts}
        message |= {"thread_ts": thread} if thread else {}
        return {"ok": True, "channel": conversation, "ts": ts, "message": message}
