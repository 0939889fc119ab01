"""The command ``kinto-dispatch``: one file per command, loaded when it is asked for."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import version

import rich_click as click

from kinto_dispatch.cli.exits import BAD_CONFIGURATION, FAILED, QUEUE_UNREACHABLE
from kinto_dispatch.errors import BadSettings, DispatchError, QueueUnavailable


COMMANDS = {
    "worker": "Deliver what the async channels want.",
    "demo": "See it work: a real Kinto, queue, worker, mail server and Slack stand-in.",
    "check": "Check the ini, the plugins, their settings and the queue.",
    "plugins": "List the installed plugins.",
    "channels": "List the configured channels.",
    "status": "Show lanes, outbox and workers.",
    "send-test": "Send a test message to one channel, now.",
}
"""Every command with its one-line help, so that ``--help`` imports none of them."""


class LazyGroup(click.RichGroup):
    """Finds a command in the module of its name: ``send-test`` in ``cli/send_test.py``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        if ctx.resilient_parsing or _only_lists_help(ctx):
            return click.RichCommand(name, help=COMMANDS[name])
        module = importlib.import_module(f"kinto_dispatch.cli.{name.replace('-', '_')}")
        command: click.Command = module.command
        command.name = name
        command.help = command.help or COMMANDS[name]
        return command


def _only_lists_help(ctx: click.Context) -> bool:
    """Whether the group itself is asked for help, so that only names are needed."""
    return not getattr(ctx, "_protected_args", None) and ctx.invoked_subcommand is None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--ini", metavar="FILE", help="Kinto's ini file. [default: $KINTO_INI, config/kinto.ini]"
)
@click.option("-q", "--quiet", is_flag=True, help="Only errors in the log.")
@click.option("-v", "--debug", is_flag=True, help="Everything in the log.")
@click.version_option(version("kinto-dispatch"), prog_name="kinto-dispatch")
@click.pass_context
def cli(ctx: click.Context, ini: str | None, quiet: bool, debug: bool) -> None:
    """Who hears about a change in Kinto, and whether they did."""
    ctx.obj = {"ini": ini, "quiet": quiet, "debug": debug}


def main() -> None:
    """Run the command line; every error of ours is one message and a documented exit code."""
    try:
        cli(prog_name="kinto-dispatch")
    except DispatchError as error:
        click.echo(str(error), err=True)
        sys.exit(_exit_code(error))


def _exit_code(error: DispatchError) -> int:
    match error:
        case BadSettings():
            return BAD_CONFIGURATION
        case QueueUnavailable():
            return QUEUE_UNREACHABLE
        case _:
            return FAILED
