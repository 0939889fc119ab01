"""One delivery, run once: resolve, call, judge, measure, report."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from kinto_dispatch import retry
from kinto_dispatch.delivery import Delivery
from kinto_dispatch.errors import DispatchError, PluginError, RenderError, UndecodableEvent
from kinto_dispatch.event import Event
from kinto_dispatch.outcome import Delivered, Rejected, Retry
from kinto_dispatch.plugins import Channel
from kinto_dispatch.queue.protocol import Claim, Dead, DeadKind, Done, Fate, Later, Settlement
from kinto_dispatch.threads import PoolExhausted, ThreadPool


logger = logging.getLogger(__name__)

REASON_LENGTH = 1_000
"""Characters kept of a reason: a page of HTML as an error must not fill the queue."""


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is kept of every attempt. ``at`` is seconds since the epoch, when it began."""

    event_id: str
    key: str
    channel: str
    attempt: int
    outcome: str
    at: float
    duration_seconds: float
    reason: str | None = None
    replay: bool = False


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


class Attempter:
    """Runs deliveries of one channel; safe to use from many tasks of one event loop."""

    def __init__(self, channel: Channel, *, clock: Callable[[], float] = time.time) -> None:
        self._channel = channel
        self._clock = clock
        self._is_coroutine = channel.is_coroutine
        self._threads = ThreadPool(channel.name, channel.config.concurrency)

    async def attempt(self, claim: Claim) -> Settlement:
        """Run the delivery of this claim once. Never raises: whatever happens has a fate."""
        started = self._clock()
        try:
            event = Event.decode(claim.body)
        except UndecodableEvent as error:
            return self._report(claim, _event_id(claim), Broken(str(error), final=True), started)
        result = await self._call(event, claim)
        return self._report(claim, event.id, result, started)

    def give_up(self, claim: Claim, reason: str) -> Settlement:
        """The settlement of an attempt that was run elsewhere and brought no outcome."""
        return self._report(claim, _event_id(claim), Broken(reason), self._clock())

    def condemn(self, claim: Claim, reason: str) -> Settlement:
        """The settlement of a delivery that kills the process that runs it."""
        return self._report(claim, _event_id(claim), Poison(reason), self._clock())

    async def _call(self, event: Event, claim: Claim) -> Any:
        """What the hook returned, or ``Broken``."""
        seconds = self._channel.config.timeout_seconds
        delivery = Delivery(claim.key, claim.attempt, claim.replay, seconds)
        try:
            async with asyncio.timeout(seconds) as deadline:
                return await self._run_hook(event, delivery)
        except TimeoutError as error:
            if deadline.expired():
                return Broken(f"no answer within {seconds:g} s (timeout_seconds)")
            return Broken(_describe(error))
        except RenderError as error:
            return Broken(str(error), final=True)
        except PoolExhausted as error:
            return Broken(f"{error}; earlier attempts hang")
        except asyncio.CancelledError:
            if _is_being_cancelled():
                raise
            return Broken("the hook was cancelled from within")
        except (Exception, SystemExit) as error:
            return Broken(_describe(error))

    async def _run_hook(self, event: Event, delivery: Delivery) -> Any:
        if self._is_coroutine:
            return await self._channel.call_async(event, delivery)
        call = self._threads.submit(lambda: self._channel.call_async(event, delivery))
        return await asyncio.wrap_future(call)

    def _report(self, claim: Claim, event_id: str, result: Any, started: float) -> Settlement:
        fate, outcome, reason = judge(result, claim, self._channel)
        record = AttemptRecord(
            event_id=event_id,
            key=claim.key,
            channel=claim.lane,
            attempt=claim.attempt,
            outcome=outcome,
            at=started,
            duration_seconds=round(self._clock() - started, 6),
            reason=reason,
            replay=claim.replay,
        )
        _log(record, fate)
        return Settlement(claim, fate, _encode(record))


def judge(result: Any, claim: Claim, channel: Channel) -> tuple[Fate, str, str | None]:
    """The fate of a claim by what came of its attempt, with the outcome's name and reason."""
    match result:
        case None:
            return Done(), "delivered", None
        case Delivered(detail):
            return Done(), "delivered", _told(detail, channel)
        case Retry(reason, after):
            return (
                _again(claim, channel, "refused", reason, after),
                "retry",
                _told(reason, channel),
            )
        case Rejected(reason):
            return (
                Dead("refused", _told(reason, channel) or "refused"),
                "rejected",
                _told(reason, channel),
            )
        case Poison(reason):
            return (
                Dead("poison", _told(reason, channel) or "poison"),
                "poison",
                _told(reason, channel),
            )
        case Broken(reason, final=True):
            return (
                Dead("failed", _told(reason, channel) or "failed"),
                "failed",
                _told(reason, channel),
            )
        case Broken(reason):
            return _again(claim, channel, "failed", reason, None), "failed", _told(reason, channel)
        case _:
            error = PluginError(
                channel.config.plugin,
                f"on_event_async returned {type(result).__name__}; "
                "return None, Delivered, Retry or Rejected",
            )
            return Dead("failed", str(error)), "failed", str(error)


def _again(
    claim: Claim, channel: Channel, kind: DeadKind, reason: str, after: float | None
) -> Fate:
    config = channel.config
    if retry.exhausted(claim.attempt, config.max_attempts):
        return Dead(
            kind, f"{_told(reason, channel)} (attempt {claim.attempt} of {config.max_attempts})"
        )
    delay = retry.next_delay_seconds(claim.attempt, config.retry_delays_seconds, after)
    return Later(delay, claim.attempt + 1)


def _event_id(claim: Claim) -> str:
    """The event's id without decoding the event, which may be what kills: keys begin with it."""
    return claim.key.partition(":")[0]


def _describe(error: BaseException) -> str:
    return str(error) if isinstance(error, DispatchError) else f"{type(error).__name__}: {error}"


def _told(reason: str | None, channel: Channel) -> str | None:
    """What operators may read of a reason: bounded, and without the channel's secrets."""
    return None if reason is None else channel.redact(str(reason))[:REASON_LENGTH]


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _log(record: AttemptRecord, fate: Fate) -> None:
    """One line per attempt with all its fields; only what needs a person is a warning."""
    level = {Done: logging.DEBUG, Later: logging.INFO, Dead: logging.WARNING}[type(fate)]
    if not logger.isEnabledFor(level):
        return
    fields = msgspec.structs.asdict(record)
    if isinstance(fate, Later):
        fields["retry_in_seconds"] = round(fate.delay_seconds, 3)
    if isinstance(fate, Dead):
        fields["dead_letter"] = fate.kind
    text = " ".join(f"{name}={value!r}" for name, value in fields.items())
    logger.log(level, "delivery.attempted %s", text, extra=fields)


_encode = msgspec.json.Encoder().encode
