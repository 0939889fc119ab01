"""Options that commands share, spelled the same everywhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import rich_click as click

from kinto_dispatch.cli.times import TIME


F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_INI = "config/kinto.ini"


def _remember(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Keep what was given at any level; what stands further right wins."""
    if value:
        ctx.find_root().ensure_object(dict)[parameter.name] = value


def given(name: str) -> Any:
    """``ini``, ``quiet`` or ``debug`` as given before or after the command, else ``None``."""
    ctx = click.get_current_context(silent=True)
    return ctx.find_root().ensure_object(dict).get(name) if ctx else None


def ini_path() -> str:
    """The ini file asked for: ``--ini``, else ``KINTO_INI``, else Kinto's default."""
    return given("ini") or os.environ.get("KINTO_INI") or DEFAULT_INI


def is_ini_given() -> bool:
    """Whether somebody said which ini, rather than leaving it to the default."""
    return bool(given("ini") or os.environ.get("KINTO_INI"))


def ini_option(command: F) -> F:
    """``--ini``, ``-q`` and ``-v``, as Kinto spells them, before or after the command."""
    for option in (
        click.option(
            "-v",
            "--debug",
            is_flag=True,
            expose_value=False,
            callback=_remember,
            help="Everything in the log.",
        ),
        click.option(
            "-q",
            "--quiet",
            is_flag=True,
            expose_value=False,
            callback=_remember,
            help="Only errors in the log.",
        ),
        click.option(
            "--ini",
            metavar="FILE",
            expose_value=False,
            callback=_remember,
            help=f"Kinto's ini file. [default: $KINTO_INI, {DEFAULT_INI}]",
        ),
    ):
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON with stable keys.")
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Only say what would be done.")
since_option = click.option("--since", type=TIME, help="From this time on.")
until_option = click.option("--until", type=TIME, help="Up to this time.")
channels_option = click.option(
    "--channel", "channels", metavar="NAME", multiple=True, help="Only this channel; repeatable."
)
event_option = click.option("--event", "event_id", metavar="ID", help="Only this event.")
all_option = click.option("--all", "everything", is_flag=True, help="All channels, all events.")


def require_choice(channels: Sequence[str], event_id: str | None, everything: bool) -> None:
    """A usage error unless it was said what is meant: nobody resends everything by accident."""
    if not (channels or event_id or everything):
        raise click.UsageError("Say what is meant: --channel, --event, or --all.")
    if everything and (channels or event_id):
        raise click.UsageError("--all means all channels and events; leave it out, or the others.")
