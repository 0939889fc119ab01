"""A line in the log is one line, whatever stands in it and whoever formats it."""

from __future__ import annotations

import io
import json
import logging
import pickle
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kinto.core import JsonLogFormatter
from logging_color_formatter import ColorFormatter

from kinto_dispatch.attempt.record import AttemptRecord, log_attempt
from kinto_dispatch.lines import Line, keep_lines, log_fields
from kinto_dispatch.queue.values import Dead


HOSTILE = [
    'x\n{"severity": "fatal"}',
    "a\r\nb",
    "\x1b[2J\x1b[31m",
    "%s %d %(reason)s %",
    "{event} {0.__class__} {",
    "}",
    '429 {"ok": false}',
    "\u2028\u202e\x85\ud800",
]
ANY = st.text(st.characters()) | st.sampled_from(HOSTILE)
FIELDS = {"event_id": "e", "channel": "ops", "attempt": 1, "reason": None}

PLAIN = logging.Formatter("%(levelname)s %(message)s")
FORMATTERS = {"plain": PLAIN, "color": ColorFormatter(), "json": JsonLogFormatter()}


class Sink:
    """A logger with one formatter, and what it wrote."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self.logger = logging.Logger("kinto_dispatch.sink", logging.DEBUG)  # noqa: LOG001 - not the tree of others
        self._stream = io.StringIO()
        handler = logging.StreamHandler(self._stream)
        handler.setFormatter(formatter)
        self.logger.addHandler(handler)

    @property
    def lines(self) -> list[str]:
        """As a program reads them that follows the log."""
        return self._stream.getvalue().split("\n")[:-1]

    @property
    def shown(self) -> str:
        """Without the colours of the formatter itself."""
        return re.sub(r"\x1b\[\d+m", "", self._stream.getvalue()).strip()


@pytest.fixture(autouse=True)
def _no_errors_are_hidden(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a formatter cannot format is an error here, not a traceback on stderr."""

    def fail(self: logging.Handler, record: logging.LogRecord) -> None:
        raise AssertionError("a line was lost")

    monkeypatch.setattr(logging.Handler, "handleError", fail)
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)


def test_plain_formatters_show_the_fields_once() -> None:
    """In the text, since they show nothing else."""
    sink = Sink(PLAIN)
    log_fields(sink.logger, logging.INFO, "delivery.attempted", FIELDS)
    assert sink.shown == (
        "INFO delivery.attempted event_id='e' channel='ops' attempt=1 reason=None"
    )


def test_kintos_colourful_formatter_shows_the_fields_once() -> None:
    """Beside the text, as it does for Kinto's own."""
    sink = Sink(FORMATTERS["color"])
    log_fields(sink.logger, logging.INFO, "delivery.attempted", FIELDS)
    assert sink.shown == "delivery.attempted attempt=1 channel=ops event_id=e reason=None"


def test_kintos_json_has_the_fields() -> None:
    """Each under its name."""
    sink = Sink(FORMATTERS["json"])
    log_fields(sink.logger, logging.INFO, "delivery.attempted", FIELDS)
    fields = json.loads(sink.shown)["Fields"]
    assert FIELDS.items() <= fields.items()
    assert fields["msg"].startswith("delivery.attempted event_id='e'")


@pytest.mark.parametrize("formatter", FORMATTERS.values(), ids=FORMATTERS)
@given(event_id=ANY, channel=ANY, reason=ANY)
@example(event_id=HOSTILE[0], channel=HOSTILE[2], reason=HOSTILE[4])
@example(event_id=HOSTILE[3], channel=HOSTILE[5], reason=HOSTILE[6])
def test_an_attempt_is_one_line(
    formatter: logging.Formatter, event_id: str, channel: str, reason: str
) -> None:
    """Line ends, colours, %s and braces in ids and reasons (B24)."""
    sink = Sink(formatter)
    record = AttemptRecord(
        event_id=event_id,
        key=event_id,
        channel=channel,
        attempt=1,
        outcome="rejected",
        at=1.0,
        duration_seconds=0.1,
        reason=reason,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kinto_dispatch.attempt.record.logger", sink.logger)
        log_attempt(record, Dead("refused", reason))
    assert len(sink.lines) == 1
    assert all(one.isprintable() for one in re.sub(r"\x1b\[\d+m", "", sink.lines[0]))


@pytest.mark.parametrize("formatter", FORMATTERS.values(), ids=FORMATTERS)
@pytest.mark.parametrize("text", HOSTILE)
def test_no_line_of_ours_is_lost_for_what_is_in_it(
    formatter: logging.Formatter, text: str
) -> None:
    """Formatting it a second time changes nothing (B24)."""
    keep_lines()
    keep_lines()
    sink = Sink(formatter)
    sink.logger.warning("log.undecodable id=%s %r", "1-0", text, extra={"more": 1})
    assert repr(text) in (
        json.loads(sink.shown)["Fields"]["msg"] if "{" in sink.shown[:1] else sink.shown
    )
    assert len(sink.lines) == 1


def test_lines_of_others_are_left_alone() -> None:
    """The factory makes lines of our loggers only, and asks the one before it for the rest."""
    keep_lines()
    make: Any = logging.getLogRecordFactory()
    assert type(make("kinto.core", 20, "f", 1, "%s", ("x",), None)) is logging.LogRecord
    assert type(make("kinto_dispatcher", 20, "f", 1, "%s", ("x",), None)) is logging.LogRecord
    assert type(make("kinto_dispatch.worker", 20, "f", 1, "%s", ("x",), None)) is Line


def test_a_line_travels_between_processes() -> None:
    """As handlers do that send records to another one."""
    line = Line("kinto_dispatch.x", logging.INFO, "f", 1, "%s {}", ("a",), None)
    line.add({"b": "c"})
    copy = pickle.loads(pickle.dumps(line))
    assert copy.getMessage() == line.getMessage() == "a {} b='c'"


def test_what_is_not_logged_costs_nothing() -> None:
    """Fields are not even printed below the level."""

    class Loud:
        def __repr__(self) -> str:
            raise AssertionError("printed")

    logger = logging.Logger("kinto_dispatch.quiet", logging.WARNING)  # noqa: LOG001 - not the tree of others
    log_fields(logger, logging.INFO, "x", {"loud": Loud()})
