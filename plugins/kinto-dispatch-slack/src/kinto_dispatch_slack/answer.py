"""What an answer of Slack means. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kinto_dispatch import Delivered, HttpAnswer, Outcome, Rejected, Retry


LONGEST_ANSWER = 300
"""Characters of an answer that go into an outcome."""

PASSING = re.compile(
    r"(?:fatal|internal)_error|message_limit_exceeded|org_login_required|rate_?limited"
    r"|request_timeout|service_unavailable|team_added_to_org"
)
"""Errors of the API that pass by themselves."""

THREADLESS = re.compile(
    r"cannot_reply_to_message|invalid_thread_ts|(?:message|thread)_not_found"
    r"|restricted_action_(?:thread_locked|non_threadable_channel)"
)
"""Errors of the API where a message may stand, but not in that thread."""

_NO_TOKEN = ["account_inactive", "invalid_auth", "not_authed", "token_expired", "token_revoked"]
ADVICE = {
    **dict.fromkeys(_NO_TOKEN, "Slack does not know the token (any more); set another one"),
    "channel_is_archived": "unarchive the conversation, or set another webhook_url",
    "channel_not_found": "set conversation to an id, as in C024BE91L, of one that the bot sees",
    "is_archived": "unarchive the conversation, or set another one",
    "missing_scope": "give the bot the scope chat:write",
    "no_service": "the webhook was taken away; make another one",
    "not_in_channel": "invite the bot to the conversation",
}
"""What to do about an error, of the API or of a webhook."""

_MESSAGE = re.compile(r',\s*"message":.*', re.DOTALL)
_TIMESTAMP = re.compile(r"[0-9]{1,20}\.[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class Posted:
    """What came of a message. ``thread`` is the timestamp of the message that it replies to, or
    its own; ``None`` where it does not stand in a conversation, as far as we know."""

    outcome: Outcome
    thread: str | None = None
    is_threadless: bool = False


def judge(answer: HttpAnswer, redact: Callable[[str], str]) -> Posted:
    """For what a webhook answered."""
    outcome = answer.outcome(redact)
    if isinstance(outcome, Rejected):
        outcome = Rejected(_advise(outcome.reason))
    return Posted(outcome)


def judge_bot(answer: HttpAnswer, redact: Callable[[str], str], thread: str | None) -> Posted:
    """For what the API answered to a message for this ``thread``. It says 200 to everything that
    it understands."""
    if answer.status != 200:
        return judge(answer, redact)
    if answer.text is None:
        return Posted(Retry("an answer without its end"))
    try:
        said = _read(answer.text)
        error = None if said["ok"] is True else redact(str(said["error"]))[:LONGEST_ANSWER]
    except (ValueError, TypeError, KeyError, RecursionError):
        return Posted(Retry("an answer that is not from Slack; see api_url"))
    if error is None:
        return _posted(said, thread)
    if PASSING.fullmatch(error):
        return Posted(Retry(error, answer.retry_after, throttled=True))
    if thread and THREADLESS.fullmatch(error):
        return Posted(Retry(error), is_threadless=True)
    return Posted(Rejected(_advise(error)))


def _read(text: str) -> Any:
    """What it says. It repeats the message, so of a long one only the beginning is there."""
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(_MESSAGE.sub("}", text))


def _posted(said: Mapping[str, Any], thread: Any) -> Posted:
    """A reply to a message that is gone is no error for Slack: it stands in the conversation, and
    only the missing ``thread_ts`` tells."""
    at, message = said.get("ts"), said.get("message")
    if isinstance(message, dict):
        thread = message.get("thread_ts")
    shown, where = f"message {at}" + (f" in thread {thread}" if thread else ""), str(thread or at)
    known = where if _TIMESTAMP.fullmatch(where) else None
    return Posted(Delivered(shown[:LONGEST_ANSWER]), known)


def _advise(error: str) -> str:
    """What Slack said, with what to do about it where we know."""
    advice = ADVICE.get(error.rpartition(" ")[2])
    return f"{error}: {advice}" if advice else error
