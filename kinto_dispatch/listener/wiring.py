"""Puts the dispatcher into Kinto: subscribers, migration, capability, heartbeat, start lines."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from importlib.metadata import metadata
from typing import TYPE_CHECKING, Any

from pyramid.events import NewRequest
from pyramid.exceptions import ConfigurationError
from pyramid.settings import asbool

from kinto_dispatch.capture import find_classes
from kinto_dispatch.errors import BadSettings, DispatchError, OutboxUnavailable
from kinto_dispatch.lines import keep_lines
from kinto_dispatch.listener.dispatcher import Dispatcher
from kinto_dispatch.listener.heartbeat import Heartbeat
from kinto_dispatch.listener.metadata import check_hooks
from kinto_dispatch.listener.sync import DEFAULT_TIMEOUT_SECONDS
from kinto_dispatch.outbox.protocol import Outbox
from kinto_dispatch.plugins import Channel, Configuration, configure
from kinto_dispatch.queue import queue_location
from kinto_dispatch.settings import DispatchSettings
from kinto_dispatch.settings.channels import Alias, channel_base
from kinto_dispatch.settings.text import SettingsText
from kinto_dispatch.subscriptions import Openings


if TYPE_CHECKING:
    from kinto_dispatch.outbox.postgres import PostgresOutbox

logger = logging.getLogger(__name__)

NAME = "dispatch"
"""Of the API capability and of the heartbeat, whatever the aliases are called."""

DISTRIBUTION = "kinto-dispatch"


def load_from_config(config: Any, prefix: str = "") -> Dispatcher:
    """See ``kinto_dispatch.load_from_config``. The first alias wires all of them.

    Every error is a ``ConfigurationError``: Kinto takes an ``ImportError`` or ``AttributeError``
    for a sign that the module is another one, and goes on to an error that says nothing.
    """
    keep_lines()
    try:
        dispatcher: Dispatcher | None = getattr(config.registry, "kinto_dispatch", None)
        if dispatcher is None:
            dispatcher = config.registry.kinto_dispatch = _wire(config)
        return dispatcher
    except ConfigurationError:
        raise
    except BadSettings as error:
        # It says all there is to say. What Python prints of causes would stand between the start
        # and that, beginning with Kinto's look for a module that is called like the alias.
        raise ConfigurationError(str(error)) from None
    except DispatchError as error:
        raise ConfigurationError(str(error)) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigurationError(f"kinto-dispatch cannot start: {reason}") from error


def _wire(config: Any) -> Dispatcher:
    configuration = configure(config.get_settings())
    settings = configuration.settings
    classes = _event_classes(config, settings)
    outbox = _outbox(config, configuration) if settings.has_transactional_outbox else None
    timeouts = _timeouts(config, configuration)
    dispatcher = Dispatcher(configuration, timeouts, outbox, classes)
    # Before Kinto's own, which its initialisation subscribes after the listeners.
    config.add_subscriber(dispatcher.on_new_request, NewRequest)
    for event_class in classes:
        config.add_subscriber(dispatcher.on_plugin_event, event_class)
    check_hooks(config, Openings.of(settings))
    config.add_api_capability(NAME, **_capability(configuration))
    config.registry.heartbeats[NAME] = Heartbeat(
        configuration.channels,
        dispatcher.log,
        dispatcher.direct,
        _outbox_counter(settings) if outbox else None,
    )
    if not _command(config):
        _say_what_starts(configuration)
    return dispatcher


def _command(config: Any) -> str | None:
    """The command of ``kinto`` that runs, such as ``migrate``; ``None`` where Kinto serves."""
    return getattr(config.registry, "command", None) or None


def _event_classes(config: Any, settings: DispatchSettings) -> Mapping[type, str]:
    """The classes of other plugins' events, with their names. Raises ``BadSettings``."""
    text = SettingsText(config.get_settings(), os.environ)
    keys = [f"{Alias(channel.alias).base}events" for channel in settings.channels]
    typed = next((key for key in keys if text.get(key)), None)
    classes, problems = find_classes(settings.events, text.name(typed) if typed else "events")
    if problems:
        raise BadSettings(problems)
    return classes


def _timeouts(config: Any, configuration: Configuration) -> dict[str, float]:
    """Seconds for each sync channel. The settings' own default is that of the worker."""
    text = SettingsText(config.get_settings(), os.environ)
    return {
        channel.name: channel.config.timeout_seconds
        if text.get(f"{channel_base(channel.config)}timeout_seconds")
        else DEFAULT_TIMEOUT_SECONDS
        for channel in configuration.sync_channels
    }


# --- the outbox ----------------------------------------------------------------------------------


def _outbox(config: Any, configuration: Configuration) -> Outbox:
    """The outbox in Kinto's storage, which ``kinto migrate`` makes.

    Missing tables stop the start, rather than every write; but not the command that makes them,
    nor those that write nothing.
    """
    # Only here: without PostgreSQL storage its driver need not be installed.
    from kinto_dispatch.outbox.postgres import OutboxMigration, PostgresOutbox

    config.add_migration(OutboxMigration())
    client = config.registry.storage.client
    outbox = PostgresOutbox(client, [channel.name for channel in configuration.async_channels])
    if configuration.async_channels and not _command(config):
        _prepare(outbox, client, writes=not asbool(config.get_settings().get("readonly")))
    return outbox


def _prepare(outbox: PostgresOutbox, client: Any, writes: bool) -> None:
    """Look whether the tables are there, and announce the lanes."""
    from kinto_dispatch.outbox.postgres import tables_exist

    exists = True
    try:
        exists = tables_exist(client)
        if exists and writes:
            outbox.announce()
    except OutboxUnavailable as error:
        # Kinto itself starts without its database, and answers 503 until it is there.
        logger.warning("The outbox could not be prepared at the start: %s", error)
    finally:
        # Servers that fork after loading would share the connection among their processes.
        client.session_factory.get_bind().dispose()
    if not exists:
        raise ConfigurationError(
            "kinto-dispatch: the outbox is missing in the database of kinto.storage_url; "
            "it keeps what async channels are sent. Run `kinto migrate` once, then start again."
        )


def _outbox_counter(settings: DispatchSettings) -> Any:
    from kinto_dispatch.outbox.postgres import PostgresOutboxReader

    assert settings.storage_url is not None
    url = settings.storage_url.get_secret_value()

    def count() -> int:
        reader = PostgresOutboxReader(url)
        try:
            return reader.status().waiting
        finally:
            reader.close()

    return count


# --- what operators see --------------------------------------------------------------------------


def _capability(configuration: Configuration) -> dict[str, Any]:
    """Public: which plugins are in use, and nothing about whom they reach."""
    about = metadata(DISTRIBUTION)
    urls = dict(line.split(", ", 1) for line in about.get_all("Project-URL") or ())
    return {
        "description": "Tells channels of changes once they are real.",
        "url": urls.get("Documentation", ""),
        "version": about["Version"],
        "plugins": sorted({channel.config.plugin for channel in configuration.channels}),
        "subscribable": sorted(Openings.of(configuration.settings).plugins),
    }


def _say_what_starts(configuration: Configuration) -> None:
    """One line for each channel, and what this storage cannot promise."""
    for channel in configuration.channels:
        logger.info("%s", _describe(channel))
    settings = configuration.settings
    if configuration.async_channels:
        logger.info(
            "The queue is %s; async channels need `kinto-dispatch worker`",
            queue_location(settings),
        )
    if settings.has_transactional_outbox:
        return
    if configuration.async_channels:
        logger.warning(
            "This storage has no transaction that an outbox could join: what the process holds "
            "between the commit and the queue is lost with it. PostgreSQL storage, with "
            "transaction_per_request, loses nothing."
        )
    if any(channel.config.phase == "before_commit" for channel in configuration.sync_channels):
        logger.warning(
            "This storage cannot undo a write: what a channel with phase = before_commit refuses "
            "is written all the same, although the client gets the error."
        )


def _describe(channel: Channel) -> str:
    what = f"Channel {channel.name!r} ({channel.config.plugin}): {channel.mode}"
    if channel.status == "failed":
        return f"{what}, failed: {channel.reason}"
    if channel.mode == "async":
        return f"{what}, in the worker"
    return f"{what}, {channel.config.phase}"
