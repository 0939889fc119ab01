"""Any text is a template that writes a message soon, or is refused; no record is a template."""

from __future__ import annotations

import json
from typing import Any

from kinto_dispatch.errors import RenderError
from kinto_dispatch.render import LONGEST_SUBJECT, NAMES, Message, Renderer
from kinto_dispatch.sandbox.filters import FILTERS
from kinto_dispatch.sandbox.predicates import PREDICATES
from kinto_dispatch.sandbox.values import LONGEST_TEXT
from kinto_dispatch.testing import make_change, make_event
from tests.fuzz.engine import Defect, Target


NEW = {"title": "<b>{{ 7 * 7 }}</b>", "n": 3, "tags": ["a", {"b": None}], "t": "x" * 20_000}
EVENT = make_event(
    changes=(
        make_change(new=NEW, old={"n": 2.5}, changed=("n", "t", "tags", "title")),
        make_change(object_id="b", new=None, old=NEW),
    )
)
COPY = EVENT.encode()
FIELDS = Renderer(
    "{{ change.new.title }}",
    "<html>{{ change|diff }}|{{ change.new|tojson }}|{{ change|link }}|{{ change.new.title }}",
)


def run(data: bytes) -> str:
    """Take it for a template, and for what a record holds."""
    text = data.decode("utf-8", "surrogatepass" if data.isascii() else "replace")
    check(FIELDS.render(about(text)), is_data=True)
    template, _, subject = text.partition("\x1e")
    try:
        renderer = Renderer(subject or None, template)
        message = renderer.render(EVENT)
    except RenderError as error:
        if not error.reason:
            raise Defect("refused without a reason") from error
        return error.reason
    finally:
        if EVENT.encode() != COPY:
            raise Defect("it changed the event")
    check(message)
    return f"a message, {message.html is None}"


def about(text: str) -> Any:
    """An event whose record holds the text, or what it stands for."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    new = {"title": text, "value": value, text: 1}
    return make_event(user_id=text, changes=(make_change(new=new, uri=f"/{text}"),))


def check(message: Message, is_data: bool = False) -> None:
    """Raises a ``Defect`` for what cannot be sent, or is not escaped."""
    for part in (message.subject, message.text, message.html or ""):
        part.encode()
        if len(part) > 2 * LONGEST_TEXT:
            raise Defect(f"writes {len(part)} characters")
    if len(message.subject) > LONGEST_SUBJECT or "\n" in message.subject:
        raise Defect("its subject is no short line")
    if is_data and "<" in (message.html or "").removeprefix("<html>"):
        raise Defect("data made a tag")


TARGET = Target(
    "renderer",
    run,
    seeds=[
        b"{% for one in changes %}{{ one|diff }} {{ one.new.n|default(0) + 1 }}{% endfor %}",
        b"<html>{% set x = change.new.tags %}{{ x|join(', ')|e|truncate(5) }}{{ x[0:1] }}",
        b"{{ timestamp|datetime('%d %B') }} {{ change|link }} {{ action|past }}\x1e{{ uri }}",
        b"{% if change.new is mapping and 'n' in change.new %}{{ 2 ** 10 // 3 }}{% endif %}",
        b"{{ new.__class__.__mro__ }}{{ ''.join(x) }}{% include 'x' %}{{ x|attr('y') }}",
        b"{% set x %}{{ range(9)|map('string')|list|tojson(2) }}{% endset %}{{ x * 9 }}",
        b'{"title": "<script>", "deep": [[[[1]]]]}',
    ],
    words=[
        *(name.encode() for name in NAMES),
        *(b"|" + name.encode() for name in FILTERS),
        *(b" is " + name.encode() for name in PREDICATES if name.isalpha()),
        *b"{{ }} {% %} {# #} {%- -%} endfor endif endset else set if for in not and or".split(),
        *b"__class__ __globals__ .new .old .title [0] ['n'] (1) * + ~ ** // % == <".split(),
        b"{% for x in range(9999) %}",
        b"{% set x = x ~ x %}",
        b" * 10 ** 9",
        b"[" * 30,
        b"'%999999d'",
        b"\x1e",
    ],
)
