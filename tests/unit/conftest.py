"""Bounds that a test puts around what it runs."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from typing import TypeVar

import pytest


T = TypeVar("T")


@pytest.fixture
def bounded() -> Callable[..., object]:
    """``bounded(call, seconds=1, megabytes=50)``: what the call returns; fails above either.

    Calls twice, once for each measure, since tracing memory makes everything several times
    slower. Seconds are those of this thread on the processor, so that a busy machine fails no
    test.
    """
    return _bounded


def _bounded(call: Callable[[], T], *, seconds: float, megabytes: float) -> T:
    started = time.thread_time()
    call()
    taken = time.thread_time() - started
    tracemalloc.start()
    try:
        result = call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < seconds, f"took {taken:.2f} s"
    assert peak < megabytes * 1_000_000, f"took {peak / 1_000_000:.0f} MB"
    return result
