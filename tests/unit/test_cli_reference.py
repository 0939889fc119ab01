"""The reference of the commands is made from the commands: run this file to write it again."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import rich_click as click

from kinto_dispatch.cli import COMMANDS, cli, exits, load_command


REFERENCE = Path(__file__).parents[2] / "docs/reference/commands.md"
MARK = "<!-- What follows is made from the commands by tests/unit/test_cli_reference.py. -->\n"
SHARED = {"ini", "quiet", "debug", "help"}


def generated() -> str:
    """Every command with its help, arguments and options, in the order of the listing."""
    parent = click.Context(cli, info_name="kinto-dispatch")
    return "\n".join(line for name in COMMANDS for line in section(name, parent))


def section(name: str, parent: click.Context) -> Iterator[str]:
    """One command; those of a group each in a section of their own."""
    command = load_command(name)
    assert command is not None
    yield from describe(command, click.Context(command, parent, name))
    if isinstance(command, click.Group):
        context = click.Context(command, parent, name)
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from describe(found, click.Context(found, context, inner))


def describe(command: click.Command, context: click.Context) -> Iterator[str]:
    """Title, usage, help, options."""
    yield f"## `{context.command_path}`\n"
    pieces = " ".join(command.collect_usage_pieces(context))
    yield f"```\n{context.command_path} {pieces}\n```\n"
    yield inspect.cleandoc(command.help or "") + "\n"
    options = [
        option
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden and option.name not in SHARED
    ]
    for option in options:
        yield describe_option(option, context)
    if options:
        yield ""


def describe_option(option: click.Option, context: click.Context) -> str:
    """One line of a list."""
    record = option.get_help_record(context)
    assert record is not None
    spelling, text = record
    return f"- `{' '.join(spelling.split())}`: {' '.join(text.split())}"


def test_the_reference_is_up_to_date() -> None:
    """Every command and option is in the reference, as the command itself explains it."""
    written = REFERENCE.read_text().partition(MARK)[2]
    assert written == generated(), "run: python tests/unit/test_cli_reference.py"


def test_exit_codes_are_documented() -> None:
    """Each exit code has a row in the reference."""
    text = REFERENCE.read_text()
    codes = {value for name, value in vars(exits).items() if name.isupper()}
    assert all(f"| {code} |" in text for code in codes)


if __name__ == "__main__":
    head, mark, _ = REFERENCE.read_text().partition(MARK)
    REFERENCE.write_text(head + MARK + generated())
