"""Bounds that a test puts around what it runs."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest


Limits = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def limited() -> Limits:
    """``with limited(seconds=1, megabytes=50)``: fails if the block takes more of either.

    Seconds are those of this thread on the processor, so that a busy machine fails no test, and
    are taken while memory is traced, which makes everything two to four times slower.
    """
    return _limited


@contextlib.contextmanager
def _limited(*, seconds: float, megabytes: float) -> Iterator[None]:
    tracemalloc.start()
    started = time.thread_time()
    try:
        yield
        taken = time.thread_time() - started
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < seconds, f"took {taken:.2f} s"
    assert peak < megabytes * 1_000_000, f"took {peak / 1_000_000:.0f} MB"
