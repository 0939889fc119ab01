"""Lines in the log that stay one line each and read well, whoever formats them.

Kinto's own formatters show the fields of a record beside its text, and the colourful one formats
the text a second time: a brace that came from data would lose the line. Plain formatters show the
text alone. So the text of a ``Line`` has the fields, and its ``msg``, which only the others look
at, does without them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any


_ILLEGIBLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffd]+|\s+"
)
"""What ends a line, turns the direction of writing, or is no text at all."""


class Line(logging.LogRecord):
    """A record that can be formatted twice: ``getMessage`` is for those who do it once."""

    __slots__ = ("_text",)  # what stood among the attributes would be shown as a field

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._text = super().getMessage()
        self.msg, self.args = _twice(self._text), ()

    def getMessage(self) -> str:
        """The text, with the fields."""
        return self._text

    def add(self, fields: Mapping[str, Any]) -> None:
        """Give the record these fields, on one line without control characters."""
        self.__dict__ |= {name: one_line(value) for name, value in fields.items()}
        shown = " ".join(f"{name}={value!r}" for name, value in fields.items())
        self._text = f"{self._text} {shown}"


def log_fields(logger: logging.Logger, level: int, event: str, fields: Mapping[str, Any]) -> None:
    """Log ``event`` with all its fields, if ``logger`` takes this ``level``."""
    if not logger.isEnabledFor(level):
        return
    line = Line(logger.name, level, __file__, 0, event, (), None)
    line.add(fields)
    logger.handle(line)


def keep_lines() -> None:
    """Make lines of all that our loggers log from now on in this process."""
    factory = logging.getLogRecordFactory()
    if getattr(factory, "is_ours", False):
        return

    def make(name: str, *args: Any, **kwargs: Any) -> logging.LogRecord:
        ours = name.partition(".")[0] == __name__.partition(".")[0]
        return Line(name, *args, **kwargs) if ours else factory(name, *args, **kwargs)

    make.is_ours = True  # type: ignore[attr-defined]  # a mark on a function
    logging.setLogRecordFactory(make)


def one_line(value: Any) -> Any:
    """Text with its control characters spelt out; other values as they are."""
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)


def legible(text: str) -> str:
    """Text of somebody else on one line, without what would end it or does not show: for reasons,
    subjects and headers. Words stand a space apart. Takes time in proportion to the length."""
    return " ".join(_ILLEGIBLE.sub(" ", text).split())


def _twice(text: str) -> str:
    for special in "%{}":
        text = text.replace(special, special * 2)
    return text
