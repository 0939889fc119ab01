"""What the commands share: the ini, the log, and how listings are printed."""

from __future__ import annotations

import configparser
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from kinto_dispatch.errors import BadSettings, Problem


if TYPE_CHECKING:
    from kinto_dispatch.plugins import Configuration

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_INI = "config/kinto.ini"


def ini_option(command: F) -> F:
    """``--ini`` after the command too, with ``-q`` and ``-v``, as Kinto spells them."""
    for decorate in (
        click.option("--ini", metavar="FILE", help="Kinto's ini file."),
        click.option("-q", "--quiet", is_flag=True, help="Only errors in the log."),
        click.option("-v", "--debug", is_flag=True, help="Everything in the log."),
    ):
        command = decorate(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON with stable keys.")


def ini_path(ini: str | None) -> str:
    """The ini file asked for: the option in either place, ``KINTO_INI``, Kinto's default."""
    outer = (click.get_current_context().find_root().obj or {}).get("ini")
    return ini or outer or os.environ.get("KINTO_INI") or DEFAULT_INI


def load_configuration(ini: str | None, quiet: bool = False, debug: bool = False) -> Configuration:
    """The checked configuration of that ini. Sets up logging. Raises ``BadSettings``."""
    path = ini_path(ini)
    settings = read_ini(path)
    outer = click.get_current_context().find_root().obj or {}
    set_up_logging(path, quiet or outer.get("quiet", False), debug or outer.get("debug", False))
    from kinto_dispatch.plugins import configure

    return configure(settings)


def read_ini(path: str) -> Mapping[str, Any]:
    """The settings of the application section as text. Raises ``BadSettings``."""
    if not os.path.isfile(path):
        raise BadSettings(
            [Problem("--ini", f"there is no file {path!r}", "Kinto's ini file", "Set --ini.")]
        )
    with warnings.catch_warnings():
        # Pyramid imports pkg_resources, whose warning is nothing an operator can act on.
        warnings.simplefilter("ignore")
        from pyramid.paster import get_appsettings
    try:
        settings: Mapping[str, Any] = get_appsettings(path, name="main")
    except configparser.InterpolationError as error:
        raise BadSettings(
            [
                Problem(
                    f"{path}: {error.option}",
                    "a single % in the value",
                    "%% for each % in an ini file",
                    "Or put the value into a file or the environment.",
                )
            ]
        ) from error
    except (configparser.Error, LookupError) as error:
        raise BadSettings(
            [Problem(path, str(error), "an ini file that Kinto can read")]
        ) from error
    return settings


def set_up_logging(path: str, quiet: bool, debug: bool) -> None:
    """The ini's own ``[loggers]`` if it has them, else one line per record on stderr."""
    parser = configparser.RawConfigParser()
    parser.read(path)
    if parser.has_section("loggers") and not (quiet or debug):
        from pyramid.paster import setup_logging

        setup_logging(path)
        return
    level = logging.ERROR if quiet else logging.DEBUG if debug else logging.INFO
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s %(message)s"
    )


def emit(rows: Any, as_json: bool, table: Callable[[], None]) -> None:
    """Data on stdout: JSON for programs, ``table`` for people."""
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=2, default=str))
    else:
        table()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table for people, as wide as the terminal; plain where stdout is none."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    Console().print(table)


def iso(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
