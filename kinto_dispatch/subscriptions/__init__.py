"""Hooks in metadata: users subscribe a bucket or collection to channels that the operator opened.

Whoever may write a bucket or collection writes its hooks, so nothing of them is trusted: they name
channels and never addresses of servers, they see what happens below their owner and nowhere else,
and what judging and rendering them costs is bounded.
"""

from kinto_dispatch.subscriptions.formats import FORMATS, OURS, Compiled, compile_hook
from kinto_dispatch.subscriptions.metadata import (
    MOST_HOOKS,
    Openings,
    hooks_of,
    problems_of,
    unheard,
)


__all__ = [
    "FORMATS",
    "MOST_HOOKS",
    "OURS",
    "Compiled",
    "Openings",
    "compile_hook",
    "hooks_of",
    "problems_of",
    "unheard",
]
