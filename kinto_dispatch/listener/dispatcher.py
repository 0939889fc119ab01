"""What Kinto calls with each of its events, and what becomes of them around the commit."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from kinto_dispatch.capture import Captured, Hooks
from kinto_dispatch.errors import EventTooLarge, OutboxUnavailable
from kinto_dispatch.listener.commit import Commits
from kinto_dispatch.listener.direct import DirectAppender
from kinto_dispatch.listener.refusal import too_large, unavailable, vetoed
from kinto_dispatch.listener.sync import Aborted, SyncChannels
from kinto_dispatch.outbox.protocol import Outbox
from kinto_dispatch.outcome import Veto
from kinto_dispatch.plugins import Configuration
from kinto_dispatch.queue import open_log
from kinto_dispatch.subscriptions import Openings


logger = logging.getLogger(__name__)


class Dispatcher:
    """The listener of all aliases: Kinto calls it with each resource event.

    ``configuration`` is what it was made from. Making it connects to nothing and starts nothing.
    """

    def __init__(
        self,
        configuration: Configuration,
        timeouts: Mapping[str, float],
        outbox: Outbox | None,
        classes: Mapping[type, str] | None = None,
    ) -> None:
        """``classes`` of other plugins' events, to subscribe ``on_plugin_event`` to, with the
        names that they are told under."""
        self.configuration = configuration
        self._sync = SyncChannels(configuration.sync_channels, timeouts)
        lanes = tuple(channel.name for channel in configuration.async_channels)
        self.log = open_log(configuration.settings, lanes) if lanes else None
        self._outbox = outbox if lanes else None
        self.direct = DirectAppender(self.log) if self.log and outbox is None else None
        openings = Openings.of(configuration.settings)
        hooks = Hooks(openings) if openings.plugins else None
        self._commits = Commits(self._before_commit, self._after_commit, hooks, classes)
        self.on_new_request = self._commits.on_new_request
        self.on_plugin_event = self._commits.collect_from_plugin

    def __call__(self, event: Any) -> None:
        """Capture what happened; it is told when its transaction commits. Two aliases may pass on
        the same event: it is captured once."""
        self._commits.collect(event)

    def _before_commit(self, request: Any, events: Sequence[Captured]) -> None:
        match self._sync.before_commit(events):
            case Veto() as veto:
                raise vetoed(veto)
            case Aborted():
                raise unavailable("A notification that this write depends on cannot be sent.")
        if self._outbox is None:
            return
        try:
            self._outbox.write([(event.id, event.body) for event in events])
        except EventTooLarge as error:
            raise too_large(str(error)) from error
        except OutboxUnavailable as error:
            logger.error("The write is refused, since it could not be announced: %s", error)
            raise unavailable("Changes cannot be announced at the moment.") from error

    def _after_commit(self, events: Sequence[Captured]) -> None:
        # First what is promised; until it is in the log, it is in this process only.
        if self.direct is not None:
            self.direct.append(events)
        self._sync.after_commit(events)
