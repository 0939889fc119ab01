"""``kinto-dispatch dead``: what will not be attempted again unless a person says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import rich_click as click

from kinto_dispatch.cli.common import (
    confirm,
    known_lanes,
    load_configuration,
    pick_lanes,
    with_queue,
)
from kinto_dispatch.cli.dead_letters import ACTIONS, Action, Filter, Plan, carry_out, count
from kinto_dispatch.cli.options import (
    all_option,
    channels_option,
    dry_run_option,
    event_option,
    ini_option,
    json_option,
    require_choice,
    since_option,
    yes_option,
)
from kinto_dispatch.cli.pages import event_id_of
from kinto_dispatch.cli.printing import (
    emit,
    note,
    nothing_matched,
    print_json,
    print_table,
    printable,
)
from kinto_dispatch.cli.times import TIME, iso


if TYPE_CHECKING:
    from kinto_dispatch.queue.protocol import Queue
    from kinto_dispatch.queue.values import DeadLetter


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which dead letters are meant."""
    for option in (
        click.option(
            "--until", "--older-than", "until", type=TIME, help="Dead since that time or longer."
        ),
        since_option,
        click.option("--reason", metavar="TEXT", help="Only those whose reason contains this."),
        event_option,
        channels_option,
    ):
        command = option(command)
    return command


@click.group()
@ini_option
def command() -> None:
    """List, show, replay or purge dead letters.

    A dead letter was refused for good (`refused`), ran out of attempts or could not be made
    (`failed`), or ended the process that ran it, twice (`poison`).
    """


@command.command("list")
@ini_option
@filter_options
@json_option
def list_letters(channels: tuple[str, ...], as_json: bool, **criteria: Any) -> None:
    """List dead letters, those of each channel oldest first. Exits 3 if there are none.

    Also those of channels that were renamed or removed.
    """
    configuration = load_configuration()

    async def work(queue: Queue) -> list[dict[str, Any]]:
        chosen = Filter(lanes=await known_lanes(queue, configuration, channels), **criteria)
        return [as_row(letter) async for page in chosen.pages(queue) for letter in page]

    rows = with_queue(configuration, work)
    emit(rows, as_json, lambda: show(rows))
    if not rows:
        nothing_matched("No dead letter matches.")


@command.command("show")
@click.argument("event_id", metavar="EVENT")
@ini_option
@channels_option
@json_option
def show_letters(event_id: str, channels: tuple[str, ...], as_json: bool) -> None:
    """Show the dead letters of an event, given its id, with the event as it was captured."""
    configuration = load_configuration()

    async def work(queue: Queue) -> list[dict[str, Any]]:
        lanes = await known_lanes(queue, configuration, channels)
        chosen = Filter(lanes=lanes, event_id=event_id)
        return [in_full(letter) async for page in chosen.pages(queue) for letter in page]

    rows = with_queue(configuration, work)
    emit(rows, as_json, lambda: show_in_full(rows))
    if not rows:
        nothing_matched(f"No dead letter of an event {event_id!r}.")


@command.command("replay")
@ini_option
@filter_options
@all_option
@dry_run_option
@yes_option
@json_option
def replay_letters(**options: Any) -> None:
    """Put dead letters back into their lanes, as first attempts marked as replays.

    Event id and key stay the same, so that a receiver can recognise a repeat. Asks before.
    """
    act(ACTIONS["replay"], **options)


@command.command("purge")
@ini_option
@filter_options
@all_option
@dry_run_option
@yes_option
@json_option
def purge_letters(**options: Any) -> None:
    """Destroy dead letters for good. Asks before.

    Those of a channel that was renamed or removed only where --channel names it.
    """
    act(ACTIONS["purge"], **options)


def act(
    action: Action,
    *,
    channels: tuple[str, ...],
    everything: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **criteria: Any,
) -> None:
    """Count what is meant, ask, do it, and say what was done."""
    require_choice(channels, criteria["event_id"], everything)
    configuration = load_configuration()

    async def look(queue: Queue) -> tuple[Filter, Plan]:
        if channels and not action.needs_channel:
            lanes = await known_lanes(queue, configuration, channels)
        else:
            lanes = [channel.name for channel in pick_lanes(configuration, channels)]
        chosen = Filter(lanes=lanes, **criteria)
        return chosen, await count(queue, chosen)

    chosen, plan = with_queue(configuration, look)
    matched = sum(found for found, _ in plan.values())
    if matched and not dry_run:
        lanes = ", ".join(lane for lane, (found, _) in plan.items() if found)
        confirm(f"{action.verb} {matched} dead letters of {lanes}?", yes)
        done = with_queue(configuration, lambda queue: carry_out(queue, action, chosen, plan))
    else:
        done = 0
    result = {"matched": matched, action.done: done, "dry_run": dry_run}
    emit(result, as_json, lambda: note(f"Matched {matched} dead letters, {action.done} {done}."))
    if not matched:
        nothing_matched("No dead letter matches.")


def as_row(letter: DeadLetter) -> dict[str, Any]:
    """The dead letter under the stable keys."""
    return {
        "event_id": event_id_of(letter.key),
        "key": letter.key,
        "channel": letter.lane,
        "kind": letter.kind,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "at": iso(letter.at_ms / 1000),
    }


def in_full(letter: DeadLetter) -> dict[str, Any]:
    """The dead letter with its event, as an object where it can be read, else as text; with a
    list of them where it is of a digest."""
    from kinto_dispatch.digest import RECORD_SEPARATOR

    try:
        event = (
            [json.loads(text) for text in letter.body.split(RECORD_SEPARATOR)[1:]]
            if letter.body.startswith(RECORD_SEPARATOR)
            else json.loads(letter.body)
        )
    except (ValueError, RecursionError):
        event = letter.body.decode(errors="backslashreplace")
    return {**as_row(letter), "event": event}


def show(rows: Sequence[dict[str, Any]]) -> None:
    """A table for people."""
    columns = ("at", "channel", "event_id", "kind", "attempts", "reason")
    if rows:
        print_table(columns, [[row[column] for column in columns] for row in rows])


def show_in_full(rows: Sequence[dict[str, Any]]) -> None:
    """One field a line, the event last, as JSON."""
    for row in rows:
        for name, value in row.items():
            if name != "event":
                click.echo(f"{name}: {printable(value)}")
        print_json(row["event"])
