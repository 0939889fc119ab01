"""``kinto-dispatch channels``: where changes go, as the ini says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import rich_click as click

from kinto_dispatch.cli.common import load_configuration
from kinto_dispatch.cli.options import ini_option, json_option
from kinto_dispatch.cli.printing import emit, nothing_matched, print_table


if TYPE_CHECKING:
    from kinto_dispatch.plugins import Channel
    from kinto_dispatch.settings import RouteSettings


@click.command()
@ini_option
@json_option
def command(as_json: bool) -> None:
    """List the configured channels: plugin, mode, route, and whether they could be loaded."""
    rows = [as_row(channel) for channel in load_configuration().channels]
    emit(rows, as_json, lambda: show(rows))
    if not rows:
        nothing_matched("No channel is configured.")


def as_row(channel: Channel) -> dict[str, Any]:
    """The channel under the stable keys. ``phase`` is ``null`` where it does not apply."""
    return {
        "name": channel.name,
        "plugin": channel.config.plugin,
        "mode": channel.mode,
        "phase": channel.config.phase if channel.mode == "sync" else None,
        "route": summary(channel.config.route),
        "status": channel.status,
        "reason": channel.reason,
    }


def summary(route: RouteSettings) -> str:
    """The clauses of a route as the ini spells them, on one line; ``everything`` if none."""
    clauses = {
        "alias actions": " ".join(route.alias_actions),
        "alias resources": " ".join(route.alias_resources),
        "events": " ".join(name for name in route.events if name != "*"),
        "actions": " ".join(route.actions),
        "resources": " ".join(route.resources),
        "uris": " ".join(route.uris),
        "users": " ".join(route.users),
        "when": route.when or "",
    }
    return (
        "; ".join(f"{name} = {value}" for name, value in clauses.items() if value) or "everything"
    )


def show(rows: list[dict[str, Any]]) -> None:
    """A table for people."""
    print_table(
        ("channel", "plugin", "mode", "status", "route", "reason"),
        [
            (
                row["name"],
                row["plugin"],
                f"{row['mode']}, {row['phase']}" if row["phase"] else row["mode"],
                row["status"],
                row["route"],
                row["reason"],
            )
            for row in rows
        ],
    )
