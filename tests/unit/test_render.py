"""What people read: subject, text and HTML of an event."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinto_dispatch.errors import RenderError
from kinto_dispatch.event import Event, Subscription
from kinto_dispatch.render import LONGEST_SUBJECT, NAMES, Message, Renderer
from kinto_dispatch.subscriptions.formats import compile_hook
from kinto_dispatch.testing.builders import CREATED, USER, make_change, make_event


Bounded = Callable[..., Any]

UPDATED = make_event(
    action="update",
    changes=(
        make_change(
            old={"id": "first", "last_modified": 1, "title": "Hello", "n": 1, "gone": [1]},
            new={"id": "first", "last_modified": 2, "title": "Bye", "n": 1, "added": True},
            changed=("added", "gone", "title"),
        ),
    ),
)


def render(template: str | None = None, event: Event | None = None, **kwargs: Any) -> Message:
    """The message of this template for an event."""
    return Renderer(kwargs.get("subject"), template).render(event or make_event())


def text(template: str, event: Event | None = None) -> str:
    """The text of this template for an event."""
    return render(template, event).text


def error(template: str, event: Event | None = None) -> str:
    """Why the template cannot be rendered."""
    with pytest.raises(RenderError) as raised:
        render(template, event)
    return str(raised.value)


def about(new: Any, **over: Any) -> Event:
    """An event about a record with these fields."""
    return make_event(changes=(make_change(new=new, **over),))


# Defaults


@pytest.mark.parametrize(
    ("resource", "action", "subject"),
    [
        ("record", "create", "record created"),
        ("bucket", "create", "bucket created"),
        ("collection", "update", "collection updated"),
        ("group", "delete", "group deleted"),
        ("record", "read", "record read"),
    ],
)
def test_without_templates_it_says_what_the_tutorial_says(
    resource: str, action: str, subject: str
) -> None:
    """The message of Kinto's tutorial, word for word, and no HTML."""
    message = render(event=make_event(resource_name=resource, action=action))
    assert message == Message(subject, f"User id: {USER}", None)


def test_the_tutorials_message_about_an_anonymous_write() -> None:
    """As the tutorial's listener, which prints what Python calls nothing."""
    assert render(event=make_event(user_id=None)).text == "User id: None"


def test_what_is_not_shown_is_counted_on_a_line_of_its_own() -> None:
    """Where only the latest version counts."""
    lines = render(event=make_event(skipped=3)).text.splitlines()
    assert lines == [f"User id: {USER}", "Older versions that are not shown: 3"]


def test_an_empty_template_is_not_the_default() -> None:
    """Whoever wants no text gets none."""
    assert render("", subject="") == Message("", "")


def test_a_message_says_whether_somebody_wrote_it() -> None:
    """Where nobody wrote a template, a channel may show the event in its own way."""
    assert not render().has_template
    assert not render(subject="{{ action }}").has_template
    assert render("{{ action }}").has_template
    assert render("<html>{{ action }}").has_template
    legacy = compile_hook("kinto-slack", {"template": "Hello", "channel": "ops"})
    subscription = Subscription(
        format="kinto-slack", owner="/buckets/blog", channel="ops", hook={}
    )
    assert legacy.render(make_event(), subscription).has_template


def test_a_message_is_a_value() -> None:
    """It can be compared and not be changed."""
    message = render()
    assert message == render()
    with pytest.raises(AttributeError):
        message.subject = "other"


# What a template sees


def test_every_documented_name_can_be_printed() -> None:
    """The names are those of the event, with its values."""
    event = make_event(group_id="editors", request_id="r-1")
    for name in NAMES[:-2]:
        assert text(f"{{{{ {name} }}}}", event) == str(getattr(event, name))


def test_a_template_walks_through_the_changes() -> None:
    """Each change has its own uri, id and data."""
    changes = tuple(make_change(object_id=one, new={"title": one.upper()}) for one in "abc")
    template = (
        "{% for one in changes %}{{ one.object_id }}={{ one.new.title }} {{ one.changed|join }}"
        "{% if not loop.last %}, {% endif %}{% endfor %}"
    )
    assert text(template, make_event(changes=changes)) == "a=A title, b=B title, c=C title"


def test_change_is_the_first_of_the_changes() -> None:
    """For the many events that have one change."""
    changes = (make_change(object_id="a"), make_change(object_id="b"))
    assert text("{{ change.object_id }}", make_event(changes=changes)) == "a"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("\n{{ change.newe }}", "line 2: change has no 'newe'. Did you mean 'new'?"),
        ("{{ usr_id }}", "line 1: unknown name 'usr_id'. Did you mean 'user_id'?"),
        ("{{ xyz }}", "unknown name 'xyz'. Known: action,"),
        ("{{ change.new.titel }}", "change.new.titel is missing; write |default('...')"),
        ("{{ change.old.title }}", "change.old.title is missing"),
    ],
)
def test_a_mistake_is_told_with_its_line(template: str, reason: str) -> None:
    """What is wrong, where, and what to write instead."""
    assert reason in error(template)


def test_a_field_that_may_be_missing_has_a_substitute() -> None:
    """The ways around an error that the error itself names."""
    event = make_event(action="delete", changes=(make_change(old={"title": "T"}, new=None),))
    assert text("{{ change.new.title|default(change.old.title) }}", event) == "T"
    assert text("{% if change.new.title %}{{ change.new.title }}{% endif %}.", event) == "."


def test_the_subject_is_named_where_it_is_the_subject() -> None:
    """An operator has two templates; the error says which."""
    with pytest.raises(RenderError) as raised:
        Renderer("{{ nope }}", None)
    assert raised.value.template == "subject"
    assert raised.value.reason.startswith("line 1: unknown name 'nope'")


# Filters of ours


def test_diff_shows_the_changed_fields() -> None:
    """A line for each, with both sides; what changes by itself is left out."""
    assert text("{{ change|diff }}", UPDATED) == (
        '+ added: true\n- gone: [1]\n~ title: "Hello" → "Bye"'
    )


def test_diff_of_a_create_and_a_delete() -> None:
    """All fields are added, or removed."""
    record = {"id": "a", "last_modified": 1, "title": "Hello", "n": None}
    created = about(record)
    deleted = make_event(changes=(make_change(old=record, new=None),))
    assert text("{{ change|diff }}", created) == '+ n: null\n+ title: "Hello"'
    assert text("{{ change|diff }}", deleted) == '- n: null\n- title: "Hello"'


def test_diff_is_one_line_for_each_field_whatever_it_holds() -> None:
    """Neither a value nor a name can forge a line of its own."""
    forged = 'x\n+ admin: true"'
    event = about({"title": forged, forged: 1})
    lines = text("{{ change|diff }}", event).split("\n")
    assert lines == ['+ title: "x\\n+ admin: true\\""', '+ "x\\n+ admin: true\\"": 1']


def test_diff_is_short(bounded: Bounded) -> None:
    """A hundred characters of a value, fifty lines; the rest is counted."""
    event = about({f"field{n:03}": "x" * 10_000 for n in range(80)})
    shown = bounded(lambda: text("{{ change|diff }}", event), seconds=1.0, megabytes=10)
    lines = shown.split("\n")
    assert lines[-1] == "... and 30 more fields"
    assert len(lines) == 51
    assert {len(line) for line in lines[:-1]} == {len("+ field000: ") + 100}


def test_diff_takes_a_change() -> None:
    """Not a record, nor text."""
    assert "|diff: takes a change, found a mapping" in error("{{ change.new|diff }}")
    assert "|diff: takes a change, found text" in error("{{ uri|diff }}")


@pytest.mark.parametrize("root_url", ["https://kinto.example/v1", "https://kinto.example/v1/"])
def test_link_is_the_full_url(root_url: str) -> None:
    """Of a change or of any uri, whether or not the root ends with a slash."""
    event = make_event(root_url=root_url, changes=(make_change(uri="/buckets/a/groups/b"),))
    expected = "https://kinto.example/v1/buckets/a/groups/b"
    assert text("{{ change|link }} {{ change.uri|link }}", event) == f"{expected} {expected}"


def test_link_stays_one_word() -> None:
    """What an object's name holds cannot end the link, or add another host."""
    event = make_event(changes=(make_change(uri='/accounts/a b"<>\n@evil.example'),))
    link = text("{{ change|link }}", event)
    assert link == "http://localhost:8888/v1/accounts/a%20b%22%3C%3E%0A@evil.example"
    assert "|link: takes a change or a uri" in error("{{ 'https://evil.example'|link }}")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ timestamp|datetime }}", "2016-01-22T10:52:22Z"),
        ("{{ timestamp|datetime('%d.%m.%Y %H:%M') }}", "22.01.2016 10:52"),
        ("{{ timestamp|datetime('100 %%') }}", "100 %"),
        ("{{ 0|datetime }}", "1970-01-01T00:00:00Z"),
        ("{{ (-1)|datetime }}", "1969-12-31T23:59:59Z"),
    ],
)
def test_datetime_is_utc(template: str, expected: str) -> None:
    """Kinto's timestamps are milliseconds."""
    assert CREATED == 1453459942672
    assert text(template) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1e300|datetime }}",
        "{{ (10 ** 30)|datetime }}",
        "{{ 'now'|datetime }}",
        "{{ none|datetime }}",
        "{{ 0|datetime(5) }}",
        "{{ 0|datetime('%9d') }}",
        "{{ 0|datetime('%') }}",
    ],
)
def test_what_is_no_time_is_an_error(template: str) -> None:
    """Years beyond all calendars, words, and formats that some C libraries misread."""
    assert "|datetime: " in error(template)


# Subject


def test_a_subject_is_one_line() -> None:
    """No data can end the line and begin a header, or turn the direction of writing."""
    hostile = "a\r\nBcc: evil@example.com\n\n\x00\x1b[31m\x85\u2028\u2029b\t \u202ec"
    message = render(subject="[{{ change.new.t }}]", event=about({"t": hostile}))
    assert message.subject == "[a Bcc: evil@example.com [31m b c]"


def test_a_subject_is_short() -> None:
    """As long as mail and chat tools can show."""
    message = render(subject="{{ change.new.t }}", event=about({"t": "x" * 10_000}))
    assert message.subject == "x" * LONGEST_SUBJECT


def test_a_subject_is_not_escaped() -> None:
    """It is plain text, even where the message is HTML."""
    message = render("<html>", subject="{{ change.new.t }}", event=about({"t": "a & <b>"}))
    assert message.subject == "a & <b>"


# HTML


@pytest.mark.parametrize(
    "start", ["<!doctype html>", "<!DOCTYPE HTML>", "\n  <html>", '<html lang="en">', "<HTML>"]
)
def test_a_template_that_begins_as_html_is_html(start: str) -> None:
    """It escapes what it prints, and the plain text is made from it."""
    message = render(start + "<p>{{ change.new.t }}</p>", about({"t": "<b>&"}))
    assert message.html == start + "<p>&lt;b&gt;&amp;</p>"
    assert message.text == "<b>&"


@pytest.mark.parametrize("start", ["", "text <html>", "<p>", "<htmlx>", "{{ uri }}<html>"])
def test_any_other_template_is_text(start: str) -> None:
    """It escapes nothing, since nothing reads it as HTML."""
    message = render(start + "{{ change.new.t }}", about({"t": "<b>&"}))
    assert message.html is None
    assert message.text.endswith("<b>&")


def test_the_plain_text_of_html_reads_well() -> None:
    """Blocks are lines, lists have dashes, links show where they lead; code is not shown."""
    message = render(
        """<!doctype html>
        <html><head><title>no</title><style>p { color: red }</style></head>
        <body><h1>{{ resource_name }}
           {{ action|past }}</h1><script>alert("no")</script>
        <p>by <b>{{ user_id|truncate(12) }}</b><br>at {{ timestamp|datetime }}</p>
        <ul>{% for one in changes %}<li>{{ one.object_id }}</li>{% endfor %}</ul>
        <table><tr><td>a</td><td>b</td></tr></table>
        <p><a href="{{ change|link }}">Open</a>, <a href="https://x.example">https://x.example</a>
        &mdash; 5 &lt; 6</p></body></html>"""
    )
    assert message.text.split("\n") == [
        "record created",
        "",
        "by basicauth...",
        "at 2016-01-22T10:52:22Z",
        "",
        "- first",
        "",
        "a b",
        "",
        "Open (http://localhost:8888/v1/buckets/blog/collections/articles/records/first), "
        "https://x.example — 5 < 6",
    ]


def test_html_without_closing_tags_still_has_a_text() -> None:
    """``</head>``, ``</p>`` and ``</li>`` may be left out, as HTML allows."""
    assert render("<html><head><title>no<body><p>a<p>b").text == "a\nb"


@pytest.mark.parametrize(
    "template",
    [
        "<html>" + "<!" * 20_000,
        "<html>" + "<a " * 20_000,
        "<html>" + "<a href='" * 7_000,
        "<html>" + "<!--" * 15_000,
        "<html>" + "&" * 60_000,
        "<html>" + "<div>" * 12_000,
        "<html>" + "<p " + "href " * 12_000 + ">",
        "<html>" + "<p " + "href=" + " " * 60_000,
        "<html>" + "<a x='" + '"' * 60_000,
        "<html><![x",
    ],
    ids=[
        "declarations",
        "tags",
        "attributes",
        "comments",
        "entities",
        "blocks",
        "links",
        "spaces",
        "quotes",
        "section",
    ],
)
def test_broken_html_does_not_take_long(template: str, bounded: Bounded) -> None:
    """Reading HTML takes time in proportion to its length, however it is broken."""

    message = bounded(lambda: render(template), seconds=1.0, megabytes=60)
    assert message.html == template


@given(st.text())
def test_no_data_makes_a_tag(data: str) -> None:
    """A record's text arrives as text: the same in both versions, and inert."""
    message = render("<html><pre>{{ change.new.t }}</pre>", about({"t": data}))
    assert message.html is not None
    assert message.html.count("<") == 3


# Whatever comes in


def test_what_no_message_can_hold_is_replaced() -> None:
    """Kinto's JSON may hold half a character and NUL; mail, chat and databases refuse them."""
    message = render(
        "{{ change.new.t }}", about({"t": "a\ud800b\x00c"}), subject="{{ change.new.t }}"
    )
    assert message == Message("a\ufffdb c", "a\ufffdb\ufffdc")


ANY_TEXT = st.text(st.characters(exclude_categories=()))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(ANY_TEXT, inner, max_size=5),
    max_leaves=20,
)

RECORDS = st.none() | st.dictionaries(st.sampled_from(["title", "n"]) | ANY_TEXT, JSON, max_size=5)

TEMPLATE = """{% for one in changes %}{{ one|diff }} {{ one|link }} {{ one.new|tojson }}
{{ one.new.title|default('-')|upper|truncate(10) }}{% if one.new.n %}{{ one.new.n ~ one.old.n }}
{% endif %}{% for key, value in (one.new or {})|dictsort %}{{ key }}={{ value }}{% endfor %}
{% endfor %}"""


@given(
    old=RECORDS,
    new=RECORDS,
    user_id=st.none() | ANY_TEXT,
    html=st.booleans(),
    subject=st.sampled_from([None, "{{ change.new }}", "{{ user_id }}"]),
)
def test_an_arbitrary_record_gives_a_message_or_an_error(
    old: Any, new: Any, user_id: str | None, html: bool, subject: str | None
) -> None:
    """Never anything but a ``RenderError``, soon, and what comes out can be sent."""
    changed = tuple(sorted({*(old or {}), *(new or {})}))
    event = make_event(user_id=user_id, changes=(make_change(old=old, new=new, changed=changed),))
    renderer = Renderer(subject, "<html>" * html + TEMPLATE)
    started = time.thread_time()
    try:
        message = renderer.render(event)
    except RenderError as raised:
        if not raised.reason.startswith("line "):
            raise
    else:
        for part in (message.subject, message.text, message.html or ""):
            assert part.encode().decode() == part
        assert len(message.subject) <= LONGEST_SUBJECT
        assert not any(unicodedata.category(one) == "Cc" for one in message.subject)
    assert time.thread_time() - started < 1.0


@given(ANY_TEXT, ANY_TEXT)
def test_an_arbitrary_template_is_read_or_refused(subject: str, template: str) -> None:
    """At start, and with nothing but a ``RenderError``."""
    try:
        Renderer(subject, template).check()
    except RenderError as raised:
        if raised.template not in ("subject", "template"):
            raise


def test_a_bomb_in_a_channel_is_one_failed_message(bounded: Bounded) -> None:
    """What a template cannot afford is an error like any other, in time and memory (B18)."""
    renderer = Renderer(None, "{% set x = 'x' %}" + "{% set x = x ~ x %}" * 40 + "{{ x }}")

    def attempt() -> str:
        with pytest.raises(RenderError) as raised:
            renderer.render(make_event())
        return raised.value.reason

    assert "262,144 characters" in bounded(attempt, seconds=1.0, megabytes=20)
    assert render().subject == "record created"


# check


@pytest.mark.parametrize(
    "template",
    [
        "{{ change.new.title }}",
        "{{ change.new.price * 2 }} {{ change.new.tags|join(', ') }}",
        "{% for tag in change.new.tags %}{{ tag }}{% endfor %}",
        "{% if change.new.price > 3 %}dear{% endif %}",
        "{% set price = change.new.price * 2 %}{{ price }}",
        "{{ changes[3].uri }}",
        "{{ change.new.author.name|upper }} {{ change.old.id }} {{ change.new.id }}",
        "<html><p>{{ change.new.title }}</p>",
        "{{ change.new|length }} {{ change.old|length }}",
        "{% for name, value in change.new|items %}{{ name }}={{ value }}{% endfor %}",
        "{% for name in change.old %}{{ name }}{% endfor %}",
        "{{ 1 / (change.new.last_modified - change.old.last_modified) }}",
        "{{ change|tojson }} {{ changes|map(attribute='new')|list|tojson }} {{ change|diff }}",
        "{{ group_id|upper }} {{ collection_id|length }} {{ request_id ~ '' }}",
    ],
)
def test_check_knows_nothing_of_the_records_fields(template: str) -> None:
    """Which fields there will be only the records can tell; no such template is refused."""
    Renderer(template, template).check()


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ change.new.title }}{{ change.objectid }}", "Did you mean 'object_id'?"),
        ("{{ change.new.price * 2 }}\n{{ user_id + 1 }}", "line 2: + does not take text"),
        ("{{ change.new.tags|join }}{{ timestamp|datetime('%9d') }}", "takes a strftime format"),
        ("{% for one in changes %}{{ one.title }}{% endfor %}", "change has no 'title'"),
        ("{% for one in changes %}{{ loop.counter }}{% endfor %}", "loop has no 'counter'"),
        ("{% for n in range(99999) %}{% endfor %}", "range() of more than"),
        ("{{ 'x' * 300000 }}", "text of more than 262,144 characters"),
        ("{% if action == 'delete' %}{{ change.gone }}{% endif %}", "change has no 'gone'"),
        ("{% if action == 'update' %}{{ change.gone }}{% endif %}", "change has no 'gone'"),
    ],
)
def test_check_finds_what_fails_on_every_event(template: str, reason: str) -> None:
    """Tried on a create, an update and a delete, past the fields it does not know."""
    with pytest.raises(RenderError) as raised:
        Renderer(None, template).check()
    assert reason in raised.value.reason
