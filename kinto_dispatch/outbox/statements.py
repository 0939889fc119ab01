"""The SQL of the outbox, each statement in a file named by its verb, and what errors mean."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import TextClause, text
from sqlalchemy.exc import DBAPIError

from kinto_dispatch.errors import OutboxUnavailable


UNDEFINED_TABLE = "42P01"


def statement(name: str) -> TextClause:
    """The statement in the file ``name``."""
    return text(driver_statement(name))


def driver_statement(name: str) -> str:
    """The same as psycopg itself takes it, with ``%(name)s`` for a value: for what is part of a
    write, since looking up how SQLAlchemy would have it is a sixth of what the outbox takes."""
    return (Path(__file__).parent / f"{name}.sql").read_text()


def unavailable(verb: str, error: Exception) -> OutboxUnavailable:
    """The error to raise when the outbox cannot be ``verb`` (a participle). Says the driver's
    reason only, never the values of a statement."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    advice = "Check that PostgreSQL runs and that storage_url is right."
    if getattr(cause, "pgcode", None) == UNDEFINED_TABLE:
        advice = "Run `kinto migrate`."
    reason = " ".join(str(cause).split()).rstrip(".")
    return OutboxUnavailable(f"The outbox cannot be {verb}: {reason}. {advice}")
