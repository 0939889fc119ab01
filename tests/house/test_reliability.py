"""What the page on reliability names is there: its tests, its faults, its cases.

Run as a script, it writes the list of tests by the labels in their docstrings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tests.chaos import page as chaos_page
from tests.chaos.plan import FULL_FAULTS
from tests.house.cases import NAMED, ROOT, Cases


FAULTS: Mapping[str, Sequence[str]] = {
    "R1": ["kill_worker", "stop_worker"],
    "R2": ["kill_worker"],
    "R3": ["restart_worker"],
    "R7": ["kill_valkey"],
    "R8": ["stop_valkey"],
    "R10": ["reset_valkey", "cut_valkey"],
    "R11": ["kill_valkey"],
    "R12": ["kill_valkey", "power_cut_valkey"],
    "R13": ["promote_valkey", "flush_valkey"],
    "R21": ["kill_postgresql", "cut_postgresql", "stop_postgresql"],
    "R22": ["kill_web"],
}
"""What a chaos run does of each case, besides the tests that look at it alone."""

CASES = Cases(
    names=[f"R{number}" for number in range(1, 31) if number not in (24, 26, 27)],
    page=ROOT / "docs" / "reliability.md",
    module="tests.house.test_reliability",
    besides=FAULTS,
)


def test_each_test_that_is_named_exists() -> None:
    """No page sends its reader to a test that is gone."""
    assert len(NAMED.findall(CASES.page.read_text())) > 30
    assert CASES.missing() == []


def test_each_test_of_a_case_is_labelled_with_it() -> None:
    """What stands beside a case says of itself that it shows it."""
    assert list(CASES.listed()) == CASES.names
    assert CASES.unlabelled() == {}


def test_each_case_has_its_row() -> None:
    """Promised and reached, for every case and for every label of a test."""
    found = [cells for cells in CASES.rows("## Case by case", CASES.begin) if cells[0][:1] == "R"]
    assert [cells[0] for cells in found] == CASES.names
    assert all(len(cells) == 4 and all(cells) for cells in found)
    assert set(CASES.labelled()) <= set(CASES.names)


def test_each_fault_is_one_of_the_runs() -> None:
    """The table of faults is that of the plan, with its numbers."""
    listed: dict[str, int] = {}
    for cells in CASES.rows("all groups at once:", "Then everything has to drain"):
        if cells[0].startswith("`"):
            listed[cells[0].strip("`")] = int(cells[2])
    assert listed == dict(FULL_FAULTS)
    kinds = "|".join({kind.split("_")[-1] for kind in FULL_FAULTS})
    named = re.findall(rf"`([a-z]+_(?:[a-z]+_)?(?:{kinds}))`", CASES.page.read_text())
    assert set(named) == set(FULL_FAULTS)
    assert {kind for kinds in FAULTS.values() for kind in kinds} <= set(FULL_FAULTS)


def test_a_run_can_put_its_figures_into_the_page() -> None:
    """The marks are there, and the page is found from the index."""
    assert CASES.section(chaos_page.BEGIN, chaos_page.END)
    assert "(reliability.md)" in (ROOT / "docs" / "index.md").read_text()


if __name__ == "__main__":
    CASES.write()
