"""Events by name: on the wire, in settings, in routes and in what ``check`` says."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from kinto_dispatch.capture.named import find_classes
from kinto_dispatch.event import CHANGED, Change, Event, Subscription
from kinto_dispatch.route import Route
from kinto_dispatch.settings import DispatchSettings, RouteSettings, read
from kinto_dispatch.testing.builders import make_event


BASE = "kinto.event_listeners.dispatch."
REVIEW = "some_plugin.ReviewRequested"


class Before(msgspec.Struct, frozen=True, kw_only=True, tag_field="v", tag=1, omit_defaults=True):
    """An event as the release before had it."""

    id: str
    action: str
    resource_name: str
    uri: str
    bucket_id: str | None
    collection_id: str | None
    group_id: str | None
    user_id: str | None
    timestamp: int
    root_url: str
    request_id: str | None
    payload: dict[str, object]
    changes: tuple[Change, ...]
    subscriptions: tuple[Subscription, ...] = ()
    skipped: int = 0


# --- on the wire ---------------------------------------------------------------------------------


def test_releases_read_each_others_events() -> None:
    """One that is older leaves the name out, one that is newer puts it in where it lacks; a change
    is written as it always was."""
    old = Before(**{name: getattr(make_event(), name) for name in Before.__struct_fields__})
    body = msgspec.json.encode(old)
    assert Event.decode(body).name == CHANGED
    assert Event.decode(body).encode() == body
    review = make_event(name=REVIEW)
    assert Event.decode(review.encode()) == review
    read_by_old = msgspec.json.decode(review.encode(), type=Before)
    assert (read_by_old.id, read_by_old.changes) == (review.id, review.changes)


# --- in settings ---------------------------------------------------------------------------------


def settings_of(tmp_path: Path, **more: str) -> tuple[DispatchSettings, list[str]]:
    """What is read from these settings of the listener, and what is wrong with them."""
    own = {"use": "kinto_dispatch", "queue_dir": str(tmp_path)} | more
    ini = {f"{BASE}{name.replace('__', '.')}": value for name, value in own.items()}
    found, problems = read({"kinto.event_listeners": "dispatch", **ini}, {})
    return found, [f"{one.setting}: {one.found}; {one.expected}. {one.advice}" for one in problems]


def test_each_channel_names_its_events(tmp_path: Path) -> None:
    """Without it a channel hears of changes, and one that is open for hooks of whatever they ask
    for."""
    found, problems = settings_of(
        tmp_path,
        events=f"{REVIEW}\n{REVIEW} other_plugin.events.Done",
        channels="plain reviews open bound",
        channels__plain__plugin="email",
        channels__reviews__plugin="email",
        channels__reviews__events=f"some_plugin.* {CHANGED}",
        channels__open__plugin="email",
        channels__open__subscribable="true",
        channels__bound__plugin="email",
        channels__bound__subscribable="true",
        channels__bound__events=REVIEW,
        emailer_channel="open",
    )
    assert problems == []
    assert found.events == (REVIEW, "other_plugin.events.Done")
    assert [channel.route.events for channel in found.channels] == [
        (),
        ("some_plugin.*", CHANGED),
        ("*",),
        (REVIEW,),
    ]


@pytest.mark.parametrize(("subscribable", "events"), [("false", (REVIEW,)), ("true", ("*",))])
def test_a_single_channel_hears_of_what_stands_beside_it(
    tmp_path: Path, subscribable: str, events: tuple[str, ...]
) -> None:
    """Unless its hooks say what it hears of."""
    found, problems = settings_of(
        tmp_path, plugin="email", events=REVIEW, subscribable=subscribable
    )
    assert problems == []
    assert found.events == (REVIEW,)
    assert found.channels[0].route.events == events


def test_what_is_not_captured_cannot_be_heard_of(tmp_path: Path) -> None:
    """A channel that names it would wait for ever; neither can what is no name be captured."""
    _, problems = settings_of(
        tmp_path,
        events=f"{REVIEW} Review",
        channels="ops",
        channels__ops__plugin="email",
    )
    assert problems == [
        f"{BASE}events: 'Review'; dotted names of classes, as in "
        "some_plugin.events.SomethingHappened. "
    ]
    _, problems = settings_of(
        tmp_path,
        events=REVIEW,
        channels="ops",
        channels__ops__plugin="email",
        channels__ops__events="some_plugin.ReviewRequestd other.*",
    )
    assert problems == [
        f"{BASE}channels.ops.events: 'some_plugin.ReviewRequestd'; some of {CHANGED} {REVIEW}. "
        f"Did you mean '{REVIEW}'?",
        f"{BASE}channels.ops.events: 'other.*'; some of {CHANGED} {REVIEW}. "
        "Add it to kinto.event_listeners.dispatch.events, too.",
    ]


def test_classes_made_with_anything_are_trusted() -> None:
    """What does not show in the class is looked at when an event comes."""
    classes, problems = find_classes([CHANGED, "unittest.mock.Mock", "string.Template"], "events")
    assert list(classes.values()) == ["unittest.mock.Mock"]
    assert [one.found for one in problems] == [
        "string.Template, which has no request and no payload and no impacted_objects"
    ]


# --- in routes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "wanted"),
    [
        ((), [CHANGED]),
        ((CHANGED,), [CHANGED]),
        ((REVIEW,), [REVIEW]),
        (("some_plugin.*",), [REVIEW]),
        (("*",), [CHANGED, REVIEW]),
        (("some_plugin.*", CHANGED), [CHANGED, REVIEW]),
    ],
)
def test_a_route_wants_the_events_that_it_names(
    events: tuple[str, ...], wanted: list[str]
) -> None:
    """Those of Kinto itself, where it names none."""
    route = Route(RouteSettings(events=events))
    assert [one for one in (CHANGED, REVIEW) if route.select(make_event(name=one))] == wanted


def test_why_a_review_is_not_wanted() -> None:
    """Is said, also where nobody wrote the clause; of changes it says nothing."""
    route = Route(RouteSettings())
    assert route.explain(make_event()) == []
    (clause,) = route.explain(make_event(name=REVIEW))
    assert (clause.clause, clause.expected, clause.found) == ("events", CHANGED, REVIEW)
    assert not clause.matched


@pytest.mark.parametrize(
    ("users", "wanted"),
    [
        (("!account:bot",), ["account:ann", "plugin:signer", None]),
        (("!plugin:*", "!account:bot"), ["account:ann", None]),
        (("account:*", "!account:bot"), ["account:ann"]),
        (("!*",), [None]),
    ],
)
def test_a_route_leaves_users_out(users: tuple[str, ...], wanted: list[str | None]) -> None:
    """With ``!`` before them, from all others or from those it names; a write by nobody known is
    by nobody who is left out."""
    route = Route(RouteSettings(users=users))
    everybody = ["account:ann", "account:bot", "plugin:signer", None]
    assert [one for one in everybody if route.select(make_event(user_id=one))] == wanted
