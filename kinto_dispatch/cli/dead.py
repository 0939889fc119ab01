"""``kinto-dispatch dead``: what will not be attempted again unless a person says so."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import rich_click as click

from kinto_dispatch.cli.common import confirm, load_configuration, pick_lanes, with_queue
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
from kinto_dispatch.cli.pages import dead_letters, event_id_of
from kinto_dispatch.cli.printing import (
    emit,
    note,
    nothing_matched,
    print_json,
    print_table,
    printable,
    progress,
)
from kinto_dispatch.cli.times import TIME, iso


if TYPE_CHECKING:
    from kinto_dispatch.plugins import Configuration
    from kinto_dispatch.queue.protocol import DeadLetter, Queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which dead letters are meant. Times are seconds since the epoch; ``None`` means any."""

    lanes: Sequence[str]
    event_id: str | None = None
    reason: str | None = None
    since: float | None = None
    until: float | None = None

    def wants(self, letter: DeadLetter) -> bool:
        """Whether all that was asked holds for this letter."""
        at = letter.at_ms / 1000
        return (
            (self.event_id is None or event_id_of(letter.key) == self.event_id)
            and (self.reason is None or self.reason.lower() in letter.reason.lower())
            and (self.since is None or at >= self.since)
            and (self.until is None or at <= self.until)
        )

    async def pages(self, queue: Queue) -> AsyncIterator[list[DeadLetter]]:
        """What is meant, lane by lane, oldest first; never an empty page."""
        for lane in self.lanes:
            async for page in dead_letters(queue, lane):
                if wanted := [letter for letter in page if self.wants(letter)]:
                    yield wanted


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


def make_filter(
    configuration: Configuration, channels: Sequence[str] = (), **criteria: Any
) -> Filter:
    """The filter that the options describe; a usage error for a channel that does not exist."""
    lanes = [channel.name for channel in pick_lanes(configuration, channels)]
    return Filter(lanes=lanes, **criteria)


@click.group()
def command() -> None:
    """List, show, replay or purge dead letters.

    A dead letter was refused for good (`refused`), ran out of attempts or could not be made
    (`failed`), or ended the process that ran it, twice (`poison`).
    """


@command.command("list")
@ini_option
@filter_options
@json_option
def list_letters(as_json: bool, **criteria: Any) -> None:
    """List dead letters, those of each channel oldest first. Exits 3 if there are none."""
    configuration = load_configuration()
    chosen = make_filter(configuration, **criteria)

    async def work(queue: Queue) -> list[dict[str, Any]]:
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
    chosen = make_filter(configuration, channels, event_id=event_id)

    async def work(queue: Queue) -> list[dict[str, Any]]:
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
    """Destroy dead letters for good. Asks before."""
    act(ACTIONS["purge"], **options)


@dataclass(frozen=True, slots=True)
class Action:
    """What is done to dead letters: ``verb`` in questions, ``done`` in results."""

    verb: str
    done: str
    method: Callable[[Queue, str, Sequence[DeadLetter]], Any]


ACTIONS = {
    "replay": Action(
        "Replay", "replayed", lambda queue, lane, letters: queue.replay_dead(lane, letters)
    ),
    "purge": Action(
        "Destroy", "purged", lambda queue, lane, letters: queue.purge_dead(lane, letters)
    ),
}


def act(
    action: Action, *, everything: bool, dry_run: bool, yes: bool, as_json: bool, **criteria: Any
) -> None:
    """Count what is meant, ask, do it, and say what was done."""
    require_choice(criteria["channels"], criteria["event_id"], everything)
    configuration = load_configuration()
    chosen = make_filter(configuration, **criteria)
    plan = with_queue(configuration, lambda queue: count(queue, chosen))
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


Plan = dict[str, tuple[int, float]]
"""For each lane how many letters are meant, and when the last of them died."""


async def count(queue: Queue, chosen: Filter) -> Plan:
    """What there is to do."""
    plan: Plan = {}
    async for page in chosen.pages(queue):
        found, _ = plan.get(page[0].lane, (0, 0.0))
        plan[page[0].lane] = found + len(page), page[-1].at_ms / 1000
    return plan


async def carry_out(queue: Queue, action: Action, chosen: Filter, plan: Plan) -> int:
    """Do it to the letters that were counted, page by page; how many.

    What died after that is left alone, or a replay that fails at once would never end.
    """
    done = 0
    with progress(action.verb, sum(found for found, _ in plan.values())) as advance:
        for lane, (_, last) in plan.items():
            async for page in replace(chosen, lanes=[lane], until=last).pages(queue):
                done += await action.method(queue, lane, page)
                advance(len(page))
    return done


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
    """The dead letter with its event, as an object where it can be read, else as text."""
    try:
        event = json.loads(letter.body)
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
