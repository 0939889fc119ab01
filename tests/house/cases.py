"""Cases that tests are labelled with in their docstrings, as "(R1)" or "(B1, B2)", and the page
that lists them."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path


ROOT = Path(__file__).parents[2]
END = "<!-- all cases -->"

LABEL = re.compile(r"\(([RB]\d+(?:(?:, | and )[RB]\d+)*)\)")
NAMED = re.compile(r"`((?:plugins/[\w-]+/)?tests/[\w/]+\.py)::(\w+)`")


@dataclass(frozen=True)
class Cases:
    """One letter's cases and their page. ``besides`` shows a case without being a test."""

    names: Sequence[str]
    page: Path
    module: str
    besides: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def begin(self) -> str:
        """The line above the list of tests."""
        return f"<!-- where each case is shown: python -m {self.module} -->"

    def labelled(self) -> Mapping[str, list[str]]:
        """The tests of each case, as ``path::name``."""
        letter = self.names[0][0]
        return {case: tests for case, tests in labelled().items() if case[0] == letter}

    def section(self, begin: str, end: str) -> str:
        """What stands between two lines of the page."""
        _, _, rest = self.page.read_text().partition(begin)
        found, mark, _ = rest.partition(end)
        assert mark, f"{self.page} lacks {begin!r} or {end!r}"
        return found

    def rows(self, begin: str, end: str) -> list[list[str]]:
        """The cells of the tables between two lines of the page, without their heads."""
        return [
            [cell.strip() for cell in line.strip("| ").split(" | ")]
            for line in self.section(begin, end).splitlines()
            if line.startswith("| ") and not line.startswith(("| case", "| fault"))
        ]

    def missing(self) -> list[tuple[str, str]]:
        """Tests that the page names and that are not there."""
        named = NAMED.findall(self.page.read_text())
        return [(path, name) for path, name in named if name not in described_in(ROOT / path)]

    def listed(self) -> Mapping[str, list[str]]:
        """The tests beside each case in the list."""
        found = {}
        for line in self.section(self.begin, END).strip().splitlines():
            case = line.removeprefix("* **").partition("**")[0]
            found[case] = ["::".join(test) for test in NAMED.findall(line)]
        return found

    def unlabelled(self) -> Mapping[str, set[str]]:
        """What stands in the list and does not say of itself that it belongs there."""
        found = self.labelled()
        listed = self.listed().items()
        wrong = {case: set(tests) - set(found.get(case, ())) for case, tests in listed}
        return {case: tests for case, tests in wrong.items() if tests}

    def write(self) -> None:
        """Write the list anew."""
        lines = []
        for case in self.names:
            shown = [*self.labelled().get(case, ()), *self.besides.get(case, ())]
            quoted = ", ".join(f"`{one}`" for one in shown)
            lines.append(f"* **{case}**: {quoted or 'nothing yet'}")
        before, _, rest = self.page.read_text().partition(self.begin)
        after = rest.partition(END)[2]
        body = "\n".join(lines)
        self.page.write_text(f"{before}{self.begin}\n\n{body}\n\n{END}{after}")


@cache
def labelled() -> Mapping[str, list[str]]:
    """The tests of every case of every letter."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted([*(ROOT / "tests").rglob("test_*.py"), *ROOT.glob("plugins/*/tests/*.py")]):
        for name, docstring in described_in(path).items():
            for case in cases_in(docstring):
                found[case].append(f"{path.relative_to(ROOT).as_posix()}::{name}")
    return found


@cache
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
        yield from re.findall(r"[RB]\d+", label)
