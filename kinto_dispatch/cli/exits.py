"""The exit codes of every command."""

from __future__ import annotations

from typing import NoReturn

from click.exceptions import Exit


OK = 0
FAILED = 1
USAGE = 2
NOTHING_MATCHED = 3
QUEUE_UNREACHABLE = 69
"""``EX_UNAVAILABLE`` of sysexits.h."""

BAD_CONFIGURATION = 78
"""``EX_CONFIG`` of sysexits.h."""

INTERRUPTED = 130
"""What a shell says of a program that SIGINT ended."""


def leave(code: int) -> NoReturn:
    """End the command with that exit code."""
    raise Exit(code)
