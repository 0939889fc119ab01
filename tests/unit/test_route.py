"""Which changes of an event a channel wants."""

from __future__ import annotations

import re
import string
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinto_dispatch.errors import BadRoute, RouteError
from kinto_dispatch.event import Event
from kinto_dispatch.expression import LONGEST_EXPRESSION
from kinto_dispatch.route import NAMES, Route
from kinto_dispatch.settings import RouteSettings
from kinto_dispatch.testing.builders import make_change, make_event


T = TypeVar("T")
E = TypeVar("E", bound=Exception)
Bounded = Callable[..., Any]


def route(**settings: Any) -> Route:
    """A route with these settings."""
    return Route(RouteSettings(**settings))


def event_about(*uris: str, **over: Any) -> Event:
    """An event with a change for each of these objects."""
    return make_event(changes=tuple(make_change(uri=uri) for uri in uris), **over)


def wants(event: Event, **settings: Any) -> bool:
    """Whether a route with these settings wants anything of the event."""
    return bool(route(**settings).select(event))


def refusal(**settings: Any) -> str:
    """What is said about a route that can never work."""
    with pytest.raises(BadRoute) as error:
        route(**settings)
    return str(error.value)


def failure(event: Event, when: str) -> RouteError:
    """Why the expression cannot be evaluated."""
    with pytest.raises(RouteError) as error:
        route(when=when).select(event)
    return error.value


def attempt(call: Callable[[], T], error: type[E]) -> tuple[T | None, E | None]:
    """What the call returns, or the one error that it may raise."""
    try:
        return call(), None
    except error as raised:
        return None, raised


# Clauses about the event


def test_a_route_without_clauses_wants_everything() -> None:
    """No settings mean every change, and nothing is copied for it."""
    event = event_about("/buckets/a", "/buckets/b")
    assert route().select(event) is event.changes


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"actions": ("create",)}, True),
        ({"actions": ("update", "delete")}, False),
        ({"resources": ("record", "group")}, True),
        ({"resources": ("bucket",)}, False),
        ({"alias_actions": ("create",)}, True),
        ({"alias_actions": ("update",)}, False),
        ({"alias_resources": ("bucket",)}, False),
        ({"actions": ("create",), "resources": ("bucket",)}, False),
        ({"actions": ("create", "update"), "alias_actions": ("update", "delete")}, False),
        ({"actions": ("create", "update"), "alias_actions": ("create",)}, True),
    ],
)
def test_actions_and_resources_must_both_hold(settings: dict[str, Any], expected: bool) -> None:
    """Each clause that is set must hold, those of the alias as well as the channel's own."""
    assert wants(make_event(action="create", resource_name="record"), **settings) is expected


def test_all_changes_are_kept_as_they_are_where_only_the_event_is_judged() -> None:
    """The common case costs two look-ups however many changes there are."""
    event = event_about(*(f"/buckets/{number}" for number in range(100)))
    assert route(actions=("create",), resources=("record",)).select(event) is event.changes


@pytest.mark.parametrize(
    ("users", "user_id", "expected"),
    [
        (("account:alice",), "account:alice", True),
        (("account:alice",), "account:alice2", False),
        (("account:alice",), "basicauth:alice", False),
        (("account:bob", "account:alice"), "account:alice", True),
        (("basicauth:*",), "basicauth:3f2a", True),
        (("basicauth:*",), "account:basicauth:", False),
        (("*:admin",), "account:admin", True),
        (("*",), "account:alice", True),
        (("*",), None, False),
        (("account:alice",), None, False),
        (("account:a*e",), "account:ae", True),
        (("account:a*a",), "account:a", False),
    ],
)
def test_users_are_ids_with_asterisks(
    users: tuple[str, ...], user_id: str | None, expected: bool
) -> None:
    """Whole ids, as Kinto prefixes them; an anonymous write has none and matches none."""
    assert wants(make_event(user_id=user_id), users=users) is expected


def test_a_users_regular_expression_is_plain_text() -> None:
    """Only the asterisk is special, so that no pattern can take long."""
    assert not wants(make_event(user_id="account:alice"), users=("account:alic.",))


# uris


@pytest.mark.parametrize(
    ("glob", "uri", "expected"),
    [
        ("/buckets/a", "/buckets/a", True),
        ("/buckets/a", "/buckets/a/collections/b", False),
        ("/buckets/a", "/buckets/ab", False),
        ("/buckets/*", "/buckets/a", True),
        ("/buckets/*", "/buckets/a/collections/b", False),
        ("/buckets/*/collections/*", "/buckets/a/collections/b", True),
        ("/buckets/*/collections/*", "/buckets/a/groups/b", False),
        ("/buckets/a/**", "/buckets/a", True),
        ("/buckets/a/**", "/buckets/a/collections/b/records/c", True),
        ("/buckets/a/**", "/buckets/ab/collections/b", False),
        ("/buckets/a/**", "/buckets/ab", False),
        ("/buckets/**/records/c", "/buckets/a/collections/b/records/c", True),
        ("/buckets/**/records/c", "/buckets/a/collections/b/records/d", False),
        ("/buckets/**/records/*", "/buckets/a/collections/records/records/c", True),
        ("/**", "/accounts/alice", True),
        ("/**/collections/**", "/buckets/a/collections/b", True),
        ("/**/collections/**", "/buckets/groups", False),
        ("/**/b/**/b", "/a/b/c/b", True),
        ("/**/b/**/b", "/a/b/c", False),
        ("/buckets/staging-*/**", "/buckets/staging-eu/collections/b", True),
        ("/buckets/staging-*/**", "/buckets/production/collections/b", False),
        ("/buckets/*-eu/**", "/buckets/staging-eu/groups/b", True),
        ("/buckets/s*g*u", "/buckets/staging-eu", True),
        ("/buckets/prod", "/buckets/PROD", False),
        ("/buckets/a.c", "/buckets/abc", False),
    ],
)
def test_uris_are_globs_over_segments(glob: str, uri: str, expected: bool) -> None:
    """``*`` stays within its segment, ``**`` takes any number of them, the rest is exact."""
    assert wants(event_about(uri), uris=(glob,)) is expected


def test_a_bucket_never_names_its_neighbour() -> None:
    """What is written for one bucket matches no bucket whose name begins with it."""
    event = event_about("/buckets/prod-secret/groups/admins", "/buckets/prod/groups/admins")
    (wanted,) = route(uris=("/buckets/prod/**",)).select(event)
    assert wanted is event.changes[1]


def test_changes_keep_the_order_of_the_event() -> None:
    """A route leaves out; it neither sorts nor copies."""
    event = event_about("/buckets/c", "/buckets/x/groups/g", "/buckets/a", "/buckets/b")
    selected = route(uris=("/buckets/*",)).select(event)
    assert [change.uri for change in selected] == ["/buckets/c", "/buckets/a", "/buckets/b"]
    assert all(any(one is change for change in event.changes) for one in selected)


@pytest.mark.parametrize(
    ("glob", "advice"),
    [
        ("/buckets/default", "events carry its real id"),
        ("/buckets/default/collections/**", "events carry its real id"),
        ("buckets/a", "Write /buckets/a."),
        ("/v1/buckets/a", "uris in events have no version"),
        ("/buckets/a/", "Leave out the empty segment"),
        ("/buckets//a", "Leave out the empty segment"),
        ("/buckets/a**", "** stands between slashes"),
        ("/buckets/[ab]", "Only * and ** stand for something else"),
        ("/buckets/a?", "Only * and ** stand for something else"),
        ("", "Write /."),
    ],
)
def test_a_glob_that_never_matches_is_refused(glob: str, advice: str) -> None:
    """What could only be a mistake is told at start, with what to write instead."""
    message = refusal(uris=(glob,))
    assert message.startswith(f"uris: found {glob}")
    assert advice in message


def test_a_bucket_whose_name_begins_with_default_is_no_mistake() -> None:
    """Only the alias of each user's own bucket has no events."""
    assert wants(event_about("/buckets/defaults"), uris=("/buckets/defaults",))


def test_globs_cannot_backtrack() -> None:
    """A glob made to be slow, on a uri made to be slow, takes no time (B19)."""
    glob = "/**/a" * 300 + "/b"
    uri = "/a" * 5_000
    within = "/" + "a*" * 500 + "b"
    long_segment = "/" + "a" * 10_000
    started = time.perf_counter()
    assert not wants(event_about(uri), uris=(glob,))
    assert not wants(event_about(long_segment), uris=(within,))
    assert time.perf_counter() - started < 1.0


def test_many_routes_take_little_time(bounded: Bounded) -> None:
    """A thousand routes on a large record; a pattern that is slow elsewhere is text (B19)."""
    event = make_event(
        user_id="account:" + "a" * 10_000,
        changes=(make_change(new={"title": "a" * 10_000, "tags": ["b"] * 100}),),
    )
    evil = "^(a+)+$"
    routes = [
        Route(RouteSettings(**settings))
        for _ in range(250)
        for settings in (
            {"users": (f"account:{evil}",)},
            {"uris": (f"/{evil}/**",)},
            {"when": f"new.title == '{evil}'"},
            {"when": f"contains(new.tags, '{evil}') || ends_with(new.title, '{evil}')"},
        )
    ]
    selected = bounded(lambda: [one.select(event) for one in routes], seconds=2.0, megabytes=5)
    assert selected == [()] * 1_000
    assert "unknown function 'matches'" in refusal(when=f"matches(new.title, '{evil}')")


def naive(glob: str) -> re.Pattern[str]:
    """The same glob as a regular expression: slow on some, but plainly right."""
    parts = [
        "(?:/[^/]*)*" if segment == "**" else "/" + re.escape(segment).replace(r"\*", "[^/]*")
        for segment in glob.split("/")[1:]
    ]
    return re.compile("".join(parts))


SEGMENTS = st.sampled_from(["a", "b", "ab", "ba", "aab"])


@given(
    glob=st.lists(SEGMENTS | st.sampled_from(["*", "**", "a*", "*b", "a*b"]), min_size=1),
    uri=st.lists(SEGMENTS, min_size=1),
)
def test_globs_match_what_the_plain_definition_matches(glob: list[str], uri: list[str]) -> None:
    """The fast matcher agrees with a regular expression made from the definition."""
    text, pattern = "/" + "/".join(uri), "/" + "/".join(glob)
    assert wants(event_about(text), uris=(pattern,)) == bool(naive(pattern).fullmatch(text))


def test_nothing_is_copied_where_all_changes_are_wanted() -> None:
    """The event itself goes on, which then need not be written anew for the lane."""
    event = event_about("/buckets/a", "/buckets/b")
    assert route(uris=("/buckets/*",), when="new").select(event) is event.changes


# when


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("new.title == 'Hello'", True),
        ("new.title != 'Hello'", False),
        ("old", False),
        ("!old", True),
        ("contains(changed, 'title')", True),
        ("contains(changed, 'body')", False),
        ("action == 'create' && resource_name == 'record'", True),
        ("starts_with(user_id, 'basicauth:')", True),
        ("bucket_id == 'blog' && collection_id == 'articles'", True),
        ("uri == '/buckets/blog/collections/articles/records/first'", True),
        ("object_id == 'first'", True),
        ("timestamp > `1453459942000`", True),
        ("new.score > `3`", True),
        ("new.score > `8`", False),
        ("new.missing", False),
        ("new.missing > `3`", False),
        ("new.tags[?@ == 'red']", True),
        ("new.tags[?@ == 'blue']", False),
        ("new.author.name == 'Ada'", True),
        ("new.zero", True),
        ("new.no", False),
        ("new.empty", False),
        ("new.nothing", False),
        ("new.nobody", False),
        ("`0`", True),
        ("sort_by(new.people, &age)[0].name == 'Ada'", True),
        ("new.people[?age > `40`].name | [0] == 'Bob'", True),
        ("new.id == 'first'", True),
        ("new.title == `Hello`", True),
        ("new.\"title\" == 'Hello'", True),
        ("[new.title, old.title] | [0]", True),
        ("{a: new.title}.a == 'Hello'", True),
    ],
)
def test_when_is_jmespath_over_the_change(when: str, expected: bool) -> None:
    """True as JMESPath has it: false are null, false and what is empty; 0 is true."""
    new = {
        "id": "first",
        "title": "Hello",
        "score": 5,
        "tags": ["red", "green"],
        "author": {"name": "Ada"},
        "zero": 0,
        "no": False,
        "empty": "",
        "nothing": [],
        "nobody": {},
        "people": [{"name": "Bob", "age": 50}, {"name": "Ada", "age": 36}],
    }
    assert wants(make_event(changes=(make_change(new=new),)), when=when) is expected


def test_when_judges_each_change_by_itself() -> None:
    """Of a batch only those changes are selected for which it holds."""
    changes = tuple(make_change(object_id=str(n), new={"n": n}) for n in range(6))
    selected = route(when="new.n >= `4`").select(make_event(changes=changes))
    assert [change.object_id for change in selected] == ["4", "5"]


def test_every_name_can_be_asked_for() -> None:
    """The documented names exist, and the event's own are those of the event."""
    event = make_event()
    for name in NAMES:
        assert len(route(when=f"{name} == {name}").select(event)) == 1


@pytest.mark.parametrize(
    ("when", "reason", "column", "advice"),
    [
        ('new.title == "Hello"', "unknown name 'Hello'", 14, "single quotes: 'Hello'"),
        ("new.score > 5", "unexpected '5'", 13, "numbers in backticks: `5`"),
        ("new.a = 'b'", "Unknown token '='", 7, "To compare write =="),
        ("new.a and new.b", "unexpected 'and'", 7, "Write && for and."),
        ("new.a or new.b", "unexpected 'or'", 7, "Write || for or."),
        ("not new.a", "unexpected 'new'", 5, "Write ! for not."),
        ("'a' in new.tags", "unexpected 'in'", 5, "Write contains(list, value)."),
        ("new.a == true", "unknown name 'true'", 10, "Write `true` in backticks."),
        ("neww.title", "unknown name 'neww'", 1, "Did you mean 'new'?"),
        ("sort_by(xyz, &title)", "unknown name 'xyz'", 9, "Known: old, new,"),
        ("start_with(uri, 'a')", "unknown function 'start_with'", 1, "'starts_with'?"),
        ("matches(uri, 'a')", "unknown function 'matches'", 1, "Known: abs,"),
        ("contains(uri)", "contains() takes 2 arguments, found 1", 1, ""),
        ("contains(uri, uri, uri)", "contains() takes 2 arguments, found 3", 1, ""),
        ("merge()", "merge() takes at least 1 arguments, found 0", 1, ""),
        ("new.a &&", "something is missing at the end", 9, ""),
        ("new.title == 'Hello", "Unclosed ' delimiter", 14, ""),
        ("new.[", "something is missing at the end", 6, ""),
        ("", "empty", 1, "Leave the setting out"),
        ("  ", "empty", 1, "Leave the setting out"),
        ("(" * 1_900, "nested too deeply", 1, ""),
        ("!" * 150 + "new", "nested more than 100 levels", 1, ""),
        ("new" + " " * 2_000, "2,003 characters, at most 2,000", 2001, ""),
    ],
)
def test_a_bad_expression_is_refused_with_a_pointer(
    when: str, reason: str, column: int, advice: str
) -> None:
    """At start, at the character where it goes wrong, with what to write instead (B19)."""
    message = refusal(when=when)
    assert f"when: {reason}" in message
    assert f"at character {column};" in message
    assert advice in message
    *_, line, caret = message.split("\n")
    shown = line[caret.index("^") :]
    assert when[column - 1 : column + 10].rstrip().startswith(shown[:10].rstrip())


def test_the_pointer_stays_on_a_short_line() -> None:
    """Of a long expression the part around the mistake is shown."""
    *_, line, caret = refusal(when="new.a == 'x' && " * 60 + "neww == 'x'").split("\n")
    assert len(line) < 80
    assert line[caret.index("^") :].startswith("neww")


def test_all_mistakes_are_told_at_once() -> None:
    """Every clause that cannot work is named, each with the bare name of its setting."""
    with pytest.raises(BadRoute) as error:
        route(
            actions=("created",),
            users=("alice", "system.Authenticated"),
            uris=("/buckets/default", "buckets"),
            when="new.a = 1",
        )
    settings = [problem.setting for problem in error.value.problems]
    assert settings == ["actions", "users", "users", "uris", "uris", "when"]
    assert "Did you mean 'create'?" in str(error.value)
    assert "account:alice" in str(error.value)


def test_a_channel_whose_alias_passes_nothing_on_is_refused() -> None:
    """A route that can never match is a mistake, not a quiet channel."""
    message = refusal(actions=("create",), alias_actions=("update", "delete"))
    assert "at least one of those the alias passes on (update delete)" in message
    assert "resources: found bucket" in refusal(resources=("bucket",), alias_resources=("group",))


@pytest.mark.parametrize(
    ("when", "new", "reason"),
    [
        ("contains(new.tags, 'a')", {}, "contains() takes array or string, found null"),
        ("contains(new.tags, 'a')", {}, "ask first: field && contains(...)"),
        ("length(new.n)", {"n": 5}, "length() takes string or array or object, found number"),
        ("new.n > `3`", {"n": "5"}, "'>' not supported between instances of 'str' and 'int'"),
        ("avg(new.n)", {"n": [10**400, 1.5]}, "int too large to convert to float"),
        ("ceil(new.n)", {"n": float("inf")}, "cannot convert float infinity to integer"),
    ],
)
def test_an_expression_that_fails_on_data_names_itself_and_the_object(
    when: str, new: dict[str, Any], reason: str
) -> None:
    """Never a drop: it is raised with expression, reason and uri, and becomes a dead letter."""
    error = failure(make_event(changes=(make_change(new=new),)), when)
    assert reason in str(error)
    assert (error.expression, error.uri) == (when, make_change().uri)


def test_an_error_does_not_repeat_the_data() -> None:
    """What a writer put into a record must not fill the log."""
    new = {"n": "secret " * 100_000}
    event = make_event(changes=(make_change(new=new),))
    assert "secret" not in str(failure(event, "abs(new.n)"))
    assert len(str(failure(event, "new.n > `3` || " * 80 + "old"))) < 700


DOUBLED = "[@,@]" + "|[@,@]" * 60

BOMBS = {
    "doubling a list": "[@,@][]" + "|[@,@][]" * 60,
    "doubling a text": "join('',[uri,uri])" + "|join('',[@,@])" * 60,
    "printing what holds itself": f"{DOUBLED}|to_string(@)",
    "comparing what holds itself": f"({DOUBLED}) == ({DOUBLED})",
    "counting what holds itself": f"{DOUBLED}|contains(@, 'a')",
    "long glue": "join(new.glue, new.many)",
    "flattening shared lists": "new.many|{0}|{0}|[][]".format("[" + ",".join("@" * 90) + "]"),
    "flattening twice": "new.many[]" + ".[@,@][]" * 40,
}


@pytest.mark.parametrize("when", BOMBS.values(), ids=BOMBS)
def test_an_expression_cannot_take_long(when: str, bounded: Bounded) -> None:
    """Copying, printing and comparing are paid for, so that doubling ends early (B19)."""
    many = [str(number) for number in range(20_000)]
    event = make_event(changes=(make_change(new={"many": many, "glue": "x" * 50_000}),))
    error = bounded(lambda: failure(event, when), seconds=1.0, megabytes=60)
    assert error.reason == "it does more work than allowed (1,000,000 steps)"


def test_a_large_record_fits_into_the_budget() -> None:
    """The bound is far from what people do: a megabyte of text, a hundred thousand numbers."""
    new = {"text": "x" * 1_000_000, "numbers": list(range(50_000))}
    event = make_event(changes=(make_change(new=new),))
    assert wants(event, when="contains(new.text, 'x') && length(new.numbers) > `10`")
    assert wants(event, when="contains(new.numbers, `49999`)")


def test_data_nested_without_end_is_an_error_of_the_route() -> None:
    """Recursion in the data does not end the process that routes."""
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    event = make_event(changes=(make_change(new={"deep": deep}),))
    assert "nested too deeply" in failure(event, "to_string(new)").reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)

EXPRESSIONS = st.sampled_from(
    [
        "new.a",
        "new.a == old.a",
        "new.a < old.a",
        "contains(new.a, 'x')",
        "length(new.a) > `1`",
        "sort(new.a)",
        "max_by(new.a, &b)",
        "join('-', new.a)",
        "sum(new.a)",
        "avg(new.a)",
        "to_number(new.a)",
        "to_string(new)",
        "new.* | [0]",
        "new.a[].b[?c]",
        "new.a[1:3]",
        "reverse(new.a)",
        "merge(new, old)",
        "keys(new.a)",
        "not_null(old.a, new.a)",
        "floor(new.a)",
    ]
)


@given(when=EXPRESSIONS, old=JSON, new=JSON)
def test_arbitrary_records_are_selected_or_an_error(when: str, old: Any, new: Any) -> None:
    """Whatever a record holds, the answer is a selection or a ``RouteError``."""
    change = make_change(old={"a": old}, new={"a": new})
    event = make_event(changes=(change,))
    selected, error = attempt(lambda: route(when=when).select(event), RouteError)
    if error is None:
        assert selected in ((), (change,))
    else:
        assert error.uri == change.uri
        assert len(str(error)) < 1_000


@given(st.text(alphabet=string.printable + "é\x00\ud800", max_size=40))
def test_arbitrary_text_is_an_expression_or_refused(when: str) -> None:
    """Whatever an operator types, the answer is a route or what to change (B19)."""
    _, error = attempt(lambda: route(when=when), BadRoute)
    assert error is None or [problem.setting for problem in error.problems] == ["when"]


@given(st.lists(st.text(alphabet=string.printable, max_size=20)))
def test_arbitrary_text_is_a_glob_or_refused(uris: list[str]) -> None:
    """The same for uris."""
    one, error = attempt(lambda: route(uris=tuple(uris)), BadRoute)
    if one is None:
        assert error is not None
        assert {problem.setting for problem in error.problems} == {"uris"}
    else:
        one.select(make_event())


def test_the_longest_expression_is_accepted() -> None:
    """The bound is as documented, and long lists of alternatives stay below it."""
    names = ",".join(f"'name-{number}'" for number in range(150))
    when = f"contains([{names}], new.title)".ljust(LONGEST_EXPRESSION)
    assert not wants(make_event(), when=when)


# explain


def test_explain_tells_what_every_clause_says() -> None:
    """Clauses about the event once, the others for every change, with what was looked at."""
    event = make_event(
        changes=(
            make_change(uri="/buckets/a", new={"n": 1}),
            make_change(uri="/buckets/b", new={"n": "2"}),
        )
    )
    results = route(
        actions=("update", "create"),
        users=("account:*",),
        uris=("/buckets/a",),
        when="new.n > `0`",
    ).explain(event)
    told = [(one.clause, one.expected, one.found, one.matched) for one in results]
    assert told == [
        ("actions", "update create", "create", True),
        ("users", "account:*", event.user_id, False),
        ("uris", "/buckets/a", "/buckets/a", True),
        ("when", "new.n > `0`", "true", True),
        ("uris", "/buckets/a", "/buckets/b", False),
        ("when", "new.n > `0`", "", False),
    ]
    assert [one.change for one in results[2:]] == [event.changes[n] for n in (0, 0, 1, 1)]
    assert "not supported between" in (results[-1].error or "")


def test_explain_says_that_there_is_no_user() -> None:
    """An anonymous write is told as such."""
    (result,) = route(users=("*",)).explain(make_event(user_id=None))
    assert (result.found, result.matched) == ("none", False)


def test_explain_cuts_what_it_shows() -> None:
    """A large result is shown by its beginning."""
    event = make_event(changes=(make_change(new={"text": "x" * 10_000}),))
    (result,) = route(when="new").explain(event)
    assert result.matched
    assert len(result.found) == 200


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "actions": st.sampled_from([("create",), ("update", "delete")]),
        "users": st.sampled_from([("basicauth:*",), ("account:alice",)]),
        "uris": st.sampled_from([("/buckets/a",), ("/buckets/*",), ("/buckets/b", "/x")]),
        "when": st.sampled_from(["new.n > `1`", "new", "old"]),
    },
)


@given(settings=SETTINGS, numbers=st.lists(st.integers(0, 3), max_size=5))
def test_explain_agrees_with_select(settings: dict[str, Any], numbers: list[int]) -> None:
    """A change is selected exactly if all that is said of its event and of it is yes."""
    changes = tuple(
        make_change(uri=f"/buckets/{'ab'[n % 2]}", object_id=str(i), new={"n": n})
        for i, n in enumerate(numbers)
    )
    event = make_event(changes=changes)
    one = route(**settings)
    results = one.explain(event)
    of_event = all(result.matched for result in results if result.change is None)
    wanted = [
        change
        for change in changes
        if of_event and all(one.matched for one in results if one.change is change)
    ]
    assert list(one.select(event)) == wanted


def test_reads_of_another_alias_are_not_for_this_one() -> None:
    """An alias that says nothing of actions gets writes, whatever another one asked Kinto for."""
    read = make_event(action="read")
    assert Route(RouteSettings()).select(read) == ()
    assert Route(RouteSettings(alias_actions=("read",))).select(read) == read.changes
    (result,) = Route(RouteSettings()).explain(read)
    assert (result.clause, result.matched) == ("alias actions", False)
