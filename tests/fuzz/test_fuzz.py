"""A little of each attack with every run of the tests; the long ones are run by hand."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kinto_dispatch import EgressGuard, mailbox
from kinto_dispatch.subscriptions import Openings, problems_of
from tests.fuzz.engine import Defect, Target, fuzz, run_once
from tests.fuzz.targets import TARGETS


ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of refusals need not be kept."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_nothing_is_found(target: Target) -> None:
    """For two seconds, from another seed in no run (B21, B22, B23)."""
    report = fuzz(target, seconds=2.0, seed=1)
    assert report.finding is None, (report.finding.error, report.finding.data.hex())
    assert report.runs > len(target.seeds)
    assert report.answers > 1


def test_a_url_with_a_bracket_and_no_host_is_refused() -> None:
    """Found by the attack: yarl answers it with an ``IndexError`` of its own."""
    with pytest.raises(ValueError, match="a URL"):
        EgressGuard().check_url("https://[::ffff:127.0.0.1]@")


@pytest.mark.parametrize("address", ["}@b.org", "{@b.org", "a{id!r}@b.org", "{no}@b.org"])
def test_an_address_with_a_lone_brace_is_refused(address: str) -> None:
    """Found by the attack: it was taken for a template that nobody had checked, and the write
    answered 500 (B15)."""
    hook = {"template": "x", "recipients": [address]}
    openings = Openings({"post": "email"}, "post")
    ((where, _),) = problems_of({"kinto-emailer": {"hooks": [hook]}}, "b", openings)
    assert where == "kinto-emailer.hooks.0.recipients"


def test_no_name_makes_a_line_that_servers_refuse() -> None:
    """Found by the attack: a long name in a group could have silenced all of it (B15)."""
    for name in ("\u00e9" * 470, "\u00e9" * 101):
        with pytest.raises(ValueError, match="200 bytes"):
            mailbox(f"{name} <a@b.org>")
    assert mailbox("\u00e9" * 100 + " <a@b.org>").address == "a@b.org"
    run_once(TARGETS["mails"], ("\u00e9" * 100 + " <a@b.org>").encode())


def planted(data: bytes) -> str:
    """Cannot stand two braces."""
    if b"{{" in data:
        raise Defect("braces")
    return f"{data[:1]!r}"


def test_what_is_wrong_is_found_again() -> None:
    """With the same seed by the same input, and from that input alone."""
    target = Target("planted", planted, seeds=[b"a{b"], words=[b"{", b"x"])
    first, second = (fuzz(target, seconds=60.0, seed=7) for _ in range(2))
    assert first.finding
    assert second.finding
    assert first.finding.data == second.finding.data
    with pytest.raises(Defect, match="braces"):
        run_once(target, first.finding.data)


def test_it_is_a_command() -> None:
    """As it is run by hand; also for an input that was found."""
    program = [sys.executable, "-m", "tests.fuzz", "slack"]
    done = subprocess.run(
        [*program, "--seconds", "0.1", "--seed", "3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stdout.startswith("slack: ")
    assert "seed 3" in done.stdout
    done = subprocess.run(
        [*program, "--input", b"<!channel>".hex()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert "blocks" in done.stdout
