"""``kinto-dispatch attempts``: what was attempted, and what came of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import rich_click as click

from kinto_dispatch.cli.common import known_lanes, load_configuration, with_queue
from kinto_dispatch.cli.options import (
    channels_option,
    event_option,
    ini_option,
    json_option,
    since_option,
    until_option,
)
from kinto_dispatch.cli.pages import attempt_records
from kinto_dispatch.cli.printing import emit, note, nothing_matched, print_table
from kinto_dispatch.cli.times import duration, iso


if TYPE_CHECKING:
    from kinto_dispatch.attempt import AttemptRecord
    from kinto_dispatch.queue.protocol import Queue

OUTCOMES = ("delivered", "retry", "rejected", "failed", "poison", "joined", "skipped")


@click.command()
@ini_option
@channels_option
@event_option
@click.option("--outcome", type=click.Choice(OUTCOMES), help="Only attempts that ended so.")
@since_option
@until_option
@click.option(
    "--limit", type=click.IntRange(1), default=1000, show_default=True, help="The newest only."
)
@json_option
def command(
    channels: tuple[str, ...],
    event_id: str | None,
    outcome: str | None,
    since: float | None,
    until: float | None,
    limit: int,
    as_json: bool,
) -> None:
    """List attempts, oldest first: what, when, how long it took, and what came of it.

    `retry` and `failed` are attempted again until max_attempts; then they are dead letters.
    What was `joined` went into a digest, what was `skipped` made room for a newer version: the
    reason is `into` and the key of that delivery.
    Exits 3 if there are none.
    """
    configuration = load_configuration()

    def wanted(record: AttemptRecord) -> bool:
        return (
            (event_id is None or record.event_id == event_id)
            and (outcome is None or record.outcome == outcome)
            and (since is None or record.at >= since)
            and (until is None or record.at <= until)
        )

    async def work(queue: Queue) -> Sequence[AttemptRecord]:
        found: list[AttemptRecord] = []
        for lane in await known_lanes(queue, configuration, channels):
            newest: deque[AttemptRecord] = deque(maxlen=limit)
            async for record in attempt_records(queue, lane, since):
                if wanted(record):
                    newest.append(record)
            found += newest
        return sorted(found, key=lambda record: record.at)

    records = with_queue(configuration, work)
    rows = [as_row(record) for record in records[-limit:]]
    emit(rows, as_json, lambda: show(rows))
    if not rows:
        nothing_matched("No attempt matches.")
    if len(rows) == limit:
        note(f"The newest {limit}; for more use --limit, for others --since and --until.")


def as_row(record: AttemptRecord) -> dict[str, Any]:
    """The attempt under the stable keys."""
    return {
        "event_id": record.event_id,
        "key": record.key,
        "channel": record.channel,
        "attempt": record.attempt,
        "outcome": record.outcome,
        "reason": record.reason or (f"into {record.into}" if record.into else None),
        "at": iso(record.at),
        "duration_seconds": record.duration_seconds,
        "replay": record.replay,
    }


def show(rows: Sequence[dict[str, Any]]) -> None:
    """A table for people."""
    if rows:
        print_table(
            ("at", "channel", "event", "attempt", "outcome", "took", "reason"),
            [
                (
                    row["at"],
                    row["channel"],
                    row["event_id"],
                    f"{row['attempt']} (replay)" if row["replay"] else row["attempt"],
                    row["outcome"],
                    duration(row["duration_seconds"]),
                    row["reason"],
                )
                for row in rows
            ],
        )
