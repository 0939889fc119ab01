"""The language of templates: Jinja's, over plain values and with bounded cost."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinto_dispatch.sandbox.filters import FILTERS
from kinto_dispatch.sandbox.language import LONGEST_TEMPLATE, Template
from kinto_dispatch.sandbox.predicates import PREDICATES
from kinto_dispatch.sandbox.values import LONGEST_TEXT, Fault, MissingField


Bounded = Callable[..., Any]

VALUES: dict[str, Any] = {
    "new": {
        "title": "Hello <World>",
        "n": 3,
        "f": 1.5,
        "tags": ["red", "Green", "blue"],
        "none": None,
        "yes": True,
        "nested": {"a": {"b": [1, 2, {"c": "x"}]}},
        "people": [
            {"name": "Bob", "age": 50},
            {"name": "ada", "age": 36},
            {"name": "Cy", "age": 50},
        ],
        "empty": "",
        "long": "the quick brown fox jumps over the lazy dog",
        "keyed": {"b": 2, "A": 1, "c": 3},
    },
    "xs": [3, 1, 2, 1],
    "user_id": "basicauth:1",
}

SAME_AS_JINJA = Path(__file__).with_name("same_as_jinja.txt").read_text().splitlines()


def render(source: str, html: bool = False, **values: Any) -> str:
    """What the template makes of the values."""
    values = values or VALUES
    return Template(source, values, html=html).render(values)


def fault(source: str, **values: Any) -> str:
    """Why the template cannot be read or rendered."""
    with pytest.raises(Fault) as error:
        render(source, **values)
    return str(error.value)


# As in Jinja


@pytest.mark.parametrize("html", [False, True], ids=["text", "html"])
@pytest.mark.parametrize("source", SAME_AS_JINJA)
def test_templates_print_what_jinja_prints(source: str, html: bool) -> None:
    """Whoever knows Jinja knows this language: the library itself is asked what is right."""
    environment = jinja2.Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=html,
    )
    environment.policies["truncate.leeway"] = 0
    assert render(source, html) == environment.from_string(source).render(VALUES)


def test_every_test_and_filter_of_jinjas_is_compared_with_it() -> None:
    """The list of templates above leaves out no filter or test that both have."""
    corpus = "\n".join(SAME_AS_JINJA)
    spelled_otherwise = {"eq", "equalto", "==", "ne", "!=", "lt", "lessthan", "<", "<=", "gt"}
    spelled_otherwise |= {"greaterthan", ">", "ge", ">=", "escape", "le"}
    ours = {"datetime", "diff", "link", "past"}
    for name in {*FILTERS, *PREDICATES} - spelled_otherwise - ours:
        assert f"|{name}" in corpus or f"is {name}" in corpus or f"'{name}'" in corpus, name


NUMBERS = st.integers(-100, 100) | st.floats(-100, 100) | st.booleans()


@given(
    operator=st.sampled_from(["+", "-", "*", "/", "//", "%", "==", "<", ">=", "and", "or", "in"]),
    left=NUMBERS | st.text(max_size=5) | st.lists(NUMBERS, max_size=3),
    right=NUMBERS | st.text(max_size=5) | st.lists(NUMBERS, max_size=3),
)
def test_operators_are_jinjas_or_refuse(operator: str, left: Any, right: Any) -> None:
    """An operator gives what Jinja gives, or an error; never something else."""
    source = f"{{{{ left {operator} right }}}}"
    try:
        ours = render(source, left=left, right=right)
    except Fault:
        return
    assert ours == jinja2.Template(source).render(left=left, right=right)


def test_lines_with_only_a_block_leave_no_empty_line() -> None:
    """A message looks like its template."""
    source = (
        "Changes:\n{% for x in xs %}\n  {% if x > 1 %}\n- {{ x }}\n  {% endif %}\n{% endfor %}\n"
    )
    assert render(source) == "Changes:\n- 3\n- 2\n"


# Items, and nothing else


@pytest.mark.parametrize("name", ["items", "keys", "values", "get", "title", "count", "__class__"])
def test_a_field_may_have_any_name(name: str) -> None:
    """A dot looks up an item, so no field hides behind a method."""
    assert render(f"{{{{ new.{name} }}}}", new={name: "mine"}) == "mine"


@pytest.mark.parametrize(
    "path",
    [
        "new.__class__",
        "new.__init__.__globals__",
        "''.__class__.__mro__",
        "xs.__class__",
        "new.items",
        "xs.append",
        "new['__class__']",
        "user_id.upper",
        "(1).real",
        "xs.__len__.__self__",
        "new.title.__add__",
    ],
)
def test_there_are_no_attributes(path: str) -> None:
    """Python's side of a value cannot be reached, printed or called (B17)."""
    assert render(f"{{{{ {path} is defined }}}}") == "False"
    assert "is missing" in fault(f"{{{{ {path} }}}}")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ new.items() }}", "only range() can be called. Write |items."),
        ("{{ new.keys() }}", "only range() can be called. Write |list."),
        ("{{ user_id.upper() }}", "only range() can be called. Write |upper."),
        ("{{ user_id.strip() }}", "only range() can be called. Write |trim."),
        ("{{ '{0.__class__}'.format(new) }}", "only range() can be called."),
        ("{{ range.__self__ }}", "unknown name 'range'"),
        ("{{ new|attr('__class__') }}", "unknown filter 'attr'"),
        ("{{ '%s'|format(new) }}", "unknown filter 'format'"),
        ("{{ new|safe }}", "unknown filter 'safe'"),
        ("{{ new|map('attr', 'x') }}", "unknown filter 'attr'"),
        ("{{ xs|select('callable') }}", "unknown test 'callable'"),
        ("{{ new|upperr }}", "Did you mean 'upper'?"),
        ("{{ new is strin }}", "Did you mean 'string'?"),
        ("{{ self }}", "unknown name 'self'"),
        ("{{ lipsum(5) }}", "only range() can be called."),
        ("{{ cycler(1, 2) }}", "only range() can be called."),
        ("{{ namespace(a=1) }}", "only range() can be called."),
        ("{{ range(stop=3) }}", "only range() can be called."),
        ("{{ range(*xs) }}", "arguments with * or **"),
        ("{{ new|join(**new) }}", "arguments with * or **"),
        ("{% macro a() %}{% endmacro %}", "macro is not part of the language"),
        ("{% block a %}{% endblock %}", "block is not part of the language"),
        ("{% include 'x' %}", "include is not part of the language"),
        ("{% import 'x' as y %}", "import is not part of the language"),
        ("{% extends 'x' %}", "extends is not part of the language"),
        ("{% filter upper %}{% endfilter %}", "filterblock is not part of the language"),
        ("{% set new.x = 1 %}", "nsref is not part of the language"),
        ("{% set x | upper %}a{% endset %}", "set takes no filter"),
        ("{% for x in xs recursive %}{% endfor %}", "recursive loops are not part"),
        ("{{ new|truncate(1, 2, 3, 4, 5) }}", "filter truncate: too many positional"),
        ("{{ new|replace('a') }}", "filter replace: missing a required argument: 'new'"),
        ("{{ new|upper(x=1) }}", "filter upper: got an unexpected keyword argument 'x'"),
        ("{{ new is divisibleby }}", "test divisibleby: missing a required argument"),
        ("{{ neww }}", "Did you mean 'new'?"),
        ("{% for x in xs %}{% endfor %}{{ x }}", "unknown name 'x'"),
        ("{{ loop.index }}", "unknown name 'loop'"),
        ("{% for x in xs %}{% else %}{{ x }}{% endfor %}", "unknown name 'x'"),
        ("{{ x }}{% set x = 1 %}", "unknown name 'x'"),
        ("{% set y %}{% set x = 1 %}{% endset %}{{ x }}", "unknown name 'x'"),
        ("{{ new. }}", "expected name or number"),
        ("{% if %}", "Expected an expression"),
        ("{% if new %}", "Unexpected end of template"),
        ("{{ " + "9" * 5_000 + " }}", "Exceeds the limit"),
    ],
)
def test_what_can_never_be_rendered_is_refused_before(source: str, reason: str) -> None:
    """Constructs, names, filters, tests and their arguments are checked when it is read (B17)."""
    with pytest.raises(Fault) as error:
        Template(f"\n{source}", VALUES, html=False)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("a\n{{ nope }}", 2),
        ("\n\n{{ new|nope }}", 3),
        ("\n{% if new %}\n\n{% for x in nope %}{% endfor %}{% endif %}", 4),
        ("\n{{ 1 +\n new.title }}", 2),
        ("\n\n{{ new.missing }}", 3),
        ("{% for x in xs %}\n{% if x == 2 %}\n{{ x.a }}\n{% endif %}\n{% endfor %}", 3),
        ("\n{% if %}", 2),
    ],
)
def test_an_error_says_on_which_line(source: str, line: int) -> None:
    """Counted from 1, both for what is refused at start and for what fails on data."""
    assert fault(source).startswith(f"line {line}: ")


# Fields that are not there


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ new.missing is defined }}", "False"),
        ("{{ new.missing.deeper is defined }}", "False"),
        ("{{ new.none.deeper is defined }}", "False"),
        ("{{ new.missing|default('-') }}", "-"),
        ("{{ new.missing.deeper['x'][0]|default('-') }}", "-"),
        ("{{ xs[99]|default('-') }}", "-"),
        ("{{ []|first|default('-') }}", "-"),
        ("{{ []|max|default('-') }}", "-"),
        ("{% if new.missing %}a{% else %}b{% endif %}", "b"),
        ("{{ 'a' if new.missing else 'b' }}", "b"),
        ("{{ not new.missing }}", "True"),
        ("{{ new.missing or 'b' }}", "b"),
        ("{{ new.missing == 'x' }} {{ new.missing != 'x' }}", "False True"),
        ("{{ new.missing in xs }} {{ 1 in new.missing }}", "False False"),
        ("{{ new.missing == new.other }}", "True"),
        ("{% set t = new.missing %}{{ t|default('-') }}", "-"),
        ("{{ ('a' if new.missing)|default('-') }}", "-"),
    ],
)
def test_a_missing_field_may_be_asked_about(source: str, expected: str) -> None:
    """Conditions, equality, ``is defined`` and ``default`` take what is not there."""
    assert render(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ new.missing }}",
        "{{ new.missing ~ 'a' }}",
        "{{ new.missing + 1 }}",
        "{{ -new.missing }}",
        "{{ new.missing < 3 }}",
        "{{ new.missing|upper }}",
        "{{ 'a'|replace(new.missing, 'b') }}",
        "{{ [new.missing] }}",
        "{{ {'a': new.missing} }}",
        "{{ xs[new.missing] }}",
        "{{ new.missing[1:] }}",
        "{% for x in new.missing %}{% endfor %}",
        "{% set a, b = new.missing %}",
        "{{ new.missing is string }}",
        "{{ new.people|map(attribute='missing')|join }}",
        "{{ range(new.missing) }}",
    ],
)
def test_a_missing_field_cannot_be_used(source: str) -> None:
    """A message with a hole in it looks like a message, so it is not made."""
    with pytest.raises(MissingField, match=r"missing is missing; write \|default\('...'\)"):
        render(source)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ new.title + 1 }}", "+ does not take text and a number; join texts with ~"),
        ("{{ xs * 2 }}", "* does not take a list and a number"),
        ("{{ '%s' % 1 }}", "% does not take text and a number"),
        ("{{ -new.title }}", "- does not take text"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ 1 is divisibleby 0 }}", "is divisibleby: integer modulo by zero"),
        ("{{ (-8) ** 0.5 }}", "the result is not a real number"),
        ("{{ new.title < 3 }}", "cannot order text and a number"),
        ("{{ 3 in new.title }}", "text cannot contain a number"),
        ("{{ 3 in new.n }}", "cannot look into a number"),
        ("{% for x in new.n %}{% endfor %}", "for takes a list, found a number"),
        ("{% for a, b in xs %}{% endfor %}", "expected 2 values, found a number"),
        ("{{ new[xs] }}", "an item is named by text or a number, found a list"),
        ("{{ {xs: 1} }}", "a key is text or a number, found a list"),
        ("{{ new.n[1:] }}", "only text and lists have slices, found a number"),
        ("{{ new.n|length }}", "|length: takes text, a list or a mapping, found a number"),
        ("{{ new.title|round }}", "|round: takes a number, found text"),
        ("{{ xs|items }}", "|items: takes a mapping, found a list"),
        ("{{ new.people|sort }}", "|sort: '<' not supported"),
        ("{{ new.people|unique }}", "|unique: takes texts or numbers, found a mapping"),
        ("{{ xs|map }}", "|map: takes the name of a filter, or attribute="),
        ("{{ xs|map(user_id) }}", "unknown filter 'basicauth:1'"),
        ("{{ 1|round(99) }}", "|round: precision is -15 to 15"),
        ("{{ 1|round(1, 'up') }}", "|round: method is common, ceil or floor"),
        ("{{ xs|tojson(99) }}", "|tojson: indent is 0 to 8"),
        ("{{ 'abc'|truncate(1) }}", "|truncate: length 1 is less than that of the end"),
        ("{{ xs|truncate('a') }}", "|truncate: takes a whole number, found text"),
        ("{{ '%d' is odd }}", "is odd: takes a number, found text"),
        ("{{ range(1, 2, 0) }}", "range() arg 3 must not be zero"),
    ],
)
def test_a_value_of_the_wrong_kind_is_an_error_in_peoples_words(source: str, reason: str) -> None:
    """What was found and what is taken, without Python's names for it."""
    assert reason in fault(source)


# Bounds

DOUBLE = "{% set x = [x, x] %}" * 60
DOUBLE_TUPLE = "{% set x = (x, x) %}" * 60
WORK = "it does more work than allowed (1,000,000 steps)"
TEXT = f"a text of more than {LONGEST_TEXT:,} characters"

BOMBS = {
    "repeated text": ("{{ 'a' * 1000000000 }}", "text of more than"),
    "repeated text in a variable": ("{% set x = 'ab' * 10**9 %}", "text of more than"),
    "doubled by ~": ("{% set x = 'a' %}" + "{% set x = x ~ x %}" * 60, TEXT),
    "doubled by +": ("{% set x = 'a' %}" + "{% set x = x + x %}" * 60, TEXT),
    "doubled list": ("{% set x = [1] %}" + "{% set x = x + x %}" * 60, WORK),
    "huge power": ("{{ 10 ** (10 ** 9) }}", "too large"),
    "tower of powers": ("{{ ((9 ** 99) ** 99) ** 99 }}", "too large"),
    "huge product": ("{% set x = 9 ** 300 %}" + "{% set x = x * x %}" * 60, "too large"),
    "formatting": ("{{ '%999999999d' % 1 }}", "does not take"),
    "formatting by a test": ("{{ '%999999999d' is odd }}", "takes a number"),
    "formatting by division": ("{{ '%999999999d' is divisibleby 3 }}", "takes a number"),
    "formatting a time": ("{{ 0|datetime('%999999999d') }}", "takes a strftime format"),
    "long range": ("{{ range(10 ** 12)|length }}", "range() of more than 10,000 numbers"),
    "nested loops": (
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        WORK,
    ),
    "nested loops over one list": (
        "{% set x = range(9999) %}{% for a in x %}{% for b in x %}{% endfor %}{% endfor %}",
        WORK,
    ),
    "nested loops with work": (
        "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = a * b %}"
        "{% endfor %}{% endfor %}",
        WORK,
    ),
    "filtered loops": (
        "{% for a in range(9999) %}{% for b in range(9999) if b < 0 %}{% endfor %}{% endfor %}",
        WORK,
    ),
    "much output": ("{% for a in range(9999) %}" + "x" * 100 + "{% endfor %}", "writes more"),
    "much captured output": (
        "{% set x %}{% for a in range(9999) %}" + "x" * 100 + "{% endfor %}{% endset %}",
        "writes more",
    ),
    "printing what holds itself": ("{% set x = [1] %}" + DOUBLE + "{{ x }}", WORK),
    "comparing what holds itself": ("{% set x = [1] %}" + DOUBLE + "{{ x == [x] }}", WORK),
    "searching what holds itself": ("{% set x = [1] %}" + DOUBLE + "{{ 2 in x }}", WORK),
    "sorting what holds itself": ("{% set x = [1] %}" + DOUBLE + "{{ x|sort }}", WORK),
    "JSON of what holds itself": ("{% set x = [1] %}" + DOUBLE + "{{ x|tojson }}", WORK),
    "hashing what holds itself": (
        "{% set x = (1,) %}" + DOUBLE_TUPLE + "{{ x in {1: 2} }}",
        WORK,
    ),
    "unique of what holds itself": (
        "{% set x = (1,) %}" + DOUBLE_TUPLE + "{{ [x]|unique }}",
        WORK,
    ),
    "long glue": ("{{ range(9999)|join('a' * 9999) }}", TEXT),
    "replacement": ("{{ ('a' * 99999)|replace('a', 'b' * 99999) }}", TEXT),
    "replacing nothing": ("{{ ('a' * 99999)|replace('', 'b' * 99999) }}", TEXT),
    "replacement in a list": ("{{ range(9999)|map('replace', '', 'b' * 9999)|list }}", WORK),
    "indented JSON": ("{% set x = 1 %}" + "{% set x = [x] %}" * 500 + "{{ [x]|tojson(8) }}", TEXT),
    "sorting in a loop": (
        "{% for a in range(9999) %}{% set b = range(9999)|sort %}{% endfor %}",
        WORK,
    ),
    "slicing in a loop": (
        "{% set x = 'a' * 99999 %}{% for a in range(9999) %}{% set y = x[1:] %}{% endfor %}",
        WORK,
    ),
    "many long texts": (
        "".join(f"{{% set x{n} = 'a' * 262144 %}}" for n in range(2_000)),
        WORK,
    ),
    "summing large numbers": (
        "{% for a in range(9999) %}{{ (9**500) // (7**500) * (9**40) % 11 }}{% endfor %}",
        WORK,
    ),
    "deep list": ("{{ " + "[" * 3_000 + "]" * 3_000 + " }}", "nested"),
    "deep brackets": ("{{ " + "(" * 3_000 + "1" + ")" * 3_000 + " }}", "nested"),
    "deep sum": ("{{ 1" + " + 1" * 9_000 + " }}", "nested more than 50 levels"),
    "deep path": ("{{ new" + ".a" * 9_000 + " }}", "nested more than 50 levels"),
    "deep statements": ("{% if 1 %}" * 3_000 + "{% endif %}" * 3_000, "nested"),
    "deep value": ("{% set x = [] %}" + "{% set x = [x] %}" * 3_000 + "{{ x }}", "nested too"),
    "deep comparison": (
        "{% set x = [] %}{% set y = [] %}"
        + "{% set x = [x] %}{% set y = [y] %}" * 1_500
        + "{{ x == y }}",
        "nested too",
    ),
    "centred text": ("{{ 'a'|center(10 ** 9) }}", "unknown filter 'center'"),
    "indented text": ("{{ 'a'|indent(10 ** 9) }}", "unknown filter 'indent'"),
    "recursion": ("{% macro a() %}{{ a() }}{{ a() }}{% endmacro %}{{ a() }}", "macro is not"),
    "long template": ("x" * (LONGEST_TEMPLATE + 1), "65,537 characters, at most 65,536"),
}


@pytest.mark.parametrize(("source", "reason"), BOMBS.values(), ids=BOMBS)
def test_bombs_do_not_go_off(source: str, reason: str, bounded: Bounded) -> None:
    """Whatever would take long or much memory ends early, with the reason (B18)."""
    assert reason in bounded(lambda: fault(source), seconds=1.0, megabytes=50)


@pytest.mark.parametrize(
    "source",
    ["{{ text|upper }}", "{{ text|title }}", "{{ text|urlencode }}", "{{ text|e|e|e }}"],
)
def test_filters_on_long_data_are_bounded(source: str, bounded: Bounded) -> None:
    """What a record holds is not ours to choose; its largest text passes or is refused."""

    def attempt() -> str:
        try:
            return render(source, text="ß&'" * 80_000)
        except Fault as error:
            return str(error)

    result = bounded(attempt, seconds=1.0, megabytes=60)
    assert len(result) <= LONGEST_TEXT


def test_indented_json_of_deep_data_is_bounded(bounded: Bounded) -> None:
    """Each of many items, far to the right: it ends where the text is too long."""
    deep: Any = list(range(20_000))
    for _ in range(400):
        deep = [deep]
    reason = bounded(lambda: fault("{{ deep|tojson(8) }}", deep=deep), seconds=1.0, megabytes=10)
    assert TEXT in reason


def test_a_huge_record_costs_only_what_is_used_of_it(bounded: Bounded) -> None:
    """Ten thousand changes can be counted, and the first ones shown."""
    changes = [{"uri": f"/buckets/{n}", "new": {"text": "x" * 1_000}} for n in range(10_000)]
    source = "{{ changes|length }}: {% for c in changes[:3] %}{{ c.uri }} {% endfor %}"
    text = bounded(lambda: render(source, changes=changes), seconds=0.5, megabytes=10)
    assert text == "10000: /buckets/0 /buckets/1 /buckets/2 "


# Data is data

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)

HOSTILE = st.sampled_from(
    [
        "{{ 7 * 7 }}",
        "{% for x in range(10**9) %}",
        "{{ new.__class__ }}",
        "#}{{ user_id }}",
        "{0.__class__}",
        "%(x)s %999999999d",
        "<script>alert(1)</script>",
    ]
)


@given(HOSTILE | st.text())
def test_data_is_never_a_template(data: str) -> None:
    """What a record holds is printed as it is, however much it looks like a template."""
    assert render("a{{ new.x }}b", new={"x": data}) == f"a{data}b"
    assert render("{{ new.x ~ '' }}|{{ new.x|trim|default }}", new={"x": data}).startswith(data)


@given(HOSTILE | st.text())
def test_html_escapes_whatever_it_prints(data: str) -> None:
    """No way of printing text gets a tag past the escaping."""
    source = (
        "{{ x }}{{ x ~ x }}{{ [x] }}{{ {x: x} }}{{ x|upper|lower }}{{ x|e }}{{ x|tojson }}"
        "{{ x|replace('a', x) }}{{ [x]|join(x) }}{{ x[:9] }}{{ 'a' if not x else x }}"
        "{% set y %}{{ x }}{% endset %}{{ y }}{{ y ~ x }}{{ y|list }}{{ y|e }}"
    )
    assert "<" not in render(source, html=True, x=data)


TEMPLATES = st.lists(
    st.sampled_from(
        [
            "{{ new }}",
            "{{ new.a }}",
            "{{ new.a.b.c|default(1) }}",
            "{{ new.a + new.b }}",
            "{{ new.a ~ new.b }}",
            "{{ new.a * new.b }}",
            "{{ new.a % new.b }}",
            "{{ new.a ** new.b }}",
            "{{ new.a // new.b }}",
            "{{ new.a == new.b }}",
            "{{ new.a < new.b }}",
            "{{ new.a in new.b }}",
            "{{ new.a[new.b] }}",
            "{{ new.a[1:new.b] }}",
            "{{ new.a|join(new.b) }}",
            "{{ new.a|sort|first }}",
            "{{ new.a|replace(new.b, new.a) }}",
            "{{ new.a|truncate(new.b) }}",
            "{{ new.a|datetime }}",
            "{{ new.a|datetime(new.b) }}",
            "{{ new.a|int + new.b|float }}",
            "{{ new.a|round(new.b) }}",
            "{{ new.a|map(new.b)|list }}",
            "{{ new.a|select(new.b)|list }}",
            "{{ new.a|map(attribute=new.b)|list }}",
            "{{ new.a|sum }}",
            "{{ new.a|tojson(new.b) }}",
            "{{ new.a|unique }}",
            "{{ new.a|dictsort }}",
            "{{ new.a|link }}",
            "{{ new.a|urlencode }}",
            "{{ new.a is odd }}",
            "{{ range(new.a) }}",
            "{% for x in new.a %}{{ loop.index }}{{ x }}{% endfor %}",
            "{% for k, v in new.a|items %}{{ k }}{{ v }}{% endfor %}",
            "{% if new.a %}{{ new.b }}{% endif %}",
            "{% set x = new.a %}{{ x }}",
        ]
    ),
    min_size=1,
    max_size=4,
).map("".join)


@given(source=TEMPLATES, a=JSON, b=JSON, html=st.booleans())
def test_arbitrary_records_render_or_are_an_error(source: str, a: Any, b: Any, html: bool) -> None:
    """Whatever a record holds, the answer is a bounded text or a ``Fault`` with a line."""
    try:
        text = render(source, html, new={"a": a, "b": b})
    except Fault as error:
        if error.line != 1:
            raise
    else:
        assert len(text) <= LONGEST_TEXT


@given(st.text(alphabet="{}%# \n|.()[]'\"~abfornewxsi=+*-0123456789", max_size=60))
def test_arbitrary_text_is_a_template_or_an_error(source: str) -> None:
    """Whatever an operator types, the answer is a template, or why not."""
    try:
        Template(source, VALUES, html=False).render(VALUES)
    except Fault as error:
        if not error.reason:
            raise


@given(new=st.dictionaries(st.sampled_from("ab"), JSON), source=TEMPLATES)
def test_the_data_is_not_changed(new: dict[str, Any], source: str) -> None:
    """All channels share the values of an event."""
    before = repr(new)
    with contextlib.suppress(Fault):
        render(source, new=new)
    assert repr(new) == before


@given(source=TEMPLATES, a=JSON, b=JSON)
def test_what_renders_once_renders_always_the_same(source: str, a: Any, b: Any) -> None:
    """The result depends on the template and the data alone, not on time or load."""

    def outcome() -> str:
        try:
            return render(source, new={"a": a, "b": b})
        except Fault as error:
            return str(error)

    assert outcome() == outcome()


def test_unique_knows_numbers_of_any_size(bounded: Callable[..., object]) -> None:
    """Python gives the same hash to many large integers; each costs as much as any other."""
    prime = sys.hash_info.modulus
    large = [number * prime for number in range(1, 40_001)]
    template = Template("{{ x|unique|length }}", ["x"], html=False)
    assert bounded(lambda: template.render({"x": large}), seconds=3.0, megabytes=50) == "40000"
    same = [1, 1.0, True, 2, -2, prime, prime, -prime]
    assert template.render({"x": same}) == "5"
