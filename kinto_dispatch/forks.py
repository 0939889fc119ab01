"""What an object has to forget in a fork, which has one thread: the one that forked.

Some web servers load the application, and may even serve it a request, before they fork.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary


Owner = TypeVar("Owner")

_forgets: WeakKeyDictionary[Any, Callable[[Any], None]] = WeakKeyDictionary()


def in_forks(owner: Owner, forget: Callable[[Owner], None]) -> None:
    """Call ``forget(owner)`` in each fork of this process, before anything else runs there."""
    _forgets[owner] = forget


def _forget() -> None:
    for owner, forget in list(_forgets.items()):
        forget(owner)


os.register_at_fork(after_in_child=_forget)
