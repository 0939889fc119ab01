"""Every setting of the core: the frozen values that hold them, with their defaults, and the tables
of their names, with what takes each from text. A plugin adds names of its own for its channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, SecretStr

from kinto_dispatch.limit import RateLimit
from kinto_dispatch.settings import parsers
from kinto_dispatch.settings.parsers import Parser


Mode = Literal["async", "sync"]
Phase = Literal["after_commit", "before_commit"]
DigestBy = Literal["channel", "collection", "record"]
Addresses = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: parsers.addresses(value) if isinstance(value, str) else value),
]
"""For the ``Settings`` of a plugin: texts with commas or lines between them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSettings:
    """Which changes a channel wants; an empty tuple or ``None`` means any, and no ``events`` those
    of Kinto itself.

    ``alias_actions`` and ``alias_resources`` are those given at the listener's alias, which hold
    for all its channels.
    """

    events: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    when: str | None = None
    alias_actions: tuple[str, ...] = ()
    alias_resources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSettings:
    """One channel as the ini has it. ``options`` is what its plugin reads, still text, and may
    hold secrets.

    ``prefix`` is what stands before each of the channel's settings as the operator typed them.
    ``mode`` is ``None`` where the ini leaves it to what the plugin can do.
    """

    name: str
    alias: str
    prefix: str
    plugin: str
    mode: Mode | None = None
    phase: Phase = "after_commit"
    on_failure: Literal["log", "abort"] = "log"
    route: RouteSettings = RouteSettings()
    subject: str | None = None
    template: str | None = None
    split_changes: bool = False
    digest_seconds: float = 0.0
    digest_by: DigestBy | None = None
    collapse: Literal["none", "latest"] = "none"
    subscribable: bool = False
    max_attempts: int = 15
    timeout_seconds: float = 30.0
    concurrency: int = 100
    rate_limit: RateLimit | None = None
    retry_delays_seconds: tuple[float, ...] | None = None
    options: Mapping[str, str] = field(repr=False)

    @property
    def collects_by(self) -> DigestBy | None:
        """What is collected into one delivery: everything for the channel, for each collection or
        for each record; ``None`` where nothing is."""
        if self.collapse == "latest":
            return "record"
        return (self.digest_by or "channel") if self.digest_seconds else None


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchSettings:
    """Everything that kinto-dispatch reads from Kinto's configuration.

    Without ``queue_url`` the queue lies in ``queue_dir``, an absolute path. Its default is in the
    user's state directory (``XDG_STATE_HOME``, else ``~/.local/state``), the same for all
    processes of one Kinto: those who run as different users have to set it. ``events`` are the
    classes of other plugins' events that are captured beside Kinto's own.
    """

    channels: tuple[ChannelSettings, ...]
    queue_url: SecretStr | None = None
    queue_dir: Path
    queue_prefix: str = "kinto-dispatch"
    lease_seconds: float = 10.0
    shutdown_seconds: float = 30.0
    outbox_keep_seconds: float = 3600.0
    log_retention_seconds: float = 7 * 86400.0
    attempts_retention_seconds: float = 7 * 86400.0
    dead_retention_seconds: float = 30 * 86400.0
    log_max_bytes: int = 1_000_000_000
    emailer_channel: str | None = None
    events: tuple[str, ...] = field(default_factory=tuple)
    storage_backend: str = ""
    storage_url: SecretStr | None = None
    transaction_per_request: bool = True

    @property
    def has_transactional_outbox(self) -> bool:
        """Whether Kinto's storage offers a transaction that an outbox can join."""
        postgresql = self.storage_backend == "kinto.core.storage.postgresql"
        return postgresql and self.transaction_per_request


DISPATCHER: Mapping[str, Parser] = {
    "queue_url": parsers.queue_url,
    "queue_dir": parsers.directory,
    "queue_prefix": parsers.key_prefix,
    "lease_seconds": parsers.seconds(1.0, 3600.0),
    "shutdown_seconds": parsers.seconds(0.1, 3600.0),
    "outbox_keep_seconds": parsers.seconds(60.0),
    "log_retention_seconds": parsers.seconds(60.0),
    "attempts_retention_seconds": parsers.seconds(60.0),
    "dead_retention_seconds": parsers.seconds(60.0),
    "log_max_bytes": parsers.integer(1_000_000),
    "emailer_channel": parsers.text,
    "events": parsers.event_names,
}
CHANNEL: Mapping[str, Parser] = {
    "mode": parsers.choice("async", "sync"),
    "phase": parsers.choice("after_commit", "before_commit"),
    "on_failure": parsers.choice("log", "abort"),
    "subject": parsers.text,
    "template": parsers.text,
    "split_changes": parsers.boolean,
    "digest_seconds": parsers.seconds(0.0, 86_400.0),
    "digest_by": parsers.choice("channel", "collection", "record"),
    "collapse": parsers.choice("none", "latest"),
    "subscribable": parsers.boolean,
    "max_attempts": parsers.integer(1, 1000),
    "timeout_seconds": parsers.seconds(0.01, 3600.0),
    "concurrency": parsers.integer(1, 10_000),
    "rate_limit": parsers.rate_limit,
    "retry_delays_seconds": parsers.delays,
}
ROUTE: Mapping[str, Parser] = {
    "events": parsers.words,
    "actions": parsers.words,
    "resources": parsers.resources,
    "uris": parsers.words,
    "users": parsers.words,
    "when": parsers.text,
}
# Kinto applies these itself, to all that reaches the listener.
ALIAS: Mapping[str, Parser] = {"actions": parsers.actions, "resources": parsers.resources}
FROM_FILE = frozenset({"queue_url", "subject", "template"})

CHANNEL_NAMES = ("plugin", *CHANNEL, *ROUTE, "subject_file", "template_file")
DISPATCHER_NAMES = (*DISPATCHER, "queue_url_file")
ALIAS_NAMES = ("use", *ALIAS, "channels", *DISPATCHER_NAMES)
RESERVED = frozenset({*CHANNEL_NAMES, *ALIAS_NAMES})
"""Names that the ``Settings`` of a plugin cannot have."""
