"""Takes values out of the text, one by one, and collects what is wrong with them on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kinto_dispatch.errors import Problem, did_you_mean
from kinto_dispatch.settings.parsers import Parser, Unfit
from kinto_dispatch.settings.text import SettingsText
from kinto_dispatch.settings.values import FROM_FILE


class Intake:
    """The settings as text, and the problems found in them so far."""

    def __init__(self, text: SettingsText) -> None:
        self.text = text
        self.problems: list[Problem] = []

    def complain(self, key: str, found: str, expected: str, advice: str = "") -> None:
        """Note what is wrong with ``key``, under the name that it was typed under."""
        self.problems.append(Problem(self.text.name(key), found, expected, advice))

    def values(self, base: str, table: Mapping[str, Parser]) -> dict[str, Any]:
        """What is typed under ``base`` and fits. The rest is left out, so it keeps its default."""
        found = {name: self._value(base, name, parse) for name, parse in table.items()}
        return {name: value for name, value in found.items() if value is not None}

    def _value(self, base: str, name: str, parse: Parser) -> Any:
        get = self.text.get_or_file if name in FROM_FILE else self.text.get
        try:
            typed = get(base + name)
        except Unfit as unfit:
            self.complain(f"{base}{name}_file", unfit.found, unfit.expected, unfit.advice)
            return None
        try:
            return parse(typed.text) if typed else None
        except Unfit as unfit:
            assert typed is not None
            found = unfit.found or shown(typed.text)
            self.problems.append(Problem(typed.name, found, unfit.expected, unfit.advice))
            return None


def unknown(name: str, rest: str, own: Iterable[str], others: Iterable[str] = ()) -> Problem:
    """What to say of a setting that nobody knows. Its value may be a secret with a wrong name."""
    own, others = sorted(own), sorted(others)
    expected = f"one of {' '.join(own)}" if own else "no settings but those of every channel"
    expected += ", or a setting of every channel" if own and others else ""
    advice = did_you_mean(rest, own) or did_you_mean(rest, others)
    return Problem(name, "no setting of that name", expected, advice)


def shown(value: str) -> str:
    """A value as it is quoted in a problem."""
    return repr(value if len(value) <= 80 else f"{value[:77]}...")
