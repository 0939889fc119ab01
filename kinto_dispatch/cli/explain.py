"""``kinto-dispatch explain``: why did this channel hear of it, or why not?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from kinto_dispatch.cli.attempts import as_row as attempt_row
from kinto_dispatch.cli.common import load_configuration, with_queue
from kinto_dispatch.cli.dead import as_row as dead_row
from kinto_dispatch.cli.evidence import Fate, Found, fates_of, find_by_id, find_by_uri
from kinto_dispatch.cli.options import ini_option, json_option
from kinto_dispatch.cli.pages import event_row
from kinto_dispatch.cli.printing import emit, nothing_matched, printable
from kinto_dispatch.cli.times import TIME
from kinto_dispatch.errors import RouteError


if TYPE_CHECKING:
    from kinto_dispatch.event import Change, Event
    from kinto_dispatch.plugins import Channel, Configuration
    from kinto_dispatch.queue.protocol import Queue
    from kinto_dispatch.route import ClauseResult


@click.command()
@click.argument("target", metavar="[EVENT|URI]", required=False)
@ini_option
@click.option("--at", type=TIME, help="With a uri: the change nearest to this time, not the last.")
@click.option(
    "--file",
    "path",
    type=click.Path(exists=True, dir_okay=False),
    help="An event as JSON, instead of one in the queue.",
)
@json_option
def command(target: str | None, at: float | None, path: str | None, as_json: bool) -> None:
    """Say for each channel which clauses of its route an event meets and which not, and why; and
    what became of the event there.

    The event is given by its id, by the uri of an object that it changed, or in a file. It is
    looked for in the log, which reaches back log_retention_seconds, and in dead letters. Exits 3
    if it is not found.
    """
    if (target is None) == (path is None) or (at is not None and not is_uri(target)):
        raise click.UsageError("Give an event's id, or a uri (with --at if need be), or --file.")
    configuration = load_configuration()
    explanation = (
        from_file(configuration, path)
        if path is not None
        else with_queue(
            configuration, lambda queue: search(queue, configuration, target or "", at)
        )
    )
    if explanation is None:
        nothing_matched(
            f"Neither the log nor a dead letter has {target!r}. The log may have forgotten it; "
            "in uris of events the default bucket has its real id."
        )
    emit(explanation, as_json, lambda: show(explanation))


def is_uri(target: str | None) -> bool:
    """Whether it stands for an object rather than for an event."""
    return target is not None and "/" in target


def object_uri(target: str) -> str:
    """The uri as events have it, also of a whole URL."""
    return re.sub(r"^(https?://[^/]+)?(/v\d+)?(?=/)", "", target)


def from_file(configuration: Configuration, path: str) -> dict[str, Any]:
    """The routes alone. Raises ``UndecodableEvent``."""
    from kinto_dispatch.event import Event

    found = Found(Event.decode(Path(path).read_bytes()), "file")
    return explain(found, [(channel, ()) for channel in configuration.channels])


async def search(
    queue: Queue, configuration: Configuration, target: str, at: float | None
) -> dict[str, Any] | None:
    """The routes, and what is on record of each delivery."""
    lanes = {channel.name: channel for channel in configuration.async_channels}
    if is_uri(target):
        found = await find_by_uri(queue, object_uri(target), at)
    else:
        found = await find_by_id(queue, target, lanes)
    if found is None:
        return None
    cursors = await queue.cursors(list(lanes))
    fates = {
        lane.channel: await fates_of(
            queue, found, lanes[lane.channel], lane, cursors[lane.channel]
        )
        for lane in await queue.status(list(lanes))
    }
    return explain(
        found, [(channel, fates.get(channel.name, ())) for channel in configuration.channels]
    )


# --- the explanation under its stable keys -----------------------------------------------------


def explain(found: Found, channels: Sequence[tuple[Channel, Sequence[Fate]]]) -> dict[str, Any]:
    """What is printed as JSON."""
    return {
        "event": event_row(found.event),
        "found_in": found.source,
        "channels": [channel_row(channel, found.event, fates) for channel, fates in channels],
    }


def channel_row(channel: Channel, event: Event, fates: Sequence[Fate]) -> dict[str, Any]:
    """One channel: which changes it wants, what each clause says, and what was delivered.
    ``error`` is the reason why its route cannot judge the event."""
    changes, error = wanted(channel, event)
    return {
        "channel": channel.name,
        "mode": channel.mode,
        "status": channel.status,
        "wanted": [change.uri for change in changes],
        "error": error,
        "clauses": [clause_row(result) for result in channel.route.explain(event)],
        "hooks": hook_rows(channel, event),
        "deliveries": [fate_row(fate) for fate in fates],
    }


def hook_rows(channel: Channel, event: Event) -> list[dict[str, Any]] | None:
    """What each hook in metadata asks this channel for; null where it is not open for them."""
    from kinto_dispatch.router.subscribers import wishes

    if not channel.config.subscribable:
        return None
    return [
        {
            "owner": wish.subscription.owner,
            "format": wish.subscription.format,
            "events": events_of(wish.subscription.hook),
            "wanted": [change.uri for change in wish.changes],
            "error": wish.error,
        }
        for wish in wishes(channel, event)
    ]


def events_of(hook: Mapping[str, Any]) -> list[str]:
    """The names of events that a hook asks for, under the word of either format; empty where it
    names none."""
    names = hook.get("events") or [hook.get("event")]
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def wanted(channel: Channel, event: Event) -> tuple[Sequence[Change], str | None]:
    """What the route selects, or the hooks where the channel is open for them. A clause that
    cannot be evaluated is an error only where those before it hold: so it is asked, rather than
    reckoned from what each clause says alone."""
    try:
        hooks = hook_rows(channel, event)
        if hooks is not None:
            asked = {uri for row in hooks for uri in row["wanted"]}
            return [change for change in event.changes if change.uri in asked], None
        return channel.route.select(event), None
    except RouteError as error:
        return (), str(error)


def clause_row(result: ClauseResult) -> dict[str, Any]:
    """What one clause expected and found; ``uri`` is null where it judges the whole event."""
    return {
        "clause": result.clause,
        "expected": result.expected,
        "found": result.found,
        "matched": result.matched,
        "uri": result.change.uri if result.change else None,
        "error": result.error,
    }


def fate_row(fate: Fate) -> dict[str, Any]:
    """One delivery with all that is on record of it."""
    return {
        "key": fate.key,
        "state": fate.state,
        "attempts": [attempt_row(record) for record in fate.attempts],
        "dead_letters": [dead_row(letter) for letter in fate.dead],
    }


# --- for people ----------------------------------------------------------------------------------

STATES = {
    "delivered": "delivered",
    "dead": "dead letter",
    "retry": "waits for its next attempt",
    "waiting": "in the lane, not attempted yet",
    "joined": "joined with others to one delivery",
    "skipped": "skipped, since a newer version took its place",
    "unrouted": "in the log, not routed yet (a worker does that)",
    "unknown": "nothing on record: the channel was added later, or the record was trimmed",
}


def show(explanation: dict[str, Any]) -> None:
    """What happened, then channel by channel what its route says and what became of it."""
    from kinto_dispatch.event import CHANGED

    event = explanation["event"]
    said = "" if event["name"] == CHANGED else f" ({event['name']})"
    line = f"{event['at']} {event['action']} {event['resource_name']} {event['uri']}{said}"
    click.echo(printable(f"{line} by {event['user_id'] or 'anonymous'}"))
    click.echo(printable(f"event {event['event_id']}, found in the {explanation['found_in']}"))
    for channel in explanation["channels"]:
        show_channel(channel, len(event["changes"]))


def show_channel(channel: dict[str, Any], total: int) -> None:
    """One channel, its clauses below."""
    failed = ", failed to load" if channel["status"] == "failed" else ""
    click.echo(f"\n{channel['channel']} ({channel['mode']}{failed}): {verdict(channel, total)}")
    for clause in channel["clauses"]:
        answer = "?" if clause["error"] else "yes" if clause["matched"] else "no"
        click.echo(f"  {answer:3} {clause_text(clause, total)}")
    for hook in channel["hooks"] or ():
        said = hook["error"] or f"wants {len(hook['wanted'])} of {total} changes"
        said += f"; asks for {' '.join(hook['events'])}" if hook["events"] else ""
        click.echo(printable(f"  hook of {hook['owner']} ({hook['format']}): {said}"))
    if channel["mode"] == "sync" and channel["wanted"]:
        click.echo("  called in the request; no record is kept")
    for delivery in channel["deliveries"]:
        click.echo(f"  {delivery['key']}: {STATES[delivery['state']]}")
        for attempt in delivery["attempts"]:
            reason = f": {attempt['reason']}" if attempt["reason"] else ""
            text = f"{attempt['at']} attempt {attempt['attempt']} {attempt['outcome']}{reason}"
            click.echo(f"    {printable(text)}")
        for letter in delivery["dead_letters"]:
            text = f"{letter['at']} dead letter, {letter['kind']}: {letter['reason']}"
            click.echo(f"    {printable(text)}")


def verdict(channel: dict[str, Any], total: int) -> str:
    """What the route says of the event as a whole."""
    count = len(channel["wanted"])
    if channel["error"]:
        end = "makes a dead letter" if channel["mode"] == "async" else "is a failure in the log"
        return f"its route cannot be evaluated, which {end}"
    if channel["hooks"] == []:
        return "is open for hooks in metadata, and there are none for it here"
    if not channel["clauses"] and not channel["hooks"]:
        return f"wants {count} of {total} changes, since its route has no clauses"
    return f"wants {count} of {total} changes" if count else "does not want it"


def clause_text(clause: dict[str, Any], total: int) -> str:
    """One clause on one line, with the object where there are several."""
    said = clause["error"] or f"found {clause['found']}"
    about = f" ({clause['uri']})" if total > 1 and clause["uri"] not in (None, said[6:]) else ""
    return printable(f"{clause['clause']}: expected {clause['expected']}, {said}{about}")
