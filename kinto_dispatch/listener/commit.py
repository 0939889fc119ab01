"""What one transaction has collected, and the hooks that act on it before and after its commit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import transaction
from kinto.core.storage.exceptions import BackendError

from kinto_dispatch.capture import (
    Captured,
    Hooks,
    capture,
    note_request,
    root_request,
    void_collected,
)
from kinto_dispatch.event import CHANGED


logger = logging.getLogger(__name__)

COMMITTED = "kinto_dispatch.committed"
"""In ``request.bound_data``: what is told now comes too late."""

BeforeCommit = Callable[[Any, Sequence[Captured]], None]
AfterCommit = Callable[[Sequence[Captured]], None]


@dataclass
class Collected:
    """The events of one transaction. ``request`` is the one that came in over HTTP."""

    request: Any
    pending: list[Captured] = field(default_factory=list)
    """Captured, and not yet passed to ``before_commit``."""
    passed: list[Captured] = field(default_factory=list)
    """Not refused: for ``after_commit``, if the commit succeeds."""
    seen: dict[int, Any] = field(default_factory=dict)
    """Kinto's events by identity, kept alive so that no other gets the same one."""


class Commits:
    """Captures what happens in a transaction and hands it on, once.

    ``before_commit`` gets the request and its events inside the transaction, after all
    subscribers have run. If it raises, the transaction is rolled back, its connection given back,
    and the client gets the error. ``after_commit`` gets the events once the commit succeeded,
    before the response is sent; it must not raise. A transaction that ends otherwise takes its
    events along, whether or not Kinto's storage takes part in it.
    """

    def __init__(
        self,
        before_commit: BeforeCommit,
        after_commit: AfterCommit,
        hooks: Hooks | None = None,
        classes: Mapping[type, str] | None = None,
    ) -> None:
        """``classes`` of other plugins' events, with the names that they are told under."""
        self._before_commit = before_commit
        self._after_commit = after_commit
        self._hooks = hooks
        self._classes = classes or {}

    def on_new_request(self, new_request: Any) -> None:
        """Subscribe to Pyramid's ``NewRequest``, before Kinto does.

        Each sub-request of a batch may begin a new transaction. And what Kinto's own after-commit
        hook calls may begin one, which forgets the hooks behind it: so ours goes first.
        """
        note_request(new_request.request)
        self._collected(transaction.get(), new_request.request)

    def collect(self, kinto_event: Any) -> None:
        """Subscribe to ``ResourceChanged`` or ``ResourceRead``, any number of times.

        Also to events of other plugins, which may come when what was captured before has been
        passed to ``before_commit`` already: a hook that is added while such hooks run is run, too.
        """
        current = transaction.get()
        collected = self._collected(current, kinto_event.request)
        if id(kinto_event) in collected.seen:
            return
        collected.seen[id(kinto_event)] = kinto_event
        captured = capture(kinto_event, self._hooks, self._name_of(kinto_event))
        if captured is None:
            return
        if not collected.pending:
            current.addBeforeCommitHook(self._on_commit, (collected,))
        collected.pending.append(captured)

    def collect_from_plugin(self, plugin_event: Any) -> None:
        """As ``collect``, of an event that we know nothing about but its class: whatever it is
        made of, the write goes on."""
        name = self._name_of(plugin_event)
        try:
            if not plugin_event.request.bound_data.get(COMMITTED):
                self.collect(plugin_event)
                return
            reason = "it came after the commit, too late to be kept together with what was written"
        except BackendError:
            # The storage failed, and with it the transaction: to go on would be to lose the write.
            raise
        except Exception as error:
            reason = f"it cannot be read ({type(error).__name__}: {error})"
        logger.error("%s is not announced: %s", name, reason)

    def _name_of(self, kinto_event: Any) -> str:
        if not self._classes:
            return CHANGED
        bases = type(kinto_event).__mro__
        return next((self._classes[one] for one in bases if one in self._classes), CHANGED)

    def _collected(self, current: Any, request: Any) -> Collected:
        """What this transaction has collected; hooks into it when asked for the first time."""
        try:
            collected: Collected = current.data(self)
        except KeyError:
            collected = Collected(root_request(request))
            current.set_data(self, collected)
            current.addAfterCommitHook(self._on_committed, (collected,))
            # Before, not after: hooks after an abort would abort every resource again.
            current.addBeforeAbortHook(void_collected, (collected.request,))
        return collected

    def _on_commit(self, collected: Collected) -> None:
        events, collected.pending = collected.pending, []
        try:
            self._before_commit(collected.request, events)
        except BaseException:
            # An error from here leaves the transaction open, and its connection with it.
            transaction.abort()
            # Rendering the error may read the storage again, in a new transaction.
            collected.request.add_finished_callback(_abort_what_is_left)
            raise
        collected.passed += events

    def _on_committed(self, succeeded: bool, collected: Collected) -> None:
        if succeeded:
            collected.request.bound_data[COMMITTED] = True
        if succeeded and collected.passed:
            self._after_commit(collected.passed)


def _abort_what_is_left(request: Any) -> None:
    transaction.abort()
