"""What the page on reliability names is there: its tests, its faults, its cases.

Run as a script, it writes the list of tests by the labels in their docstrings.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.chaos import page as chaos_page
from tests.chaos.plan import FULL_FAULTS


ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- where each case is shown: python -m tests.house.test_reliability -->"
END = "<!-- all cases -->"

LABEL = re.compile(r"\((R\d+(?:(?:, | and )R\d+)*)\)")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
CASES = [f"R{number}" for number in range(1, 31) if number not in (24, 26, 27)]

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


def labelled() -> Mapping[str, list[str]]:
    """The tests of each case, as ``path::name``."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name, docstring in described_in(path).items():
            for case in cases_in(docstring):
                found[case].append(f"{path.relative_to(ROOT).as_posix()}::{name}")
    return found


def described_in(path: Path) -> Mapping[str, str]:
    """The tests of a file and their docstrings, with single spaces."""
    return {
        node.name: " ".join((ast.get_docstring(node) or "").split())
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


def cases_in(docstring: str) -> Iterator[str]:
    """The cases that a docstring is labelled with."""
    for label in LABEL.findall(docstring):
        yield from re.findall(r"R\d+", label)


def section(begin: str, end: str) -> str:
    """What stands between two lines of the page."""
    _, _, rest = PAGE.read_text().partition(begin)
    found, mark, _ = rest.partition(end)
    assert mark, f"{PAGE} lacks {begin!r} or {end!r}"
    return found


def rows(text: str) -> Iterator[list[str]]:
    """The cells of tables, without their heads."""
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith(("| case", "| fault")):
            yield [cell.strip() for cell in line.strip("| ").split(" | ")]


def shown() -> str:
    """The list of tests and faults by case, as the page has it."""
    lines = []
    for case in CASES:
        names = [f"`{name}`" for name in labelled().get(case, ())]
        faults = [f"`{kind}`" for kind in FAULTS.get(case, ())]
        lines.append(f"* **{case}**: " + (", ".join([*names, *faults]) or "nothing yet"))
    return "\n".join(lines)


def test_each_test_that_is_named_exists() -> None:
    """No page sends its reader to a test that is gone."""
    named = NAMED.findall(PAGE.read_text())
    assert len(named) > 30
    assert [one for one in named if one[1] not in described_in(ROOT / one[0])] == []


def test_each_test_of_a_case_is_labelled_with_it() -> None:
    """What stands beside a case says of itself that it shows it."""
    listed = {}
    for line in section(BEGIN, END).strip().splitlines():
        case = line.removeprefix("* **").partition("**")[0]
        listed[case] = ["::".join(found) for found in NAMED.findall(line)]
    assert list(listed) == CASES
    found = labelled()
    unlabelled = {case: set(names) - set(found[case]) for case, names in listed.items()}
    assert {case: names for case, names in unlabelled.items() if names} == {}


def test_each_case_has_its_row() -> None:
    """Promised and reached, for every case and for every label of a test."""
    found = [cells for cells in rows(section("## Case by case", BEGIN)) if len(cells) > 1]
    assert [cells[0] for cells in found if cells[0].startswith("R")] == CASES
    assert all(len(cells) == 4 and all(cells) for cells in found if cells[0].startswith("R"))
    assert set(labelled()) <= set(CASES)


def test_each_fault_is_one_of_the_runs() -> None:
    """The table of faults is that of the plan, with its numbers."""
    listed: dict[str, int] = {}
    for cells in rows(section("all groups at once:", "Then everything has to drain")):
        if cells[0].startswith("`"):
            listed[cells[0].strip("`")] = int(cells[2])
    assert listed == dict(FULL_FAULTS)
    kinds = "|".join({kind.split("_")[-1] for kind in FULL_FAULTS})
    named = set(re.findall(rf"`([a-z]+_(?:[a-z]+_)?(?:{kinds}))`", PAGE.read_text()))
    assert named == set(FULL_FAULTS)
    assert {kind for kinds in FAULTS.values() for kind in kinds} <= set(FULL_FAULTS)


def test_a_run_can_put_its_figures_into_the_page() -> None:
    """The marks are there, and the page is found from the index."""
    assert section(chaos_page.BEGIN, chaos_page.END)
    assert "(reliability.md)" in (ROOT / "docs" / "index.md").read_text()


if __name__ == "__main__":
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{shown()}\n\n{END}{after}")
