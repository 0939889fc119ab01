"""Settings are read as an operator typed them, and every mistake is told by that name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr, TypeAdapter

from kinto_dispatch.errors import BadSettings, Problem
from kinto_dispatch.limit import RateLimit
from kinto_dispatch.settings import (
    Addresses,
    ChannelSettings,
    DispatchSettings,
    RouteSettings,
    read,
)
from kinto_dispatch.settings import values as tables


D = "kinto.event_listeners.dispatch."
OPS = f"{D}channels.ops."
CANARY = "c4n4ry-Tr0ub4dor"

BASE = {"kinto.event_listeners": "dispatch", f"{D}use": "kinto_dispatch"}
LIST = {**BASE, f"{D}channels": "ops", f"{OPS}plugin": "slack"}
SINGLE = {**BASE, f"{D}plugin": "slack"}


def good(
    settings: Mapping[str, Any], environ: Mapping[str, str] | None = None
) -> DispatchSettings:
    """The settings, which have no problem."""
    found, problems = read(settings, environ or {})
    assert problems == []
    return found


def bad(settings: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Problem:
    """The one problem of these settings."""
    _, problems = read(settings, environ or {})
    assert len(problems) == 1, problems
    return problems[0]


def channel(**over: str) -> ChannelSettings:
    """Channel ``ops`` with these settings."""
    return good({**LIST, **{OPS + name: value for name, value in over.items()}}).channels[0]


# --- the two places that settings come from --------------------------------------------------


INI = """
[app:main]
use = egg:kinto
kinto.storage_backend = kinto.core.storage.postgresql
kinto.storage_url = postgresql://kinto:c4n4ry-Tr0ub4dor@localhost/kinto
kinto.userid_hmac_secret = 1e5
kinto.event_listeners = dispatch
kinto.event_listeners.dispatch.use = kinto_dispatch
kinto.event_listeners.dispatch.queue_url = redis://localhost:6379/0
kinto.event_listeners.dispatch.lease_seconds = 1e1
kinto.event_listeners.dispatch.resources = record
kinto.event_listeners.dispatch.channels = admins
  ops
kinto.event_listeners.dispatch.channels.admins.plugin = email
kinto.event_listeners.dispatch.channels.admins.mode = sync
kinto.event_listeners.dispatch.channels.admins.username =
kinto.event_listeners.dispatch.channels.admins.password = 1e5
kinto.event_listeners.dispatch.channels.admins.from = "my-field"
kinto.event_listeners.dispatch.channels.admins.headers = {"a": 1}
kinto.event_listeners.dispatch.channels.admins.tls = true
kinto.event_listeners.dispatch.channels.ops.plugin = slack
kinto.event_listeners.dispatch.channels.ops.conversation = null
kinto.event_listeners.dispatch.channels.ops.template = 100%% of {{ uri }}
"""


def from_ini(path: Path) -> Mapping[str, Any]:
    """What a command sees."""
    from pyramid.paster import get_appsettings

    settings: Mapping[str, Any] = get_appsettings(str(path), name="main")
    return settings


def from_kinto(path: Path) -> Mapping[str, Any]:
    """What the application sees after Kinto has had the settings in its hands."""
    import kinto
    from kinto.core import DEFAULT_SETTINGS
    from kinto.core.initialization import load_default_settings
    from pyramid.config import Configurator

    local = {
        key: value for key, value in from_ini(path).items() if key not in ("here", "__file__")
    }
    config = Configurator(settings={**local, "settings_prefix": "kinto"})
    load_default_settings(config, {**DEFAULT_SETTINGS, **kinto.DEFAULT_SETTINGS})
    settings: Mapping[str, Any] = config.get_settings()
    return settings


SOURCES = [from_ini, from_kinto]


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    """An ini with everything in it that Kinto's own reading would change."""
    path = tmp_path / "kinto.ini"
    path.write_text(INI)
    return path


def test_a_command_reads_what_the_application_reads(
    ini: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text of the ini and Kinto's settings say the same, the place of the queue included."""
    environ = {"KINTO_EVENT_LISTENERS_DISPATCH_CHANNELS_OPS_TIMEOUT_SECONDS": "5", "HOME": "/h"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert good(from_ini(ini), environ) == good(from_kinto(ini), environ)


@pytest.mark.parametrize("source", SOURCES)
def test_values_are_the_text_of_the_ini(
    ini: Path, source: Callable[[Path], Mapping[str, Any]]
) -> None:
    """What looks like JSON stays what was typed, as a password may look like anything."""
    admins, ops = good(source(ini)).channels
    assert admins.options == {
        "username": "",
        "password": "1e5",
        "from": '"my-field"',
        "headers": '{"a": 1}',
        "tls": "true",
    }
    assert ops.options == {"conversation": "null"}
    assert ops.template == "100% of {{ uri }}"


@pytest.mark.parametrize("source", SOURCES)
def test_the_core_gets_checked_values(
    ini: Path, source: Callable[[Path], Mapping[str, Any]]
) -> None:
    """Numbers are numbers, lists are tuples, and secrets are wrapped."""
    settings = good(source(ini))
    assert settings.queue_url == SecretStr("redis://localhost:6379/0")
    assert settings.lease_seconds == 10.0
    assert [one.name for one in settings.channels] == ["admins", "ops"]
    assert [one.mode for one in settings.channels] == ["sync", None]
    assert settings.channels[0].route == RouteSettings(alias_resources=("record",))


def test_values_of_a_program_are_read_as_if_typed() -> None:
    """Settings without ``kinto.`` and with values of their own types work, as tests write them."""
    base = "event_listeners.dispatch."
    settings = {
        "event_listeners": ["dispatch"],
        f"{base}use": "kinto_dispatch",
        f"{base}channels": ["ops"],
        f"{base}channels.ops.plugin": "slack",
        f"{base}channels.ops.split_changes": True,
        f"{base}channels.ops.max_attempts": 3,
        f"{base}channels.ops.subject": None,
        f"{base}channels.ops.headers": {"a": 1},
    }
    ops = good(settings).channels[0]
    assert (ops.split_changes, ops.max_attempts, ops.subject) == (True, 3, None)
    assert ops.options == {"headers": '{"a": 1}'}
    assert ops.prefix == f"{base}channels.ops."


def test_problems_name_what_was_typed(ini: Path) -> None:
    """An ini without ``kinto.`` is answered without it, and one with it with it."""
    plain = {key.removeprefix("kinto."): value for key, value in LIST.items()}
    typed = "event_listeners.dispatch.channels.ops.mode"
    assert bad({**plain, typed: "both"}).setting == typed
    assert bad({**LIST, f"kinto.{typed}": "both"}).setting == f"kinto.{typed}"
    both = {**LIST, **plain, typed: "both", f"kinto.{typed}": "both"}
    assert bad(both).setting == f"kinto.{typed}"


# --- the environment -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, 7.0),
        ({"KINTO_EVENT_LISTENERS_DISPATCH_CHANNELS_MY_OPS_TIMEOUT_SECONDS": "5"}, 5.0),
        ({"EVENT_LISTENERS_DISPATCH_CHANNELS_MY_OPS_TIMEOUT_SECONDS": "4"}, 4.0),
        (
            {
                "KINTO_EVENT_LISTENERS_DISPATCH_CHANNELS_MY_OPS_TIMEOUT_SECONDS": "5",
                "EVENT_LISTENERS_DISPATCH_CHANNELS_MY_OPS_TIMEOUT_SECONDS": "4",
            },
            5.0,
        ),
        ({"KINTO_EVENT_LISTENERS_DISPATCH_CHANNELS_MY_OPS_TIMEOUT_SECONDS": ""}, 30.0),
    ],
)
def test_the_environment_goes_before_the_ini(environ: dict[str, str], expected: float) -> None:
    """Kinto's variable first, then the bare one; an empty one takes the ini's value away."""
    base = f"{D}channels.my-ops."
    settings = {
        **BASE,
        f"{D}channels": "my-ops",
        f"{base}plugin": "slack",
        f"{base}timeout_seconds": "7",
    }
    assert good(settings, environ).channels[0].timeout_seconds == expected


def test_everything_may_come_from_the_environment() -> None:
    """A container needs no line in the ini, not even for the names of channels."""
    environ = {
        "KINTO_EVENT_LISTENERS": "dispatch",
        "KINTO_EVENT_LISTENERS_DISPATCH_USE": "kinto_dispatch",
        "KINTO_EVENT_LISTENERS_DISPATCH_QUEUE_URL": "redis://queue",
        "KINTO_EVENT_LISTENERS_DISPATCH_CHANNELS": "ops",
        "KINTO_EVENT_LISTENERS_DISPATCH_CHANNELS_OPS_PLUGIN": "slack",
        "KINTO_EVENT_LISTENERS_DISPATCH_CHANNELS_OPS_ACTIONS": "create delete",
        "KINTO_STORAGE_BACKEND": "kinto.core.storage.postgresql",
    }
    settings = good({}, environ)
    assert settings.channels[0].route.actions == ("create", "delete")
    assert settings.queue_url == SecretStr("redis://queue")
    assert settings.has_transactional_outbox


def test_a_bad_value_is_told_by_its_variable() -> None:
    """Who set a variable looks for a variable, not for a line of the ini."""
    name = "KINTO_EVENT_LISTENERS_DISPATCH_CHANNELS_OPS_MODE"
    assert bad(LIST, {name: "both"}) == Problem(name, "'both'", "async or sync", "")


@pytest.mark.parametrize(
    ("variable", "advice"),
    [
        ("KINTO_EVENT_LISTENERS_DISPATCH_QEUE_URL", "Did you mean 'queue_url'?"),
        (
            "KINTO_EVENT_LISTENERS_DISPATCH_MODE",
            f"Write it as {OPS}mode.",
        ),
    ],
)
def test_an_unknown_variable_is_told(variable: str, advice: str) -> None:
    """A slip in a variable must not pass silently."""
    problem = bad(LIST, {variable: CANARY})
    assert (problem.setting, problem.advice) == (variable, advice)
    assert CANARY not in str(problem)


def test_variables_of_neighbours_are_not_unknown() -> None:
    """Names that begin like another listener's or channel's are told apart."""
    settings = {
        **LIST,
        "kinto.event_listeners": "dispatch dispatch_two",
        "kinto.event_listeners.dispatch_two.use": "other.listener",
        f"{D}channels": "ops ops_eu",
        f"{D}channels.ops_eu.plugin": "slack",
    }
    environ = {
        "KINTO_EVENT_LISTENERS_DISPATCH_TWO_URL": "x",
        "KINTO_EVENT_LISTENERS_DISPATCH_CHANNELS_OPS_EU_WEBHOOK_URL": "x",
        "KINTO_EVENT_LISTENERS_OTHER": "x",
    }
    assert len(good(settings, environ).channels) == 2


# --- aliases ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "alias"),
    [
        (SINGLE, "dispatch"),
        ({**SINGLE, f"{D}use": "kinto_dispatch.listener"}, "dispatch"),
        (
            {
                "kinto.event_listeners": "kinto_dispatch",
                "kinto.event_listeners.kinto_dispatch.plugin": "slack",
            },
            "kinto_dispatch",
        ),
        (
            {
                "kinto.event_listeners": "kinto_dispatch.listener",
                "kinto.event_listeners.listener.plugin": "slack",
            },
            "listener",
        ),
        (
            {
                **SINGLE,
                "kinto.event_listeners": "redis dispatch",
                "kinto.event_listeners.redis.use": "kinto_redis.listeners",
                "kinto.event_listeners.redis.whatever": "is not ours",
            },
            "dispatch",
        ),
    ],
)
def test_aliases_are_found_as_kinto_finds_them(settings: dict[str, str], alias: str) -> None:
    """By ``use``, or by the name of the module in the list; other listeners are left alone."""
    assert [one.alias for one in good(settings).channels] == [alias]


def test_the_tutorials_settings_stand_right_under_the_alias() -> None:
    """One channel needs no list: it is named after the alias, and all else is its plugin's."""
    base = "kinto.event_listeners.send_email."
    settings = {
        "kinto.event_listeners": "send_email",
        f"{base}use": "kinto_dispatch",
        f"{base}plugin": "email",
        f"{base}server": "localhost:1025",
        f"{base}tls": "false",
        f"{base}username": "",
        f"{base}password": "",
        f"{base}from": "postmaster@localhost",
        f"{base}recipients": "kinto@yopmail.com",
        f"{base}actions": "create",
        f"{base}resources": "bucket",
        f"{base}uris": "/buckets/*",
        f"{base}queue_prefix": "mine",
    }
    found = good(settings)
    (only,) = found.channels
    assert found.queue_prefix == "mine"
    assert (only.name, only.plugin, only.prefix) == ("send_email", "email", base)
    assert set(only.options) == {"server", "tls", "username", "password", "from", "recipients"}
    assert only.route == RouteSettings(
        uris=("/buckets/*",), alias_actions=("create",), alias_resources=("bucket",)
    )


def test_several_aliases_add_channels_and_share_the_queue() -> None:
    """Each alias brings its channels with its own filter; the queue is given at any of them."""
    settings = {
        **LIST,
        "kinto.event_listeners": "dispatch more",
        f"{D}actions": "create",
        "kinto.event_listeners.more.use": "kinto_dispatch",
        "kinto.event_listeners.more.plugin": "email",
        "kinto.event_listeners.more.queue_url": "redis://localhost",
    }
    found = good(settings)
    assert [(one.name, one.alias) for one in found.channels] == [
        ("ops", "dispatch"),
        ("more", "more"),
    ]
    assert [one.route.alias_actions for one in found.channels] == [("create",), ()]
    assert found.queue_url == SecretStr("redis://localhost")


def test_a_channel_has_one_name_over_all_aliases() -> None:
    """The second of two channels with one name is the problem, and the first is named."""
    settings = {
        **LIST,
        "kinto.event_listeners": "dispatch ops",
        "kinto.event_listeners.ops.use": "kinto_dispatch",
        "kinto.event_listeners.ops.plugin": "email",
    }
    problem = bad(settings)
    assert problem.setting == "kinto.event_listeners.ops.plugin"
    assert f"{OPS}plugin" in problem.found


def test_aliases_must_not_contradict_each_other() -> None:
    """Two values for one queue are a problem that shows neither of them."""
    more = "kinto.event_listeners.more."
    settings = {
        **LIST,
        "kinto.event_listeners": "dispatch more",
        f"{D}queue_url": "redis://localhost",
        f"{more}use": "kinto_dispatch",
        f"{more}plugin": "email",
        f"{more}queue_url": f"redis://:{CANARY}@localhost",
    }
    problem = bad(settings)
    assert problem.setting == f"{more}queue_url"
    assert f"{D}queue_url" in problem.found
    assert CANARY not in str(problem)


# --- mistakes --------------------------------------------------------------------------------


def over(**changes: str | None) -> dict[str, str]:
    """The settings of channel ``ops`` in a list, changed; ``None`` takes one away.

    ``__`` at the beginning means that the setting stands at the alias.
    """
    settings = dict(LIST)
    for name, value in changes.items():
        key = D + name[2:] if name.startswith("__") else OPS + name
        settings.pop(key, None)
        if value is not None:
            settings[key] = value
    return settings


@pytest.mark.parametrize(
    ("settings", "setting", "words"),
    [
        ({}, "kinto.event_listeners", "kinto_dispatch"),
        ({**BASE, "kinto.event_listeners": "other"}, "kinto.event_listeners", "Add dispatch"),
        (BASE, f"{D}channels", "no channels"),
        ({**SINGLE, f"{D}channels": "ops", f"{OPS}plugin": "x"}, f"{D}plugin", "channels.ops"),
        (over(plugin=None), f"{OPS}plugin", "kinto-dispatch plugins"),
        (over(plugin="  "), f"{OPS}plugin", "kinto-dispatch plugins"),
        (over(__channels="ops ops"), f"{D}channels", "twice"),
        (over(__channels=None, plugin=None), f"{D}channels", "no channels"),
        ({**LIST, f"{D}channels.opz.plugin": "x"}, f"{D}channels", "Did you mean 'ops'?"),
        ({**LIST, f"{D}channels.more.plugin": "x"}, f"{D}channels", "Add more to it"),
        (over(__qeue_url="x"), f"{D}qeue_url", "Did you mean 'queue_url'?"),
        (over(__mode="sync"), f"{D}mode", f"Write it as {OPS}mode."),
        (over(mode="asynch"), f"{OPS}mode", "Did you mean 'async'?"),
        (over(phase="before"), f"{OPS}phase", "after_commit or before_commit"),
        (over(on_failure="raise"), f"{OPS}on_failure", "log or abort"),
        (over(mode="async", phase="before_commit"), f"{OPS}phase", "mode = sync"),
        (over(mode="async", phase="after_commit"), f"{OPS}phase", "mode = sync"),
        (over(mode="async", on_failure="log"), f"{OPS}on_failure", "mode = sync"),
        (over(mode="sync", on_failure="abort"), f"{OPS}on_failure", "before_commit"),
        (over(split_changes="ja"), f"{OPS}split_changes", "true or false"),
        (over(digest_seconds="0"), f"{OPS}digest_seconds", "more than 0 and at most 86400"),
        (over(digest_by="record"), f"{OPS}digest_by", "digest_seconds beside it"),
        (over(digest_seconds="1", digest_by="bucket"), f"{OPS}digest_by", "channel"),
        (over(collapse="oldest"), f"{OPS}collapse", "none or latest"),
        (
            over(collapse="latest", digest_seconds="1", digest_by="channel"),
            f"{OPS}digest_by",
            "record, or nothing",
        ),
        (
            over(digest_seconds="1", split_changes="yes"),
            f"{OPS}split_changes",
            "digest_by = record",
        ),
        (over(digest_seconds="1", mode="sync"), f"{OPS}digest_seconds", "mode = async"),
        (over(collapse="latest", mode="sync"), f"{OPS}collapse", "mode = async"),
        (over(max_attempts="0"), f"{OPS}max_attempts", "from 1 to 1000"),
        (over(max_attempts="1.5"), f"{OPS}max_attempts", "a whole number"),
        (over(timeout_seconds="0"), f"{OPS}timeout_seconds", "seconds"),
        (over(timeout_seconds="-1"), f"{OPS}timeout_seconds", "seconds"),
        (over(timeout_seconds="inf"), f"{OPS}timeout_seconds", "seconds"),
        (over(timeout_seconds="nan"), f"{OPS}timeout_seconds", "seconds"),
        (over(timeout_seconds="30s"), f"{OPS}timeout_seconds", "'30s'"),
        (over(concurrency="many"), f"{OPS}concurrency", "'many'"),
        (over(rate_limit="10"), f"{OPS}rate_limit", "As in 10/second."),
        (over(rate_limit="10/s"), f"{OPS}rate_limit", "/second, /minute or /hour"),
        (over(rate_limit="10/minutes"), f"{OPS}rate_limit", "Did you mean 'minute'?"),
        (over(rate_limit="0/second"), f"{OPS}rate_limit", "from 1 to 1000000"),
        (over(rate_limit="2000000/second"), f"{OPS}rate_limit", "from 1 to 1000000"),
        (over(rate_limit="0.5/second"), f"{OPS}rate_limit", "whole number"),
        (over(retry_delays_seconds="1, 2"), f"{OPS}retry_delays_seconds", "white space"),
        (over(retry_delays_seconds="-1"), f"{OPS}retry_delays_seconds", "from 0 on"),
        (over(resources="records"), f"{OPS}resources", "Did you mean 'record'?"),
        (over(actions="read"), f"{OPS}actions", "does not pass on"),
        (over(__actions="updated"), f"{D}actions", "Did you mean 'update'?"),
        (over(__resources="Record"), f"{D}resources", "Did you mean 'record'?"),
        (over(__lease_seconds="0.5"), f"{D}lease_seconds", "at least 1"),
        (over(__shutdown_seconds="soon"), f"{D}shutdown_seconds", "seconds"),
        (over(__outbox_keep_seconds="0"), f"{D}outbox_keep_seconds", "at least 60"),
        (over(__log_retention_seconds="1"), f"{D}log_retention_seconds", "at least 60"),
        (over(__log_max_bytes="1e9"), f"{D}log_max_bytes", "a whole number"),
        (over(__queue_prefix="a{b}"), f"{D}queue_prefix", "letters"),
        (over(__queue_dir="queue"), f"{D}queue_dir", "%(here)s"),
    ],
)
def test_a_mistake_is_told_by_its_name(settings: dict[str, str], setting: str, words: str) -> None:
    """Each says where it is, what stood there or is allowed, and what to do."""
    problem = bad(settings)
    assert problem.setting == setting
    assert words in str(problem)


@pytest.mark.parametrize("name", ["a.b", "ops!", "x" * 65, "ö"])
def test_a_channel_has_a_name_that_is_safe_everywhere(name: str) -> None:
    """It becomes part of keys, of URLs and of commands."""
    problem = bad({**BASE, f"{D}channels": name})
    assert problem.setting == f"{D}channels"
    assert "letters" in problem.expected


def test_all_mistakes_are_told_at_once() -> None:
    """One start is enough to see everything that has to be changed."""
    settings = over(mode="x", timeout_seconds="y", __queue_url="http://z", __lease="1")
    _, problems = read(settings, {})
    assert [problem.setting.rpartition(".")[2] for problem in problems] == [
        "lease",
        "mode",
        "timeout_seconds",
        "queue_url",
    ]
    error = BadSettings(problems)
    assert "4 problems" in str(error)
    assert all(str(problem) in str(error) for problem in problems)


def test_a_mistake_leaves_the_default() -> None:
    """What is not understood changes nothing."""
    found, _ = read(over(max_attempts="many"), {})
    assert found.channels[0].max_attempts == 15


# --- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("split_changes", "Yes", True),
        ("split_changes", "off", False),
        ("max_attempts", " 3 ", 3),
        ("timeout_seconds", "1e1", 10.0),
        ("rate_limit", "10/second", RateLimit(10, 1.0)),
        ("rate_limit", " 300 / minute ", RateLimit(300, 60.0)),
        ("rate_limit", "1/hour", RateLimit(1, 3600.0)),
        ("retry_delays_seconds", "0 5\n300", (0.0, 5.0, 300.0)),
        ("subject", "{{ uri }}", "{{ uri }}"),
        ("template", "a\nb", "a\nb"),
        ("phase", "before_commit", "before_commit"),
    ],
)
def test_a_value_of_a_channel(name: str, text: str, value: object) -> None:
    """Text becomes the value that the core works with."""
    assert getattr(channel(**{name: text}), name) == value


def test_the_route_is_split_on_white_space() -> None:
    """Lists may stand in one line or in many; an expression is left whole."""
    route = channel(
        actions="create\n delete",
        resources="record attachment",
        uris="/buckets/*  /buckets/a/**",
        users="account:alice",
        when="new.a == 'b c'",
    ).route
    assert route == RouteSettings(
        actions=("create", "delete"),
        resources=("record", "attachment"),
        uris=("/buckets/*", "/buckets/a/**"),
        users=("account:alice",),
        when="new.a == 'b c'",
    )


def test_reads_are_for_an_alias_that_asks_for_them() -> None:
    """Kinto passes reads on to a listener that names the action."""
    assert channel_actions("read create", "read") == ("read",)


def channel_actions(of_alias: str, of_channel: str) -> tuple[str, ...]:
    return good(over(__actions=of_alias, actions=of_channel)).channels[0].route.actions


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("rediss://user:p%40ss@queue", "rediss://user:p%40ss@queue"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
        ("valkey://:secret@localhost", "redis://:secret@localhost"),
        ("valkeys://localhost:1/2", "rediss://localhost:1/2"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
    ],
)
def test_the_queue_is_named_by_a_url(typed: str, url: str) -> None:
    """Valkey's own schemes are taken too."""
    assert good(over(__queue_url=typed)).queue_url == SecretStr(url)


@pytest.mark.parametrize(
    "url",
    [
        f"http://:{CANARY}@localhost",
        f"{CANARY}@localhost:6379",
        f"{CANARY}://localhost",
        f"redis://:{CANARY}@localhost:port",
        f"redis://:{CANARY}@localhost:0",
        f"redis://:{CANARY}@localhost:99999",
        f"redis://:12#{CANARY}@localhost",
        f"redis://u:12?{CANARY}@localhost",
        f"redis://:{CANARY}/@localhost",
        f"redis://:{CANARY}@localhost/queue",
        f"redis://[{CANARY}",
        f"unix://{CANARY}",
        f"unix:///{CANARY}/{'x' * 107}",
    ],
)
def test_a_bad_queue_url_is_told_without_its_password(url: str) -> None:
    """Nothing but the scheme is shown of what may hold a password (B20, B30)."""
    problem = bad(over(__queue_url=url))
    assert problem.setting == f"{D}queue_url"
    assert CANARY not in str(problem)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/home/kinto"}, "/home/kinto/.local/state/kinto-dispatch"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/var/state"}, "/var/state/kinto-dispatch"),
        ({"HOME": "/h", "XDG_STATE_HOME": "state"}, "/h/.local/state/kinto-dispatch"),
    ],
)
def test_the_queue_lies_with_the_users_state(environ: dict[str, str], expected: str) -> None:
    """Without ``queue_dir``, every process of one Kinto finds the same directory."""
    assert good(LIST, environ).queue_dir.parent == Path(expected)


def test_two_kintos_of_one_user_have_a_queue_each() -> None:
    """What tells them apart is not shown by the name of the directory."""
    one, other = (
        good({**LIST, "kinto.userid_hmac_secret": secret}).queue_dir for secret in (CANARY, "x")
    )
    assert one != other
    assert one.parent == other.parent
    assert CANARY not in str(one)


def test_a_queue_dir_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` is the home directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert good(over(__queue_dir="~/queue")).queue_dir == tmp_path / "queue"
    assert good(over(__queue_dir="/var/queue")).queue_dir == Path("/var/queue")


@pytest.mark.parametrize(
    ("backend", "transaction", "has_outbox"),
    [
        ("kinto.core.storage.postgresql", None, True),
        ("kinto.core.storage.postgresql", "true", True),
        ("kinto.core.storage.postgresql", "false", False),
        ("kinto.core.storage.postgresql", "0", False),
        ("kinto.core.storage.postgresql", "", False),
        # Kinto takes any text that is no JSON for true.
        ("kinto.core.storage.postgresql", "no", True),
        ("kinto.core.storage.memory", None, False),
        (None, None, False),
    ],
)
def test_the_storage_is_judged_as_kinto_does(
    backend: str | None, transaction: str | None, has_outbox: bool
) -> None:
    """An outbox needs PostgreSQL and a transaction for each request."""
    typed = {"kinto.storage_backend": backend, "kinto.transaction_per_request": transaction}
    settings = good({**LIST, **{key: value for key, value in typed.items() if value is not None}})
    assert settings.has_transactional_outbox is has_outbox


# --- files -----------------------------------------------------------------------------------


def test_templates_and_secrets_may_stand_in_files(tmp_path: Path) -> None:
    """Files are read at the start; the end of the last line is not part of the value."""
    (tmp_path / "template").write_text("{% if new %}\n100 %\n{% endif %}\n")
    (tmp_path / "subject").write_text("ünï {{ uri }}\n")
    (tmp_path / "url").write_text("redis://:secret@localhost\n")
    settings = good(
        over(
            template_file=f"{tmp_path}/template",
            subject_file=f"{tmp_path}/subject",
            __queue_url_file=f"{tmp_path}/url",
        )
    )
    assert settings.queue_url == SecretStr("redis://:secret@localhost")
    assert settings.channels[0].template == "{% if new %}\n100 %\n{% endif %}"
    assert settings.channels[0].subject == "ünï {{ uri }}"
    assert settings.channels[0].options == {}


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), (b"\n", "empty"), (b"\xff\xfe", "UTF-8")],
)
def test_a_file_that_cannot_be_read_is_told_with_its_path(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    """The setting that names the file is the problem."""
    path = tmp_path / "template"
    if content is not None:
        path.write_bytes(content)
    problem = bad(over(template_file=str(path)))
    assert problem.setting == f"{OPS}template_file"
    assert str(path) in problem.found
    assert reason in problem.found


def test_a_value_and_its_file_exclude_each_other(tmp_path: Path) -> None:
    """Nobody has to guess which of them counts."""
    problem = bad(over(template="a", template_file=str(tmp_path / "t")))
    assert problem.setting == f"{OPS}template_file"
    assert f"{OPS}template" in problem.expected


def test_a_bad_value_from_a_file_is_told_by_the_setting_of_the_file(tmp_path: Path) -> None:
    """And what stands in the file is not shown."""
    (tmp_path / "url").write_text(f"http://{CANARY}")
    problem = bad(over(__queue_url_file=f"{tmp_path}/url"))
    assert problem.setting == f"{D}queue_url_file"
    assert CANARY not in str(problem)


# --- addresses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kinto@yopmail.com", ("kinto@yopmail.com",)),
        ("a@x, b@y", ("a@x", "b@y")),
        ("a@x\nb@y,\n  c@z,", ("a@x", "b@y", "c@z")),
        ("Kinto Bot <k@x>, b@y", ("Kinto Bot <k@x>", "b@y")),
        ('"Doe, Jane" <j@x>, b@y', ('"Doe, Jane" <j@x>', "b@y")),
        (r'"a \" , b" <j@x>', (r'"a \" , b" <j@x>',)),
        ('"unclosed, a@x', ('"unclosed', "a@x")),
        (["a@x", "b@y"], ("a@x", "b@y")),
        ("", ()),
    ],
)
def test_addresses_are_split_on_commas_and_lines(text: object, expected: tuple[str, ...]) -> None:
    """A comma in quotation marks is part of a name; a name may hold spaces."""
    assert TypeAdapter(Addresses).validate_python(text) == expected


# --- what is told, and what is not -----------------------------------------------------------


def test_secrets_are_not_shown() -> None:
    """Neither by the settings nor by those of a channel, whose options may all be secret (B20)."""
    settings = good(
        {
            **over(webhook_url=CANARY, __queue_url=f"redis://:{CANARY}@localhost"),
            "kinto.storage_url": f"postgresql://{CANARY}@localhost",
        }
    )
    assert settings.channels[0].options["webhook_url"] == CANARY
    for value in (settings, settings.channels[0]):
        assert CANARY not in f"{value!r} {value}"


def test_every_setting_has_a_place_for_its_value() -> None:
    """What can be typed is what the frozen values hold; nothing is read and then lost."""
    of_channel = set(ChannelSettings.__dataclass_fields__)
    assert set(tables.CHANNEL) | {"plugin"} | {"name", "alias", "prefix", "route", "options"} == (
        of_channel
    )
    of_kinto = {"channels", "storage_backend", "storage_url", "transaction_per_request"}
    assert set(tables.DISPATCHER) | of_kinto == set(DispatchSettings.__dataclass_fields__)
    of_alias = {f"alias_{name}" for name in tables.ALIAS}
    assert set(tables.ROUTE) | of_alias == set(RouteSettings.__dataclass_fields__)


def test_reading_changes_nothing() -> None:
    """Kinto's settings are Kinto's."""
    settings = dict(LIST)
    read(settings, {})
    assert settings == LIST


def test_addresses_work_in_a_model() -> None:
    """An author writes the type and gets addresses."""

    class Settings(BaseModel):
        recipients: Addresses = ()

    assert Settings.model_validate({"recipients": "a@x, b@y"}).recipients == ("a@x", "b@y")
