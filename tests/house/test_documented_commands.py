"""What the pages tell people to type is understood."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from kinto_dispatch.cli import cli, exits


ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/README.md")]
TYPED = re.compile(r"^\$ kinto-dispatch (.+)$|`kinto-dispatch ([^`]* --[^`]+ [^`]+)`", re.M)

COMMANDS = sorted(
    {
        typed[0] or typed[1]
        for page in PAGES
        if page.name != "commands.md"
        for typed in TYPED.findall(page.read_text())
    }
)


def test_there_are_commands() -> None:
    """Or nothing is shown here."""
    assert len(COMMANDS) > 20


@pytest.mark.parametrize("typed", [one for one in COMMANDS if not one.startswith("demo")])
def test_what_is_to_be_typed_is_understood(
    typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as it gets where there is no ini: it is no usage error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KINTO_INI", raising=False)
    (tmp_path / "event.json").write_text("{}")
    result = CliRunner().invoke(cli, shlex.split(typed, comments=True))
    assert result.exit_code != exits.USAGE, result.output
