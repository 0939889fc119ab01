"""``kinto-dispatch plugins``: what is installed, and whether it works."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import rich_click as click

from kinto_dispatch.cli.common import load_configuration
from kinto_dispatch.cli.options import ini_option, ini_path, is_ini_given, json_option
from kinto_dispatch.cli.printing import emit, note, nothing_matched, print_table
from kinto_dispatch.errors import BadSettings


if TYPE_CHECKING:
    from kinto_dispatch.plugins import Channel, InstalledPlugin


@click.command()
@ini_option
@click.option("--load", is_flag=True, help="Try those too that no channel uses.")
@json_option
def command(load: bool, as_json: bool) -> None:
    """List the installed plugins: `loaded` or `failed` if a channel uses them, else `available`.

    Needs no ini: without one, or with one that cannot work, no plugin counts as used.
    """
    from kinto_dispatch.plugins import installed

    rows = [as_row(plugin) for plugin in installed(_channels(), load=load)]
    emit(rows, as_json, lambda: show(rows))
    if not rows:
        nothing_matched("No plugin is installed. Try: pip install kinto-dispatch-email")


def _channels() -> Sequence[Channel]:
    """The channels of the ini, if there is one that works."""
    if not is_ini_given() and not os.path.isfile(ini_path()):
        return ()
    try:
        return load_configuration(logging.CRITICAL).channels
    except BadSettings as error:
        note(str(error))
        return ()


def as_row(plugin: InstalledPlugin) -> dict[str, Any]:
    """The plugin under the stable keys."""
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "status": plugin.status,
        "reason": plugin.reason,
        "hooks": list(plugin.hooks),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """A table for people."""
    print_table(
        ("plugin", "distribution", "version", "status", "hooks", "reason"),
        [
            (
                row["name"],
                row["distribution"],
                row["version"],
                row["status"],
                ", ".join(row["hooks"]),
                row["reason"],
            )
            for row in rows
        ],
    )
