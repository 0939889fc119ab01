"""The SQL of the outbox, each statement in a file named by its verb, and what errors mean."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import TextClause, text
from sqlalchemy.exc import DBAPIError

from kinto_dispatch.errors import OutboxUnavailable


NOT_MIGRATED = ("42P01", "42703")
"""A table or a column that is not there."""

ADVICE = (
    ("authentication failed", "Correct user and password in storage_url."),
    ("no password supplied", "Put user and password into storage_url."),
    ("permission denied", "Grant it to the user of storage_url, as Kinto's own tables are."),
    ('role "', "Correct the user in storage_url."),
    ('database "', "Create it, or correct its name in storage_url."),
    ("could not translate host name", "Correct the host in storage_url."),
)
"""Looked for in the driver's words, in this order, with what to do."""


def statement(name: str) -> TextClause:
    """The statement in the file ``name``."""
    return text(_read(name))


def driver_statement(name: str) -> str:
    """The same as psycopg itself takes it, with ``%(name)s`` for a value: for what is part of a
    write, which pays for each step, and for each byte of a comment."""
    lines = _read(name).splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("--"))


def _read(name: str) -> str:
    return (Path(__file__).parent / f"{name}.sql").read_text()


def unavailable(verb: str, error: Exception) -> OutboxUnavailable:
    """The error to raise when the outbox cannot be ``verb`` (a participle). Says the driver's
    reason only, never the values of a statement."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    # What follows the first line are the driver's guesses, and the statement.
    first = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
    reason = " ".join(first.split()).rstrip(".")
    advice = "Check that PostgreSQL runs and that storage_url is right."
    if getattr(cause, "pgcode", None) in NOT_MIGRATED:
        advice = "Run `kinto migrate` with this ini."
    else:
        advice = next((what for sign, what in ADVICE if sign in reason), advice)
    return OutboxUnavailable(f"The outbox cannot be {verb}: {reason}. {advice}")
