"""``kinto-dispatch check``: would it work? Everything that is wrong, at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import rich_click as click

from kinto_dispatch.cli.channels import summary
from kinto_dispatch.cli.common import left_behind, load_configuration, with_queue
from kinto_dispatch.cli.exits import BAD_CONFIGURATION, OK, QUEUE_UNREACHABLE, leave
from kinto_dispatch.cli.options import ini_option, ini_path, json_option
from kinto_dispatch.cli.printing import emit, printable, printable_lines
from kinto_dispatch.errors import (
    BadSettings,
    OutboxUnavailable,
    QueueRejected,
    QueueUnavailable,
)


if TYPE_CHECKING:
    from kinto_dispatch.plugins import Channel, Configuration
    from kinto_dispatch.queue.protocol import Queue
    from kinto_dispatch.settings import DispatchSettings

Status = Literal["ok", "warning", "error"]

MARKS: dict[Status, str] = {"ok": "✔", "warning": "!", "error": "✘"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one thing, and what to do about it."""

    check: str
    status: Status
    detail: str
    advice: str = ""


@click.command()
@ini_option
@json_option
def command(as_json: bool) -> None:
    """Check the ini, every setting, plugin, route and template, the outbox and the queue.

    Starts nothing and changes nothing. Exits 0 if nothing is wrong (warnings aside), 69 if the
    queue cannot be reached, 78 if anything else is an error. With --json a list of
    {check, status: ok|warning|error, detail, advice}.
    """
    findings = list(examine())
    emit([asdict(finding) for finding in findings], as_json, lambda: show(findings))
    leave(exit_code(findings))


def exit_code(findings: Sequence[Finding]) -> int:
    """What is wrong in the configuration comes first: with that put right, the queue may be."""
    wrong = {finding.check for finding in findings if finding.status == "error"}
    if wrong - {"queue"}:
        return BAD_CONFIGURATION
    return QUEUE_UNREACHABLE if wrong else OK


def examine() -> Iterator[Finding]:
    """Every finding, in the order in which an operator would put things right."""
    path = ini_path()
    try:
        # What a log would say is the output of this command.
        configuration = load_configuration(logging.CRITICAL)
    except BadSettings as error:
        for problem in error.problems:
            detail = f"{problem.setting}: {problem.found}; expected {problem.expected}"
            yield Finding("settings", "error", detail, problem.advice)
        return
    names = " ".join(channel.name for channel in configuration.channels)
    yield Finding("settings", "ok", f"{path}, channels: {names or 'none'}")
    yield from examine_events(configuration.settings)
    for channel in configuration.channels:
        yield examine_channel(channel, configuration.settings)
    if configuration.async_channels:
        yield from examine_outbox(configuration.settings)
        yield from examine_queue(configuration)


def examine_events(settings: DispatchSettings) -> Iterator[Finding]:
    """Whether the classes of other plugins' events are there. Only Kinto needs them."""
    from kinto_dispatch.capture import find_classes

    classes, problems = find_classes(settings.events, "events")
    for problem in problems:
        advice = f"Where Kinto runs, this would stop its start. {problem.advice}"
        yield Finding("events", "warning", f"{problem.found}; expected {problem.expected}", advice)
    if classes and not problems:
        yield Finding("events", "ok", " ".join(classes.values()))


def examine_channel(channel: Channel, settings: DispatchSettings) -> Finding:
    """Whether the channel's plugin could be loaded; its settings were checked with it."""
    check = f"channel {channel.name}"
    if channel.status == "failed":
        meanwhile = "its lane fills" if channel.mode == "async" else "it is not called"
        advice = f"Put the plugin right; {meanwhile} meanwhile. See: kinto-dispatch plugins"
        return Finding(check, "error", f"{channel.config.plugin} failed: {channel.reason}", advice)
    detail = f"{channel.config.plugin}, {channel.mode}, {summary(channel.config.route)}"
    if channel.config.subscribable and channel.mode == "async" and not channel.config.rate_limit:
        advice = "Whoever may write a collection can make it as busy as they like: set one."
        return Finding(check, "warning", f"{detail}, open for hooks without rate_limit", advice)
    if channel.config.phase == "before_commit" and not settings.has_transactional_outbox:
        advice = "The client gets the refusal, and the data stays. PostgreSQL storage undoes it."
        return Finding(check, "warning", f"{detail}, and this storage cannot undo a write", advice)
    return Finding(check, "ok", detail)


def examine_outbox(settings: DispatchSettings) -> Iterator[Finding]:
    """Whether the outbox's table is there and can be read, where Kinto uses one."""
    if not settings.has_transactional_outbox or settings.storage_url is None:
        backend = settings.storage_backend or "the storage"
        detail = f"not used: {backend} offers no transaction to join"
        yield Finding("outbox", "ok", f"{detail}, so events are appended after the commit")
        return
    from kinto_dispatch.outbox.reader import PostgresOutboxReader

    reader = PostgresOutboxReader(settings.storage_url.get_secret_value())
    try:
        yield Finding("outbox", "ok", f"{reader.status().waiting} events waiting")
    except OutboxUnavailable as error:
        yield Finding("outbox", "error", str(error))
    finally:
        reader.close()


def examine_queue(configuration: Configuration) -> Iterator[Finding]:
    """Whether the queue answers and is fit to hold what must not be lost."""
    settings = configuration.settings
    try:
        yield from with_queue(attached(configuration), partial(look, configuration))
    except QueueRejected as error:
        yield Finding("queue", "error", str(error))
    except QueueUnavailable as error:
        embedded = settings.queue_url is None
        yield examine_embedded(settings) if embedded else Finding("queue", "error", str(error))


async def look(configuration: Configuration, queue: Queue) -> list[Finding]:
    """What the server says of itself, whether somebody delivers what is in the lanes, and those
    that have no channel."""
    channels = configuration.async_channels
    lanes = [one.name for one in channels if one.status == "loaded"]
    health = await queue.health()
    findings = [Finding("queue", "ok", f"{health.server} {health.version}")]
    findings += [Finding("queue", "warning", warning) for warning in health.warnings]
    findings += examine_workers(lanes, await queue.workers())
    for lane in await left_behind(queue, [one.name for one in channels]):
        count = lane.waiting + lane.in_flight + lane.retry + lane.collecting
        detail = f"lane {lane.channel!r} has no channel in this ini, but {count} to deliver"
        advice = "If no other ini has it: add it again, under its old name, to deliver or replay."
        findings.append(Finding("lanes", "warning", f"{detail} and {lane.dead} dead", advice))
    return findings


def examine_workers(lanes: Sequence[str], workers: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Whether every lane has a worker."""
    if not workers:
        advice = "Start one: kinto-dispatch worker"
        return [Finding("worker", "warning", "none is running", advice)]
    run = {name for worker in workers for name in worker.get("channels", ())}
    idle = ", ".join(name for name in lanes if name not in run)
    if not idle:
        return [Finding("worker", "ok", f"{len(workers)} running")]
    advice = "Start one with this ini, or again if the channel is new; see its --channels."
    return [Finding("worker", "warning", f"none runs: {idle}", advice)]


def attached(configuration: Configuration) -> Configuration:
    """The same, but with the URL of the embedded server instead of starting it."""
    settings = configuration.settings
    if settings.queue_url is not None:
        return configuration
    from pydantic import SecretStr

    from kinto_dispatch.queue.embedded import server_url

    url = SecretStr(server_url(settings.queue_dir))
    return replace(configuration, settings=replace(settings, queue_url=url))


def examine_embedded(settings: DispatchSettings) -> Finding:
    """Whether the embedded server, which does not run now, could be started."""
    from kinto_dispatch.queue.embedded import server_binary, server_url

    try:
        server_url(settings.queue_dir)
        server_binary()
    except QueueUnavailable as error:
        return Finding("queue", "error", str(error))
    detail = f"embedded in {settings.queue_dir}: not running (starts on first use)"
    return Finding("queue", "ok", detail)


def show(findings: Sequence[Finding]) -> None:
    """One line each for people, with what to do below."""
    for finding in findings:
        line = f"{finding.status:7}  {finding.check}: {printable(finding.detail)}"
        click.secho(f"{MARKS[finding.status]} {line}", fg=COLOURS[finding.status])
        for text in printable_lines(finding.advice):
            click.echo(f"           {text}")


COLOURS = {"ok": None, "warning": "yellow", "error": "red"}
