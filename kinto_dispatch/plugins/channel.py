"""One configured destination: what hooks get as ``channel``, and how the core calls its hooks."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pluggy
from pydantic import BaseModel

from kinto_dispatch.delivery import Delivery
from kinto_dispatch.errors import BadHook, PluginError, RenderError
from kinto_dispatch.event import Event
from kinto_dispatch.groups import Groups
from kinto_dispatch.memory import Memory
from kinto_dispatch.plugins.contract import Function
from kinto_dispatch.plugins.failures import log_failure
from kinto_dispatch.plugins.redaction import Redactor
from kinto_dispatch.render import Message, Renderer
from kinto_dispatch.route import Route
from kinto_dispatch.settings import ChannelSettings, Mode
from kinto_dispatch.subscriptions import compile_hook
from kinto_dispatch.subscriptions.recipients import (
    foreign_groups,
    group_of,
    members_to_addresses,
)
from kinto_dispatch.threads import ThreadPool


Status = Literal["loaded", "failed"]


@dataclass(frozen=True, slots=True)
class Implementation:
    """A plugin that is ready to be called for one channel."""

    plugin: Any = field(repr=False)
    settings: BaseModel | None
    hooks: Mapping[str, Function]
    manager: pluggy.PluginManager = field(repr=False)


MOST_ADDRESSES = 100
"""In one message. What every mail server takes at once, and no more strangers than that."""


class Channel:
    """One configured destination, as hooks get it: ``name``, ``settings``, ``render``, and
    ``recall`` and ``remember``.

    ``settings`` is the instance of the plugin's ``Settings`` (``None`` without one). The rest is
    for the core. A failed channel has a ``reason`` and no implementation; everything but calling
    its hooks works, so that its lane can fill.
    """

    def __init__(
        self,
        config: ChannelSettings,
        mode: Mode,
        route: Route,
        renderer: Renderer,
        implementation: Implementation | None = None,
        reason: str | None = None,
        redact: Redactor | None = None,
        groups: Groups | None = None,
    ) -> None:
        self.config = config
        self.name = config.name
        self.mode: Mode = mode
        self.route = route
        self.reason = reason
        self.redact = redact or Redactor(config.options.values())
        self.settings: Any = implementation.settings if implementation else None
        self.memory = Memory(config.name)
        """Knows nothing until the worker, or a test, gives it a place to keep notes."""
        self._groups = groups or Groups({})
        self._renderer = renderer
        self._implementation = implementation

    def __repr__(self) -> str:
        return f"<Channel {self.name!r} {self.config.plugin} {self.mode} {self.status}>"

    @property
    def status(self) -> Status:
        """``failed`` if its plugin could not be loaded; ``reason`` says why."""
        return "loaded" if self._implementation else "failed"

    @property
    def hooks(self) -> tuple[str, ...]:
        """The names of the hooks that its plugin implements."""
        return tuple(sorted(self._implementation.hooks)) if self._implementation else ()

    @property
    def is_coroutine(self) -> bool:
        """Whether ``call_async`` returns a coroutine, rather than blocking for the value."""
        hooks = self._implementation.hooks if self._implementation else {}
        return inspect.iscoroutinefunction(hooks.get("on_event_async"))

    def render(self, event: Event) -> Message:
        """The message for people: from the channel's templates, or as the hook in metadata says
        that the event comes to this channel for. Raises ``RenderError``."""
        if not (self.config.subscribable and event.subscriptions):
            return self._renderer.render(event)
        (subscription,) = event.subscriptions
        try:
            hook = compile_hook(subscription.format, subscription.hook)
        except BadHook as error:
            raise RenderError("hook", str(error)) from error
        message = hook.render(event, subscription)
        if foreign := foreign_groups(message.recipients or (), subscription.owner):
            reason = f"{foreign[0]!r} is a group of another bucket than that of the hook"
            raise RenderError("recipients", reason)
        return message

    def addresses(self, recipients: Iterable[str]) -> tuple[str, ...]:
        """The addresses of these recipients, each once: the uri of a group, as in
        ``/buckets/b/groups/g``, stands for those of its members who have one.

        Blocks for Kinto's storage where there is a group. Raises ``GroupsUnavailable``, and
        ``RenderError`` where they are more than 100, which is what every mail server takes at
        once (RFC 5321, 4.5.3.1.8).
        """
        found: list[str] = []
        for recipient in recipients:
            group = group_of(recipient)
            if group is None:
                found.append(recipient)
            else:
                found += members_to_addresses(self._groups.members(*group))
        addresses = tuple(dict.fromkeys(found))
        if len(addresses) > MOST_ADDRESSES:
            reason = f"{len(addresses):,} addresses, at most {MOST_ADDRESSES}; use a mailing list"
            raise RenderError("recipients", reason)
        return addresses

    async def recall(self, key: str) -> str | None:
        """What an earlier delivery of this channel remembered under this key; ``None`` where
        that is not known, which may be at any time.

        Only the worker remembers: not a sync channel, nor the process in which a delivery is run
        alone, nor a hook that is a plain function. Takes at most a second; never raises because
        of the queue.
        """
        return await self.memory.recall(key)

    async def remember(self, key: str, value: str) -> None:
        """Keep up to 2,000 characters for later deliveries of this channel, in any worker: at
        most a week from now, and forgotten earlier where the queue has to. Where nothing can be
        kept nothing is done. Takes at most a second. Raises ``ValueError`` for a longer value.
        """
        await self.memory.remember(key, value)

    def call_sync(self, event: Event) -> Any:
        """What ``on_event`` returns. Blocks for it, and raises what it raises."""
        return self._hook.on_event(event=event, channel=self)

    def call_async(self, event: Event, delivery: Delivery) -> Any:
        """What ``on_event_async`` returns: a coroutine if ``is_coroutine``, else its value, for
        which it blocks. Raises what it raises."""
        return self._hook.on_event_async(event=event, channel=self, delivery=delivery)

    @property
    def _hook(self) -> Any:
        if self._implementation is None:
            raise PluginError(self.config.plugin, self.reason or "it is not loaded")
        return self._implementation.manager.hook

    async def close(self) -> None:
        """Let the plugin give back what it holds; a plain ``close`` runs in a thread.

        Takes as long as the plugin takes. What it raises is logged.
        """
        plugin = self._implementation.plugin if self._implementation else None
        close = None if inspect.ismodule(plugin) else getattr(plugin, "close", None)
        if not callable(close):
            return
        try:
            if inspect.iscoroutinefunction(close):
                await close()
            else:
                # Not the loop's own executor: Python would wait for it at its end.
                await asyncio.wrap_future(ThreadPool(self.name, 1).submit(close))
        except (Exception, SystemExit) as error:
            log_failure(f"Channel {self.name!r} could not be closed", error, self.redact)
