"""What people read: the templates of a channel, rendered for an event. Pure.

A template sees the event's fields by name (``NAMES``), ``changes`` and, as the first of them,
``change``, each with ``uri``, ``object_id``, ``old``, ``new`` and ``changed``. A field that the
data lacks may be asked about (``if``, ``is defined``, ``==``), or have a substitute
(``{{ change.new.title|default("no title") }}``); to print it is an error, since a message with a
hole in it looks like a message. A template that begins with ``<!doctype html>`` or ``<html>`` is
HTML: what it prints is escaped, and the plain text is made from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kinto_dispatch.errors import RenderError
from kinto_dispatch.event import CHANGED, Change, Event
from kinto_dispatch.plaintext import plain_text
from kinto_dispatch.sandbox.evaluation import STEPS
from kinto_dispatch.sandbox.language import Template
from kinto_dispatch.sandbox.values import Fault, Fields, Missing


DEFAULT_SUBJECT = (
    f"{{{{ resource_name }}}} {{{{ action|past }}}}{{% if name != '{CHANGED}' %}}: {{{{ name }}}}"
    "{% endif %}"
)
DEFAULT_TEMPLATE = (
    "User id: {{ user_id }}"
    # The first line end belongs to the block.
    "{% if skipped %}\n\nOlder versions that are not shown: {{ skipped }}{% endif %}"
)
"""Both are what the listener of Kinto's tutorial sends of a change."""

LONGEST_SUBJECT = 250
"""Characters. Mail allows 998 in a line, chat tools show about this much."""

_EVENT_NAMES = (
    "id",
    "action",
    "resource_name",
    "uri",
    "bucket_id",
    "collection_id",
    "group_id",
    "user_id",
    "timestamp",
    "root_url",
    "request_id",
    "skipped",
    "name",
    "payload",
)

NAMES = (*_EVENT_NAMES, "changes", "change")

_HTML = re.compile(r"\s*<(?:!doctype\s+html|html)\b", re.IGNORECASE)

_BREAKING = re.compile("[\x00-\x20\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
"""What ends a line, moves a cursor or turns the direction of writing."""

_UNSENDABLE = re.compile("[\x00\ud800-\udfff]")
"""JSON may hold these, but no message can: half a character is no UTF-8."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a person reads. All of it can be encoded as UTF-8.

    ``subject`` is one line of at most 250 characters without control characters. ``html`` is
    ``None`` unless the template is HTML. ``recipients`` and ``reply_to`` are for channels that
    write to people: those whom a hook in metadata names, each an address or the uri of a group.
    Both are ``None`` where the channel's own settings say it; where ``recipients`` is empty, the
    hook names somebody who has no address, and nobody is to be written to.
    """

    subject: str
    text: str
    html: str | None = None
    recipients: tuple[str, ...] | None = None
    reply_to: str | None = None
    has_template: bool = field(default=False, compare=False)
    """Whether somebody wrote a template for the text. Where nobody did, a channel may show the
    event in its own way."""


class Renderer:
    """Renders the messages of a channel. Immutable; safe to use from many threads.

    Each template may do a million steps, which is below a second, and write 262,144 characters.
    """

    def __init__(self, subject: str | None, template: str | None, *, steps: int = STEPS) -> None:
        """``None`` means the default; ``steps`` is what each of the two may cost. Raises
        ``RenderError`` for what can never be rendered."""
        self._steps = steps
        self._has_template = template is not None
        body = DEFAULT_TEMPLATE if template is None else template
        self._subject = _compile("subject", DEFAULT_SUBJECT if subject is None else subject)
        self._body = _compile("template", body, html=_HTML.match(body) is not None)

    def render(self, event: Event) -> Message:
        """The message for ``event``. Raises ``RenderError``; the same event renders always or
        never, so a second attempt is of no use."""
        return self._render(event, lenient=False)

    def check(self) -> None:
        """Render a create, an update and a delete, as far as that goes without knowing which of
        them the channel gets and which fields the records have. Raises ``RenderError``."""
        for event in _samples():
            self._render(event, lenient=True)

    def _render(self, event: Event, *, lenient: bool) -> Message:
        values = _values(event, lenient)
        subject = one_line(self._run("subject", self._subject, values, lenient))
        body = sendable(self._run("template", self._body, values, lenient))
        if self._body.html:
            return Message(subject, plain_text(body), body, has_template=True)
        return Message(subject, body, has_template=self._has_template)

    def _run(self, name: str, template: Template, values: Mapping[str, Any], lenient: bool) -> str:
        try:
            return template.render(values, lenient=lenient, steps=self._steps)
        except Fault as fault:
            raise RenderError(name, str(fault)) from fault


def _compile(name: str, source: str, *, html: bool = False) -> Template:
    try:
        return Template(source, NAMES, html=html)
    except Fault as fault:
        raise RenderError(name, str(fault)) from fault


def one_line(text: str) -> str:
    """As it may be a subject."""
    return sendable(_BREAKING.sub(" ", text).strip()[:LONGEST_SUBJECT].rstrip())


def sendable(text: str) -> str:
    """As it can be encoded."""
    return _UNSENDABLE.sub("\ufffd", text)


def _values(event: Event, lenient: bool) -> dict[str, Any]:
    """What a template sees, under ``NAMES``."""
    changes = [_fields(change, lenient) for change in event.changes]
    values = {name: getattr(event, name) for name in _EVENT_NAMES}
    return {**values, "changes": changes, "change": changes[0] if changes else None}


def _fields(change: Change, lenient: bool) -> Fields:
    # A template for creates may use ``new`` as it likes, though it is none on the sample delete.
    old, new = (
        Missing(f"change.{name}") if lenient and value is None else value
        for name, value in (("old", change.old), ("new", change.new))
    )
    fields = {
        "uri": change.uri,
        "object_id": change.object_id,
        "old": old,
        "new": new,
        "changed": list(change.changed),
    }
    return Fields("change", fields)


def _samples() -> Iterator[Event]:
    """One event of each kind, about a record that has only what Kinto gives every record, and
    with every id that an event can have."""
    before = {"id": "sample", "last_modified": 1_453_459_942_671}
    after = {"id": "sample", "last_modified": 1_453_459_942_672}
    for action, old, new in (
        ("create", None, after),
        ("update", before, after),
        ("delete", before, None),
    ):
        uri = "/buckets/sample/collections/sample/records/sample"
        changed = tuple(after) if action != "update" else ()
        yield Event(
            id="00000000-0000-0000-0000-000000000000",
            action=action,
            resource_name="record",
            uri=uri,
            bucket_id="sample",
            collection_id="sample",
            group_id="sample",
            user_id="account:sample",
            timestamp=1_453_459_942_672,
            root_url="http://localhost:8888/v1",
            request_id="sample",
            payload={},
            changes=(Change(uri=uri, object_id="sample", old=old, new=new, changed=changed),),
        )
