"""Data goes to stdout: JSON for programs, tables and lines for people. All else goes to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import rich_click as click

from kinto_dispatch.cli.exits import NOTHING_MATCHED, leave


def emit(rows: Any, as_json: bool, show: Callable[[], None]) -> None:
    """JSON for programs, or ``show`` for people."""
    if as_json:
        print_json(rows)
    else:
        show()


def print_json(value: Any, indent: int | None = 2) -> None:
    """The value as JSON, in ASCII: whatever the terminal, it is read back as it was."""
    click.echo(json.dumps(value, indent=indent))


def nothing_matched(message: str) -> NoReturn:
    """Say so on stderr and end the command with its exit code."""
    note(message)
    leave(NOTHING_MATCHED)


def note(message: str) -> None:
    """A remark for people, on stderr."""
    click.echo(message, err=True)


def printable(value: object) -> str:
    """The value as one line of text without control characters, which a terminal would obey."""
    return _escaped("" if value is None else " ".join(str(value).split()))


def printable_lines(text: str) -> Sequence[str]:
    """The same for a text of several lines, in which the spaces show places."""
    return [_escaped(line) for line in text.splitlines()]


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table as wide as the terminal; elsewhere one line per row, in aligned columns."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich_table(columns, cells)
    else:
        _print_plain_table(columns, cells)


def _print_rich_table(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _print_plain_table(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for row in [columns, *cells]:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function to call with how many more are done; a bar on stderr if people look."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(what, total=total)
        yield lambda done: bars.advance(bar, done)
