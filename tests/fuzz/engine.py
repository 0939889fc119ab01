"""Makes inputs, runs a target on them, and keeps those that led somewhere new."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


SLOWEST_SECONDS = 2.0
"""Of this thread on the processor, for one input: twice what a budget of steps may cost."""

LONGEST_INPUT = 4_096
MOST_KEPT = 2_000

BYTES = (b"\x00", b"\n", b"\xff", b"\xed\xa0\x80", b"{", b"}", b"[", b"]", b'"', b"\\", b"%", b"'")


class Defect(AssertionError):
    """Raised by a target for an answer that it must not get."""


@dataclass(frozen=True)
class Target:
    """What is attacked. ``run`` takes any bytes and tells what kind of answer came; whatever it
    raises is a defect. ``words`` are put into inputs beside parts of the ``seeds``."""

    name: str
    run: Callable[[bytes], str]
    seeds: Sequence[bytes]
    words: Sequence[bytes]


@dataclass
class Finding:
    """An input that is answered wrongly."""

    data: bytes
    error: BaseException


@dataclass
class Report:
    """What came of a run."""

    runs: int = 0
    answers: int = 0
    finding: Finding | None = None


def fuzz(target: Target, seconds: float, seed: int) -> Report:
    """Attack for so long, or until the first defect. The same seed makes the same inputs."""
    chance, report = random.Random(seed), Report()
    kept, seen = list(target.seeds), set[str]()
    until = time.monotonic() + seconds
    waiting = list(target.seeds)
    while time.monotonic() < until:
        data = (
            waiting.pop() if waiting else mutate(chance, chance.choice(kept), kept, target.words)
        )
        report.runs += 1
        try:
            answer = run_once(target, data)
        except Exception as error:
            report.finding = Finding(data, error)
            break
        if answer not in seen and len(kept) < MOST_KEPT:
            seen.add(answer)
            kept.append(data)
    report.answers = len(seen)
    return report


def run_once(target: Target, data: bytes) -> str:
    """The kind of the answer: what varies with the input is left out. Raises any defect."""
    started = time.thread_time()
    answer = target.run(data)
    if (taken := time.thread_time() - started) > SLOWEST_SECONDS:
        raise Defect(f"took {taken:.1f} s")
    return re.sub(r"\d+|'.*?'|\".*?\"|b'.*", "", answer)[:120]


def mutate(
    chance: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]
) -> bytes:
    """The input with one to five changes."""
    for _ in range(chance.randint(1, 5)):
        start = chance.randint(0, len(data))
        end = min(len(data), start + chance.choice((0, 1, 2, 8, 64)))
        match chance.randrange(6):
            case 0:
                piece = chance.choice(BYTES)
            case 1 | 2:
                piece = chance.choice(words)
            case 3:
                piece = data[start:end] * chance.choice((2, 3, 50))
            case 4:
                other = chance.choice(others)
                at = chance.randint(0, len(other))
                piece = other[at : at + chance.choice((1, 8, 64, 512))]
            case _:
                piece = chance.randbytes(chance.randint(0, 4))
        data = (data[:start] + piece + data[end:])[:LONGEST_INPUT]
    return data
