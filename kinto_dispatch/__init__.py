"""kinto-dispatch: a committed Kinto change reaches its channels, a rolled-back one never does.

Everything that an operator or the author of a channel plugin needs is importable from here.
Names are loaded when first used, so that ``kinto-dispatch --help`` answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from kinto_dispatch.deadline import Deadline
    from kinto_dispatch.delivery import Delivery
    from kinto_dispatch.egress import EgressGuard, HttpAnswer, HttpClient, check_headers
    from kinto_dispatch.egress.settings import GuardedSecretUrl, GuardedSettings, GuardedUrl
    from kinto_dispatch.encoding import encode_json
    from kinto_dispatch.event import Change, Event
    from kinto_dispatch.hookspecs import hookimpl, on_event, on_event_async
    from kinto_dispatch.lines import legible
    from kinto_dispatch.mailboxes import Mailbox, mailbox
    from kinto_dispatch.outcome import Delivered, Outcome, Rejected, Retry, Veto
    from kinto_dispatch.plugins import Channel
    from kinto_dispatch.render import Message
    from kinto_dispatch.settings import Addresses
    from kinto_dispatch.subscriptions.recipients import Mailboxes, Recipients

__all__ = [  # noqa: RUF022 - grouped as a table of contents
    # What a hook gets
    "Event",
    "Change",
    "Channel",
    "Delivery",
    "Message",
    # What a hook returns
    "Outcome",
    "Delivered",
    "Retry",
    "Rejected",
    "Veto",
    # How a plugin is written
    "hookimpl",
    "on_event",
    "on_event_async",
    "Addresses",
    # How a plugin writes to people
    "Mailbox",
    "Mailboxes",
    "Recipients",
    "mailbox",
    # How a plugin sends over HTTP
    "GuardedSettings",
    "GuardedUrl",
    "GuardedSecretUrl",
    "EgressGuard",
    "HttpClient",
    "HttpAnswer",
    "check_headers",
    "encode_json",
    # How a plugin sends with a library that blocks
    "Deadline",
    "legible",
    # How Kinto loads the listener
    "load_from_config",
]

_HOME = {
    "Addresses": "settings",
    "Change": "event",
    "Channel": "plugins",
    "Deadline": "deadline",
    "Delivered": "outcome",
    "Delivery": "delivery",
    "EgressGuard": "egress",
    "Event": "event",
    "GuardedSecretUrl": "egress.settings",
    "GuardedSettings": "egress.settings",
    "GuardedUrl": "egress.settings",
    "HttpAnswer": "egress",
    "HttpClient": "egress",
    "Mailbox": "mailboxes",
    "Mailboxes": "subscriptions.recipients",
    "Message": "render",
    "Outcome": "outcome",
    "Recipients": "subscriptions.recipients",
    "Rejected": "outcome",
    "Retry": "outcome",
    "Veto": "outcome",
    "check_headers": "egress",
    "encode_json": "encoding",
    "hookimpl": "hookspecs",
    "legible": "lines",
    "mailbox": "mailboxes",
    "on_event": "hookspecs",
    "on_event_async": "hookspecs",
}


def load_from_config(config: Any, prefix: str = "") -> Any:
    """The listener for ``kinto.event_listeners.<alias>.use = kinto_dispatch``.

    Kinto calls it once for each alias. Starts nothing and does not connect to the queue. Raises
    ``pyramid.exceptions.ConfigurationError`` with everything that is wrong in the settings.
    """
    from kinto_dispatch.listener import load_from_config as load

    return load(config, prefix)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"kinto_dispatch.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
