"""Kinto's settings as an operator typed them: always text, always with the name of its source.

Kinto keeps two copies of a setting: ``kinto.x`` with the text of the ini, and ``x`` after JSON
(``1e5`` has become a float, ``null`` is ``None``). The text wins here, and the environment wins
over both, as it does in Kinto. Nothing of Kinto is needed to read this way, so a command that
never starts the application sees the same values as the application.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kinto_dispatch.settings.parsers import Unfit, file_text


PREFIX = "kinto."


@dataclass(frozen=True, slots=True)
class Typed:
    """A value as text. ``name`` is the key of the ini or the variable that it was typed under."""

    name: str
    text: str = field(repr=False)


def variable(key: str) -> str:
    """The environment variable that Kinto reads for ``kinto.<key>``."""
    return (PREFIX + key).replace(".", "_").replace("-", "_").upper()


class SettingsText:
    """A mapping from setting names without ``kinto.`` to what was typed for them.

    ``settings`` is Kinto's ``config.get_settings()`` or what ``pyramid.paster.get_appsettings``
    returns; neither it nor ``environ`` is changed.
    """

    def __init__(self, settings: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self._settings = settings
        self.environ = environ

    def get(self, key: str) -> Typed | None:
        """The value of ``key``, or ``None`` where nothing, or only white space, was typed."""
        typed = self.find(key)
        return typed if typed and typed.text.strip() else None

    def find(self, key: str) -> Typed | None:
        """As ``get``, but an empty text is a value too."""
        # Kinto's order: KINTO_X before X before the ini.
        for name in (variable(key), variable(key).removeprefix("KINTO_")):
            if name in self.environ:
                return Typed(name, self.environ[name])
        for name in (PREFIX + key, key):
            if self._settings.get(name) is not None:
                return Typed(name, as_text(self._settings[name]))
        return None

    def get_or_file(self, key: str) -> Typed | None:
        """As ``get``, or what stands in the file that ``<key>_file`` names. Raises ``Unfit`` if
        that cannot be read, or if both are given."""
        typed, file = self.get(key), self.get(f"{key}_file")
        if typed and file:
            raise Unfit(f"either it or {typed.name}", "Remove one of them.", found="both")
        return Typed(file.name, file_text(file.text)) if file else typed

    def name(self, key: str) -> str:
        """``key`` as it was typed, or, where nothing was, as it would stand in the ini."""
        typed = self.find(key)
        return typed.name if typed else self.style(key)

    def style(self, key: str) -> str:
        """``key`` in the ini, with ``kinto.`` unless its neighbours are typed without it."""
        group = key.rpartition(".")[0] + "."
        bare = any(name.startswith(group) for name in self._settings)
        prefixed = any(name.startswith(PREFIX + group) for name in self._settings)
        return key if bare and not prefixed else PREFIX + key

    def under(self, base: str) -> Iterator[str]:
        """The names in the ini that begin with ``base``, without it, in the order of the ini."""
        names = (name.removeprefix(PREFIX) for name in self._settings)
        yield from dict.fromkeys(name[len(base) :] for name in names if name.startswith(base))

    def unknown_variables(
        self, base: str, known: Collection[str], elsewhere: Collection[str]
    ) -> Iterator[tuple[str, str]]:
        """``(variable, rest)`` of what the environment sets under ``base`` without it being one of
        ``known``. ``elsewhere`` are bases that begin like ``base`` and have owners of their own.
        """
        mine = variable(base)
        allowed = {variable(base + name) for name in known}
        # A shorter base that begins like this one is around it, not beside it.
        others = tuple(other for other in map(variable, elsewhere) if len(other) > len(mine))
        for name in self.environ:
            if name.startswith(mine) and name not in allowed and not name.startswith(others):
                yield name, name[len(mine) :].lower()


def as_text(value: Any) -> str:
    """The text that became ``value`` in the copy of the settings that went through JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return json.dumps(value, default=str)
