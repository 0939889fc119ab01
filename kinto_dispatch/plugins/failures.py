"""What comes out of a plugin is caught, blamed on it, and told once without secrets."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from kinto_dispatch.errors import BadSettings, PluginError


logger = logging.getLogger(__name__)

TRACEBACK_LINES = 20


@contextmanager
def blaming(plugin: str, what: str, redact: Callable[[str], str]) -> Iterator[None]:
    """Whatever comes out of a plugin is a ``PluginError``: not even ``SystemExit`` may end the
    process that asked for it."""
    try:
        yield
    except (BadSettings, PluginError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise PluginError(plugin, redact(f"{what}: {describe(error)}")) from error


def describe(error: BaseException) -> str:
    """The exception in one line. pydantic quotes parts of what it was given; not here."""
    try:
        text = str(error)
    except Exception:
        text = "(it cannot be shown)"
    if isinstance(error, ValidationError):
        details = error.errors(include_url=False, include_context=False, include_input=False)
        text = "; ".join(
            f"{'.'.join(map(str, detail['loc']))} {detail['msg']}" for detail in details
        )
    return " ".join(f"{type(error).__name__}: {text}".split())


def log_failure(what: str, error: BaseException, redact: Callable[[str], str]) -> None:
    """One record, with the traceback of what the plugin raised. The text is made here, since a
    handler that formats an exception does not know what is secret in it."""
    raised = error.__cause__ if isinstance(error, PluginError) else error
    lines = [f"{what}: {error}\n", *_traceback(raised)]
    logger.error("%s", redact("".join(lines)).rstrip())


def _traceback(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield from traceback.format_tb(error.__traceback__, limit=-TRACEBACK_LINES)
        yield f"{describe(error)}\n"
        hidden = None if error.__suppress_context__ else error.__context__
        error = error.__cause__ or hidden
        if error is not None:
            yield "which came of:\n"
