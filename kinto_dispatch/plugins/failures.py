"""What comes out of a plugin is caught, blamed on it, and told once without secrets."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
        reason = redact(f"{what}: {type(error).__name__}: {error}")
        raise PluginError(plugin, reason) from error


def log_failure(what: str, error: BaseException, redact: Callable[[str], str]) -> None:
    """One record, with the traceback of what the plugin raised. The text is made here, since a
    handler that formats the exception would not know what is secret in it."""
    raised = error.__cause__ if isinstance(error, PluginError) else error
    lines = traceback.format_exception(raised, limit=-TRACEBACK_LINES) if raised else []
    logger.error("%s", redact("\n".join([f"{what}: {error}", "".join(lines)]).rstrip()))
