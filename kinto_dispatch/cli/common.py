"""How commands come to a checked configuration and to the queue."""

from __future__ import annotations

import configparser
import logging
import os
import sys
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from kinto_dispatch.cli.exits import FAILED, leave
from kinto_dispatch.cli.options import given, ini_path
from kinto_dispatch.errors import BadSettings, Problem, did_you_mean
from kinto_dispatch.lines import keep_lines


if TYPE_CHECKING:
    from kinto_dispatch.plugins import Channel, Configuration
    from kinto_dispatch.queue.protocol import Queue
    from kinto_dispatch.queue.values import LaneStatus

T = TypeVar("T")

WHICH_INI = "Say with --ini or KINTO_INI which file Kinto is started with."


def load_configuration(log_level: int = logging.WARNING) -> Configuration:
    """The checked configuration of the ini asked for. Raises ``BadSettings``.

    Sets up logging, on stderr from ``log_level`` on. ``logging.INFO`` is for what runs for long:
    there the ini's ``[loggers]`` come first.
    """
    path = ini_path()
    settings = read_ini(path)
    set_up_logging(path, log_level)
    from kinto_dispatch.plugins import configure

    return configure(settings)


def read_ini(path: str) -> Mapping[str, Any]:
    """The settings of the application section as text. Raises ``BadSettings``."""
    if not os.path.isfile(path):
        raise BadSettings(
            [Problem("--ini", f"there is no file {path!r}", "Kinto's ini file", WHICH_INI)]
        )
    with warnings.catch_warnings():
        # Pyramid imports pkg_resources, whose warning is nothing an operator can act on.
        warnings.simplefilter("ignore")
        from pyramid.paster import get_appsettings
    try:
        settings: Mapping[str, Any] = get_appsettings(path, name="main")
    except configparser.InterpolationError as error:
        raise BadSettings([_percent(path, error)]) from error
    except (configparser.Error, LookupError, OSError, ValueError) as error:
        found = " ".join(str(error).split())
        expected = "an ini file that Kinto can read, with [app:main]"
        raise BadSettings([Problem(path, found, expected, WHICH_INI)]) from error
    return settings


def _percent(path: str, error: configparser.InterpolationError) -> Problem:
    return Problem(
        f"{path}: {error.option}",
        "a single % in the value",
        "%% for each % in an ini file",
        "Or put the value into a file or the environment.",
    )


def set_up_logging(path: str, usual: int) -> None:
    """``-q`` and ``-v`` come first, then the ini's ``[loggers]`` for what runs for long."""
    quiet, debug = given("quiet"), given("debug")
    if usual == logging.INFO and not (quiet or debug) and _has_loggers(path):
        from pyramid.paster import setup_logging

        setup_logging(path)
        keep_lines()
        return
    logging.basicConfig(
        level=max(usual, logging.ERROR) if quiet else logging.DEBUG if debug else usual,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)-7s %(name)s %(message)s",
        # A second command in one process logs to that one's stderr.
        force=True,
    )


def _has_loggers(ini: str) -> bool:
    parser = configparser.RawConfigParser()
    parser.read(ini)
    return parser.has_section("loggers")


def with_queue(configuration: Configuration, work: Callable[[Queue], Awaitable[T]]) -> T:
    """What ``work`` returns, given the configured queue. The embedded server is started if it
    does not run: what it keeps is on its disk. Raises ``QueueUnavailable``."""
    import asyncio

    from kinto_dispatch.queue import open_queue

    async def run() -> T:
        queue = open_queue(configuration.settings)
        try:
            return await work(queue)
        finally:
            await queue.close()

    return asyncio.run(run())


async def left_behind(queue: Queue, names: Iterable[str]) -> Sequence[LaneStatus]:
    """The lanes with something in them that belong to none of these channels: theirs were renamed
    or removed, or stand in another ini."""
    others = sorted((await queue.registered()).keys() - set(names))
    return [
        lane
        for lane in await queue.status(others)
        if lane.waiting or lane.in_flight or lane.retry or lane.collecting or lane.dead
    ]


def pick_channel(configuration: Configuration, name: str) -> Channel:
    """The configured channel of that name; a usage error that names the others if none is."""
    for channel in configuration.channels:
        if channel.name == name:
            return channel
    raise _no_such(name, [channel.name for channel in configuration.channels], "channel")


def pick_lanes(configuration: Configuration, names: Iterable[str] = ()) -> Sequence[Channel]:
    """The async channels of these names, all of them if no name is given."""
    lanes = {channel.name: channel for channel in configuration.async_channels}
    for name in names:
        if name not in lanes and pick_channel(configuration, name):
            raise click.UsageError(
                f"Channel {name!r} has mode = sync: it is called in the request and has no lane."
            )
    return [lanes[name] for name in dict.fromkeys(names)] or list(lanes.values())


async def known_lanes(
    queue: Queue, configuration: Configuration, names: Sequence[str] = ()
) -> Sequence[str]:
    """As ``pick_lanes``, by their names, and with those that channels left behind in the queue
    which are not configured any more."""
    configured = {channel.name for channel in configuration.channels}
    former = sorted((await queue.registered()).keys() - configured)
    pick_lanes(configuration, set(names).difference(former))
    known = [*(channel.name for channel in configuration.async_channels), *former]
    return [name for name in known if name in names] or known


def _no_such(name: str, known: Sequence[str], noun: str) -> click.UsageError:
    listed = ", ".join(known) or "none"
    advice = did_you_mean(name, known)
    return click.UsageError(f"There is no {noun} {name!r}. Configured: {listed}. {advice}".strip())


def set_paused(names: Iterable[str], paused: bool) -> Sequence[str]:
    """Pause or resume the lanes of these channels; which."""
    configuration = load_configuration()
    lanes = [channel.name for channel in pick_lanes(configuration, names)]

    async def work(queue: Queue) -> None:
        for lane in lanes:
            await queue.pause(lane, paused)

    with_queue(configuration, work)
    return lanes


def confirm(question: str, yes: bool) -> None:
    """Ask on the terminal unless ``yes``. Any answer but yes ends the command as failed."""
    if yes or click.confirm(question, err=True):
        return
    click.echo("Nothing was done.", err=True)
    leave(FAILED)
