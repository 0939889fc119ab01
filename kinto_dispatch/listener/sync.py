"""Runs the synchronous channels while the client waits: bounded in time and in threads."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

from kinto_dispatch.capture import Captured
from kinto_dispatch.errors import DispatchError, PluginError
from kinto_dispatch.event import Event
from kinto_dispatch.lines import log_fields
from kinto_dispatch.outcome import Delivered, Rejected, Retry, Veto
from kinto_dispatch.plugins import Channel
from kinto_dispatch.threads import PoolExhausted, ThreadPool


logger = logging.getLogger(__name__)

THREADS = 16
"""Threads of one channel in one process. A web process rarely answers more requests at a time."""

DEFAULT_TIMEOUT_SECONDS = 5.0
"""For a channel without ``timeout_seconds``. A client waits; the worker, where nobody does, takes
30 seconds."""

REASON_LENGTH = 1_000


@dataclass(frozen=True, slots=True)
class Failed:
    """The hook came to no outcome. ``blocks`` says why what else the channel would get from the
    same request is not worth its time; empty where it is."""

    reason: str
    error: BaseException | None = None
    blocks: str = ""


@dataclass(frozen=True, slots=True)
class Aborted:
    """A channel with ``on_failure = abort`` failed, so the write must not happen."""

    channel: str


class SyncChannels:
    """The channels with ``mode = sync``, called one after the other in the order of the ini.

    Each call is made at most once and has its deadline, which counts from the request's arrival
    at the channel: where more requests come at once than a channel has threads, they wait for
    one, in the order in which they came. A hook that hangs is left behind in its thread, and what
    else the channel would get from the same request fails at once; where every thread is held by
    a call that is over its deadline, so does everything, until one of them returns. Whatever one
    channel does, the next is called. Safe to use from many threads; starts none until needed.
    """

    def __init__(self, channels: Sequence[Channel], timeouts: Mapping[str, float]) -> None:
        """``timeouts`` in seconds, by the names of the channels. Failed channels are left out."""
        callers = [
            _Caller(channel, timeouts[channel.name])
            for channel in channels
            if channel.status == "loaded"
        ]
        self._before = [one for one in callers if one.channel.config.phase == "before_commit"]
        self._after = [one for one in callers if one.channel.config.phase == "after_commit"]

    def before_commit(self, events: Sequence[Captured]) -> Veto | Aborted | None:
        """Ask the channels with ``phase = before_commit``; the first refusal ends it."""
        for caller in self._before:
            aborts = caller.channel.config.on_failure == "abort"
            for outcome in caller.call(events):
                if isinstance(outcome, Veto):
                    return outcome
                if aborts and not isinstance(outcome, Delivered):
                    return Aborted(caller.channel.name)
        return None

    def after_commit(self, events: Sequence[Captured]) -> None:
        """Tell the channels with ``phase = after_commit``. Never raises."""
        for caller in self._after:
            for _ in caller.call(events):
                pass


class _Caller:
    """Calls one channel."""

    def __init__(self, channel: Channel, timeout_seconds: float) -> None:
        self.channel = channel
        self._timeout_seconds = timeout_seconds
        self._threads = ThreadPool(channel.name, THREADS)

    def call(self, events: Sequence[Captured]) -> Iterator[Answer]:
        """Call the hook for what the route wants of each event. Yields every answer, logged."""
        blocked = ""
        for captured in events:
            for wanted in self._wanted(captured):
                started = time.monotonic()
                if isinstance(wanted, Failed):
                    answer: Answer = wanted
                elif blocked:
                    answer = Failed(f"not called, since {blocked}")
                else:
                    answer = self._attempt(wanted)
                    blocked = answer.blocks if isinstance(answer, Failed) else ""
                self._log(captured.id, answer, time.monotonic() - started)
                yield answer

    def _wanted(self, captured: Captured) -> Iterator[Event | Failed]:
        """The event, or its parts, as the hook gets it; nothing if no change is wanted."""
        try:
            event = captured.event
            changes = self.channel.route.select(event)
        except DispatchError as error:
            yield Failed(str(error), error)
            return
        if self.channel.config.split_changes:
            yield from (event.only([change]) for change in changes)
        elif changes:
            yield event.only(changes)

    def _attempt(self, event: Event) -> Answer:
        # The hook's log lines carry the id of the request, which is in the context.
        hook = partial(copy_context().run, self.channel.call_sync, event)
        seconds = f"{self._timeout_seconds:g} s (timeout_seconds)"
        try:
            call = self._threads.enqueue(hook)
        except PoolExhausted as error:
            return Failed(_hopeless(error, seconds), error)
        if not self._is_done(call):
            if self._threads.give_up(call):
                return Failed(f"no answer within {seconds}", blocks="the call before it hangs")
            blocks = "there was no thread for the call before it"
            return Failed(self._crowded(seconds), blocks=blocks)
        if raised := call.exception():
            return Failed(f"{type(raised).__name__}: {raised}", raised)
        return self._judge(call.result())

    def _is_done(self, call: Future[Any]) -> bool:
        try:
            wait([call], self._timeout_seconds)
        except BaseException:
            # The server ends the request, or the process: the thread is not free for that.
            self._threads.give_up(call)
            raise
        return call.done()

    def _crowded(self, seconds: str) -> str:
        running, late = self._threads.under_way
        return (
            f"no thread came free within {seconds}: {running} calls are under way (at most "
            f"{THREADS}), {late} of them over their deadline. Make the hook answer sooner, or let "
            "the worker do it (mode = async)"
        )

    def _judge(self, returned: Any) -> Answer:
        match returned:
            case None:
                return Delivered()
            case Delivered() | Retry() | Rejected():
                return returned
            case Veto() if self.channel.config.phase == "before_commit":
                return returned
            case Veto(reason=reason):
                return Failed(f"Veto after the commit, without phase = before_commit: {reason}")
            case _:
                what = f"on_event returned {type(returned).__name__}"
                allowed = "return None, Delivered, Retry, Rejected or Veto"
                return Failed(str(PluginError(self.channel.config.plugin, f"{what}; {allowed}")))

    def _log(self, event_id: str, answer: Answer, seconds: float) -> None:
        """One line for each call, with all its fields; only a failure is a warning."""
        level, outcome, reason = _describe(answer)
        fields = {
            "event_id": event_id,
            "channel": self.channel.name,
            "phase": self.channel.config.phase,
            "outcome": outcome,
            "duration_seconds": round(seconds, 6),
            "reason": self.channel.redact(reason)[:REASON_LENGTH] if reason else None,
        }
        log_fields(logger, level, "sync.attempted", fields)
        if isinstance(answer, Failed) and answer.error and logger.isEnabledFor(logging.DEBUG):
            lines = traceback.format_exception(answer.error)
            logger.debug("%s", self.channel.redact("".join(lines)))


def _hopeless(error: PoolExhausted, seconds: str) -> str:
    if not error.threads:
        return str(error)
    return (
        f"not called: all {error.threads} threads of the channel are held by earlier calls, each "
        f"over its deadline of {seconds}. Give what the hook waits for a time-out of its own; "
        "restart Kinto if they never return"
    )


Answer = Delivered | Retry | Rejected | Veto | Failed


def _describe(answer: Answer) -> tuple[int, str, str | None]:
    match answer:
        case Delivered(detail):
            return logging.INFO, "delivered", detail
        case Veto(status, reason):
            return logging.INFO, "vetoed", f"{status} {reason}"
        case Retry(reason) | Rejected(reason) | Failed(reason):
            # Nobody tries again.
            return logging.WARNING, "failed", reason
