"""Any text is a route that judges any change soon, or is refused with a reason."""

from __future__ import annotations

from kinto_dispatch.errors import BadRoute, RouteError
from kinto_dispatch.route import NAMES, Route
from kinto_dispatch.settings import RouteSettings
from kinto_dispatch.testing import make_change, make_event
from tests.fuzz.engine import Defect, Target


TEXT = "aA" * 5_000
NEW = {"a": [1, "b", None, {"c": [True, 2.5]}], "n": 3, "t": TEXT, "deep": {"x": {"y": {"z": 1}}}}
EVENT = make_event(
    changes=(
        make_change(new=NEW),
        make_change(old=NEW, new=None, uri="/buckets/" + "a/" * 500 + "b"),
        make_change(old={"n": 10**400}, new={"n": float("nan")}, uri=""),
    )
)


def run(data: bytes) -> str:
    """Compile it as each clause, select, and explain."""
    text = data.decode("utf-8", "replace")
    head, _, tail = text.partition("|")
    for settings in (
        RouteSettings(when=text),
        RouteSettings(uris=tuple(tail.split()) or (head,)),
        RouteSettings(users=tuple(text.split())),
        RouteSettings(actions=(head,), resources=tuple(tail.split())),
    ):
        answer = judge(settings)
        if settings.when is not None:
            of_expression = answer
    return of_expression


def judge(settings: RouteSettings) -> str:
    """What comes of one route."""
    try:
        route = Route(settings)
    except BadRoute as error:
        if not error.problems:
            raise Defect("refused without a reason") from error
        return str(error.problems[0].found) + error.problems[0].advice
    results = route.explain(EVENT)
    try:
        selected = route.select(EVENT)
    except RouteError as error:
        if not any(result.error for result in results):
            raise Defect("explained without its error") from error
        return error.reason
    against = [result.change for result in results if not result.matched]
    expected = [
        change for change in EVENT.changes if not any(one in (None, change) for one in against)
    ]
    if [id(change) for change in selected] != [id(change) for change in expected]:
        raise Defect(f"selects {selected}, explains {expected}")
    return f"selects {len(selected)}"


TARGET = Target(
    "routes",
    run,
    seeds=[
        b"new.n > `2` && contains(changed, 'title')",
        b"sort_by(new.a, &c)[0:2] || !old",
        b"new.a[?c == `3`].{x: c, y: @} | [*]",
        b"join(', ', keys(new)) == to_string(new)",
        b"[@,@][] | [@,@][] | length(@)",
        b"create|record group",
        b"/buckets/*/collections/**/records/a*b",
        b"account:* *:alice ^(a+)+$",
    ],
    words=[
        *(name.encode() for name in NAMES),
        *b"&& || ! == != < <= [] [*] [?] {a:@} @ & | . * ` ' ( ) , `1` `null` ** /** /*".split(),
        *b"abs( avg( contains( ends_with( join( keys( length( map( max_by( merge( min(".split(),
        *b"not_null( reverse( sort( starts_with( sum( to_array( to_number( to_string(".split(),
        b"[@,@][]",
        b"a" * 50 + b"*",
        b"/**/a",
        b"(" * 50,
    ],
)
