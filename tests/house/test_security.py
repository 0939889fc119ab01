"""What the page on security names is there: its tests and its cases.

Run as a script, it writes the list of tests by the labels in their docstrings.
"""

from __future__ import annotations

import re

from tests.fuzz.targets import TARGETS
from tests.house.cases import ROOT, Cases


NO_WEB_PAGE = {"B25", "B26", "B27"}
ALL = [f"B{number}" for number in range(1, 31)]

CASES = Cases(
    names=[case for case in ALL if case not in NO_WEB_PAGE],
    page=ROOT / "docs" / "security.md",
    module="tests.house.test_security",
)


def test_each_test_that_is_named_exists() -> None:
    """No page sends its reader to a test that is gone."""
    assert CASES.missing() == []


def test_each_test_of_a_case_is_labelled_with_it() -> None:
    """What stands beside a case says of itself that it shows it, and every case is shown."""
    assert list(CASES.listed()) == CASES.names
    assert all(CASES.listed().values())
    assert CASES.unlabelled() == {}


def test_each_case_has_its_row() -> None:
    """Promised for every case; those that are about a web page say that there is none."""
    found = {cells[0]: cells for cells in CASES.rows("## Case by case", CASES.begin)}
    assert list(found) == ALL
    assert all(len(cells) == 3 and all(cells) for cells in found.values())
    assert {case for case in ALL if "does not apply" in found[case][2]} == NO_WEB_PAGE
    assert set(CASES.labelled()) <= set(CASES.names)


def test_the_page_is_found() -> None:
    """From the index and the front page, and its command runs all targets."""
    assert "(security.md)" in (ROOT / "docs" / "index.md").read_text()
    assert "(docs/security.md)" in (ROOT / "README.md").read_text()
    assert re.search(r"python -m tests\.fuzz all", CASES.page.read_text())
    assert {"decoder", "hooks", "routes", "renderer", "egress", "mails", "slack"} == set(TARGETS)


if __name__ == "__main__":
    CASES.write()
