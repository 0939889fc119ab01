"""What came of an attempt, and what becomes of its delivery: one match decides every fate."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

from kinto_dispatch import retry
from kinto_dispatch.errors import DispatchError, PluginError, RenderError
from kinto_dispatch.outcome import Delivered, Rejected, Retry
from kinto_dispatch.plugins import Channel
from kinto_dispatch.queue.values import Claim, Dead, DeadKind, Done, Fate, Later


REASON_LENGTH = 1_000
"""Characters kept of a reason: a page of HTML as an error must not fill the queue."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The attempt did not come to an outcome of the channel's: we or the plugin broke.

    ``final`` means that another attempt cannot end differently.
    """

    reason: str
    final: bool = False


@dataclass(frozen=True, slots=True)
class Poison:
    """The process that ran the delivery alone died of it."""

    reason: str


def broken(error: BaseException) -> Broken:
    """What an exception of a hook means: another attempt, except where it cannot end better."""
    if isinstance(error, DispatchError):
        return Broken(str(error), final=isinstance(error, RenderError))
    return Broken(f"{type(error).__name__}: {_text(error)}")


def judge(result: Any, claim: Claim, channel: Channel) -> tuple[Fate, str, str | None]:
    """The fate of a claim by what came of its attempt, with the outcome's name and reason."""
    match result:
        case None:
            return Done(), "delivered", None
        case Delivered(detail):
            return Done(), "delivered", None if detail is None else _told(detail, channel)
        case Retry(reason, after, throttled):
            told = _told(reason, channel)
            fate = _again(claim, channel, "refused", told, after)
            rest = retry.positive(after) if throttled else None
            return replace(fate, rest_seconds=rest or 0.0), "retry", told
        case Rejected(reason, pause):
            told = _told(reason, channel)
            return Dead("refused", told, answered=True, pause=bool(pause)), "rejected", told
        case Poison(reason):
            told = _told(reason, channel)
            return Dead("poison", told), "poison", told
        case Broken(reason, final):
            told = _told(reason, channel)
            fate = Dead("failed", told) if final else _again(claim, channel, "failed", told)
            return fate, "failed", told
        case _:
            told = _told(_misunderstood(result, channel), channel)
            return Dead("failed", told), "failed", told


def _misunderstood(result: Any, channel: Channel) -> PluginError:
    """Success is never guessed from what a hook returns."""
    if inspect.iscoroutine(result):
        result.close()
    found = f"on_event_async returned {type(result).__name__}"
    allowed = "return None, Delivered, Retry or Rejected"
    return PluginError(channel.config.plugin, f"{found}; {allowed}")


def _again(
    claim: Claim, channel: Channel, kind: DeadKind, reason: str, after: float | None = None
) -> Later | Dead:
    config = channel.config
    if retry.exhausted(claim.attempt, config.max_attempts):
        told = f"{reason} (attempt {claim.attempt} of {config.max_attempts})"
        return Dead(kind, told, answered=False)
    delay = retry.next_delay_seconds(claim.attempt, config.retry_delays_seconds, after)
    return Later(delay, claim.attempt + 1)


def _text(value: object) -> str:
    """Whatever a plugin gives as a text, as one that can be written anywhere."""
    try:
        text = str(value)
    except Exception as error:
        text = f"{type(value).__name__} without a text ({type(error).__name__})"
    # Lone surrogates, which JSON allows and UTF-8 does not.
    return text.encode("utf-8", "backslashreplace").decode()


def _told(reason: object, channel: Channel) -> str:
    """What operators may read of a reason: bounded, and without the channel's secrets."""
    return channel.redact(_text(reason))[:REASON_LENGTH] or "no reason given"
