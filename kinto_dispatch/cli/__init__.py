"""The command ``kinto-dispatch``: one file per command, loaded when it is asked for."""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import Any

import rich_click as click

from kinto_dispatch.cli.exits import (
    BAD_CONFIGURATION,
    FAILED,
    INTERRUPTED,
    QUEUE_UNREACHABLE,
    USAGE,
)
from kinto_dispatch.cli.options import ini_option
from kinto_dispatch.errors import BadSettings, DispatchError, QueueUnavailable, did_you_mean


COMMANDS = {
    "worker": "Deliver what the async channels want.",
    "demo": "See it work: a real Kinto, queue, worker, mail server and Slack stand-in.",
    "check": "Check the ini, the plugins, their settings, the outbox and the queue.",
    "plugins": "List the installed plugins.",
    "channels": "List the configured channels.",
    "send-test": "Send a test message to one channel, now.",
    "status": "Show lanes, outbox and workers.",
    "tail": "Follow the attempts, or the events, as they come.",
    "attempts": "List what was attempted, and what came of it.",
    "dead": "List, show, replay or purge dead letters.",
    "replay": "Send events of the past to a channel again.",
    "pause": "Let a channel's lane fill without delivering.",
    "resume": "Deliver again after a pause.",
    "explain": "Say for an event which channels wanted it, why, and what became of it.",
    "new-plugin": "Write the package of a new channel plugin.",
}
"""Every command with its one-line help, so that ``--help`` imports none of them."""


class LazyGroup(click.RichGroup):
    """Finds a command in the module of its name: ``send-test`` in ``cli/send_test.py``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Name and help of a command, for listings and completion; imports nothing."""
        return click.RichCommand(name=name, help=COMMANDS[name]) if name in COMMANDS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command itself, to run it, to show its help or to complete its options."""
        name, command, rest = args[0], load_command(args[0]), args[1:]
        if command is None and not ctx.resilient_parsing:
            advice = did_you_mean(name, COMMANDS)
            raise click.UsageError(f"There is no command {name!r}. {advice}".strip(), ctx)
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; every error of ours is one message and a documented exit code."""
        try:
            return super().invoke(ctx)
        except DispatchError as error:
            click.echo(str(error), err=True)
            ctx.exit(exit_code(error))
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except click.Abort as abort:
            # click makes one exception of Ctrl-C at a question and of the end of standard input.
            interrupted = isinstance(abort.__context__, KeyboardInterrupt)
            ctx.exit(INTERRUPTED if interrupted else USAGE)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """As click's own: errors are plain text, since they end up in logs and mails too."""
        return click.Group.main(self, *args, **kwargs)


def load_command(name: str) -> click.Command | None:
    """The command of that name with its options, ``None`` if there is none."""
    if name not in COMMANDS:
        return None
    module = importlib.import_module(f"kinto_dispatch.cli.{name.replace('-', '_')}")
    command: click.Command = module.command
    command.name = name
    return command


def exit_code(error: DispatchError) -> int:
    """The documented exit code for an error of ours."""
    match error:
        case BadSettings():
            return BAD_CONFIGURATION
        case QueueUnavailable():
            return QUEUE_UNREACHABLE
        case _:
            return FAILED


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@ini_option
@click.version_option(package_name="kinto-dispatch", prog_name="kinto-dispatch")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Who hears about a change in Kinto, and whether they did."""
    if os.environ.get("NO_COLOR"):
        ctx.color = False
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What a destination answered may hold characters that the terminal cannot show.
        sys.stdout.reconfigure(errors="backslashreplace")


def main() -> None:
    """Run the command line and exit."""
    cli(prog_name="kinto-dispatch")
