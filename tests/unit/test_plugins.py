"""Plugins are found, loaded, checked and called; a bad one hurts nobody but its own channel."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import sys
import textwrap
import threading
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import pytest

from kinto_dispatch.delivery import Delivery
from kinto_dispatch.errors import BadSettings, PluginError, Problem
from kinto_dispatch.event import Event
from kinto_dispatch.limit import RateLimit
from kinto_dispatch.plugins import Channel, Configuration, configure, discovery, installed
from kinto_dispatch.plugins.redaction import MASK


D = "kinto.event_listeners.dispatch."
OPS = f"{D}channels.ops."
CANARY = "c4n4ry-Tr0ub4dor"

EVENT = Event(
    id="1",
    action="create",
    resource_name="record",
    uri="/buckets/b/collections/c/records/r",
    bucket_id="b",
    collection_id="c",
    group_id=None,
    user_id="account:alice",
    timestamp=1,
    root_url="http://localhost/v1",
    request_id=None,
    payload={},
    changes=(),
)
DELIVERY = Delivery("1:ops", 1, False, 30.0)

NOTHING: Mapping[str, str] = {}

numbers = itertools.count()


class WriteModule(Protocol):
    """Writes a module to the path; returns its name."""

    def __call__(self, source: str) -> str: ...


class WriteDistribution(Protocol):
    """Writes the metadata of an installed distribution with these entry points."""

    def __call__(self, name: str, entry_points: Mapping[str, str]) -> None: ...


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory on the path, whose modules are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("plugin_under_test_"):
            del sys.modules[name]


@pytest.fixture
def module(site: Path) -> WriteModule:
    """Write a module whose source may use ``hookimpl`` and pydantic's names."""

    def write(source: str) -> str:
        name = f"plugin_under_test_{next(numbers)}"
        head = (
            "from collections.abc import Sequence\n"
            "from pydantic import *\nfrom pydantic import AliasPath\n"
            "from kinto_dispatch import Addresses, Delivered, hookimpl\n"
        )
        (site / f"{name}.py").write_text(head + textwrap.dedent(source))
        return name

    return write


@pytest.fixture
def distribution(site: Path) -> WriteDistribution:
    """Install a distribution the way pip leaves it behind."""

    def write(name: str, entry_points: Mapping[str, str]) -> None:
        metadata = site / f"{name.replace('-', '_')}-1.2.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = (f"{key} = {value}" for key, value in entry_points.items())
        (metadata / "entry_points.txt").write_text("\n".join(["[kinto_dispatch]", *lines]))

    return write


def settings_of(plugin: str, /, **options: str) -> dict[str, str]:
    """The settings of channel ``ops``."""
    return {
        "kinto.event_listeners": "dispatch",
        f"{D}use": "kinto_dispatch",
        f"{D}channels": "ops",
        f"{OPS}plugin": plugin,
        **{OPS + name: value for name, value in options.items()},
    }


def only_channel(plugin: str, environ: Mapping[str, str] = NOTHING, /, **options: str) -> Channel:
    """The channel of a configuration that is right."""
    (channel,) = configure(settings_of(plugin, **options), environ).channels
    return channel


def problem_of(plugin: str, environ: Mapping[str, str] = NOTHING, /, **options: str) -> Problem:
    """The one thing that is wrong in a configuration that is not."""
    with pytest.raises(BadSettings) as raised:
        configure(settings_of(plugin, **options), environ)
    assert CANARY not in str(raised.value)
    (problem,) = raised.value.problems
    return problem


HOOKS = """
@hookimpl
def on_event(event, channel):
    return ("sync", event.id, channel.name)

@hookimpl
async def on_event_async(event, channel, delivery):
    return ("async", event.id, channel.name, delivery.key)
"""

CLASS = """
class Channel:
    class Settings(BaseModel):
        server: str = Field("localhost:25", description="host:port")
        tls: bool = False
        username: str | None = None
        password: SecretStr | None = None
        sender: str = Field("x@y", alias="from")
        recipients: Addresses = Field((), max_length=2)
        numbers: list[int] = []
        words: tuple[str, ...] | None = None
        more: Sequence[str] = ()
        tags: set[str] = set()
        headers: dict[str, str] = {}
        secrets: list[SecretStr] = []
        port: int = Field(25, lt=65536)

    def __init__(self, settings):
        self.settings = settings

    @hookimpl
    def on_event(self, channel):
        return (self.settings, channel.settings)

    @hookimpl
    def on_event_async(self):
        return "plain"
"""


# --- finding ---------------------------------------------------------------------------------


def test_a_plugin_is_found_by_its_entry_point(
    module: WriteModule, distribution: WriteDistribution
) -> None:
    """Installing a distribution is enough; a class and a module may be pointed at."""
    distribution("test-dispatch-one", {"test-one": module(HOOKS)})
    distribution("test-dispatch-two", {"test-two": f"{module(CLASS)}:Channel"})
    assert only_channel("test-one").status == "loaded"
    assert only_channel("test-two").hooks == ("on_event", "on_event_async")


def test_a_plugin_may_be_a_file_on_the_path(module: WriteModule) -> None:
    """As ``module:Class``, or as a module with hooks, without any distribution."""
    assert only_channel(f"{module(CLASS)}:Channel").status == "loaded"
    assert only_channel(module(HOOKS)).status == "loaded"


def test_a_nested_class_may_be_named(module: WriteModule) -> None:
    """As in an entry point, dots lead into classes."""
    source = "class Outer:\n" + textwrap.indent(textwrap.dedent(CLASS), "    ")
    assert only_channel(f"{module(source)}:Outer.Channel").status == "loaded"


def test_only_what_is_used_is_imported(
    module: WriteModule, distribution: WriteDistribution, site: Path
) -> None:
    """A broken plugin that nobody uses is not even noticed (B29)."""
    broken = module(f"open({str(site / 'imported')!r}, 'w')\nraise SystemExit(1)")
    distribution("test-dispatch", {"test-broken": broken, "test-good": module(HOOKS)})
    assert only_channel("test-good").status == "loaded"
    assert not (site / "imported").exists()


def test_a_plugin_that_is_not_installed_is_a_mistake(
    module: WriteModule, distribution: WriteDistribution
) -> None:
    """What is installed is named, and the nearest of it."""
    distribution("test-dispatch", {"carrier-pigeon": module(HOOKS)})
    problem = problem_of("carier-pigeon")
    assert problem.setting == f"{OPS}plugin"
    assert "channel 'ops' uses 'carier-pigeon', which is not installed" in problem.found
    assert "carrier-pigeon" in problem.expected
    assert problem.advice == "Did you mean 'carrier-pigeon'?"


@pytest.mark.parametrize(
    ("plugin", "advice"),
    [
        ("apprise", "Install it: pip install kinto-dispatch-apprise"),
        ("aprise", "Install it: pip install kinto-dispatch-apprise"),
        # Nobody shall install whatever happens to have such a name.
        ("some-thing-else", ""),
        # There are modules of these names, which have nothing to do with us.
        ("this", ""),
        ("xml.dom", ""),
    ],
)
def test_advice_names_only_our_own_distributions(
    plugin: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown name is never imported, and never recommended (B29)."""
    # As where kinto-dispatch-apprise is not installed.
    others = [point for point in entry_points(group=discovery.GROUP) if point.name != "apprise"]
    monkeypatch.setattr(discovery, "entry_points", lambda group: others)
    assert problem_of(plugin).advice == advice
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    ("plugin", "found"),
    [
        ("no_such_module:Channel", "module 'no_such_module', which is not there"),
        ("no_such.module:Channel", "module 'no_such.module', which is not there"),
        ("{module}:Chanel", "'Chanel'"),
        ("{module}:", "':'"),
        ("{module}:a b", "a b"),
        (":Channel", ":Channel"),
    ],
)
def test_a_class_that_is_not_there_is_a_mistake(
    module: WriteModule, plugin: str, found: str
) -> None:
    """The operator named it, so it is the operator who is told."""
    problem = problem_of(plugin.replace("{module}", module(CLASS)))
    assert problem.setting == f"{OPS}plugin"
    assert found.strip("'") in problem.found


def test_a_misspelt_class_has_a_neighbour(module: WriteModule) -> None:
    """The module is there, so what is in it can be offered."""
    assert problem_of(f"{module(CLASS)}:Chanel").advice == "Did you mean 'Channel'?"


def test_two_distributions_with_one_name_are_a_mistake(
    module: WriteModule, distribution: WriteDistribution
) -> None:
    """Which of them would be called is nothing to guess; both are named."""
    distribution("test-dispatch-one", {"test-twin": module(HOOKS)})
    distribution("test-dispatch-two", {"test-twin": module(HOOKS)})
    problem = problem_of("test-twin")
    assert "test-dispatch-one and test-dispatch-two" in problem.found
    assert problem.setting == f"{OPS}plugin"


# --- calling ---------------------------------------------------------------------------------


async def test_hooks_of_a_module_are_called(module: WriteModule) -> None:
    """With what the hook asks for, and its value comes back."""
    channel = only_channel(module(HOOKS))
    assert channel.call_sync(EVENT) == ("sync", "1", "ops")
    assert channel.is_coroutine
    assert await channel.call_async(EVENT, DELIVERY) == ("async", "1", "ops", "1:ops")


def test_hooks_of_a_class_may_take_less(module: WriteModule) -> None:
    """A method names the arguments that it needs; a plain ``def`` blocks for its value."""
    channel = only_channel(f"{module(CLASS)}:Channel", server="mail:25")
    of_instance, of_channel = channel.call_sync(EVENT)
    assert of_instance is of_channel is channel.settings
    assert of_channel.server == "mail:25"
    assert not channel.is_coroutine
    assert channel.call_async(EVENT, DELIVERY) == "plain"


def test_one_plugin_serves_several_channels(module: WriteModule) -> None:
    """Each channel has its own object, and a module is shared without knowing it."""
    name = module(HOOKS)
    klass = f"{module(CLASS)}:Channel"
    settings = settings_of(name) | {
        f"{D}channels": "ops more admins others",
        f"{D}channels.more.plugin": name,
        f"{D}channels.admins.plugin": klass,
        f"{D}channels.others.plugin": klass,
        f"{D}channels.others.server": "other:25",
    }
    channels = configure(settings, {}).channels
    assert [channel.call_sync(EVENT)[2] for channel in channels[:2]] == ["ops", "more"]
    assert [channel.call_sync(EVENT)[0].server for channel in channels[2:]] == [
        "localhost:25",
        "other:25",
    ]


@pytest.mark.parametrize(
    ("hooks", "options", "mode"),
    [
        ("on_event on_event_async", {}, "async"),
        ("on_event on_event_async", {"mode": "sync"}, "sync"),
        ("on_event", {}, "sync"),
        ("on_event_async", {}, "async"),
        ("on_event", {"phase": "before_commit"}, "sync"),
    ],
)
def test_the_mode_is_async_if_the_plugin_has_it(
    module: WriteModule, hooks: str, options: dict[str, str], mode: str
) -> None:
    """The ini decides where the plugin has both hooks."""
    source = "".join(f"@hookimpl\ndef {hook}(event): ...\n" for hook in hooks.split())
    channel = only_channel(module(source), **options)
    assert channel.mode == mode


@pytest.mark.parametrize("hook", ["on_event", "on_event_async"])
def test_a_rate_limit_needs_a_lane_to_wait_in(module: WriteModule, hook: str) -> None:
    """A channel in the request cannot wait, so its operator is told instead of left in belief."""
    name = module(f"@hookimpl\ndef {hook}(event): ...\n")
    if hook == "on_event_async":
        assert only_channel(name, rate_limit="10/second").config.rate_limit == RateLimit(10, 1.0)
        return
    problem = problem_of(name, rate_limit="10/second")
    assert problem.setting.endswith(".rate_limit")
    assert "10/second, but the channel runs in the request" in str(problem)


def test_channels_are_listed_by_mode(module: WriteModule) -> None:
    """In the order of the ini."""
    name = module(HOOKS)
    settings = settings_of(name) | {
        f"{D}channels": "ops wait more",
        f"{D}channels.wait.plugin": name,
        f"{D}channels.wait.mode": "sync",
        f"{D}channels.more.plugin": name,
    }
    found: Configuration = configure(settings, {})
    assert [channel.name for channel in found.async_channels] == ["ops", "more"]
    assert [channel.name for channel in found.sync_channels] == ["wait"]


def test_a_channel_renders_with_its_own_templates(module: WriteModule) -> None:
    """Subject and text are those of the channel."""
    channel = only_channel(module(HOOKS), subject="{{ action }}!", template="by {{ user_id }}")
    message = channel.render(EVENT)
    assert (message.subject, message.text) == ("create!", "by account:alice")


def test_an_implementation_under_another_name_is_called(module: WriteModule) -> None:
    """pluggy's ``specname`` is honoured."""
    source = "@hookimpl(specname='on_event')\ndef tell(event): return 'told'"
    assert only_channel(module(source)).call_sync(EVENT) == "told"


@pytest.mark.parametrize("color", ["def", "async def"])
async def test_closing_reaches_the_plugin(
    module: WriteModule, color: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A plain ``close`` runs in a thread, so that it cannot stop the loop."""
    source = f"""
    class Channel:
        closed_in = None
        @hookimpl
        def on_event(self): return self.closed_in
        {color} close(self):
            import threading
            self.closed_in = threading.current_thread()
    """
    channel = only_channel(f"{module(source)}:Channel")
    await channel.close()
    here = threading.current_thread()
    assert (channel.call_sync(EVENT) is here) == (color == "async def")
    assert caplog.records == []


async def test_what_closing_raises_is_logged(
    module: WriteModule, caplog: pytest.LogCaptureFixture
) -> None:
    """The others still get closed."""
    source = """
    class Channel:
        @hookimpl
        def on_event(self): ...
        def close(self): raise OSError("broken pipe")
    """
    await only_channel(f"{module(source)}:Channel").close()
    assert "'ops'" in caplog.text
    assert "broken pipe" in caplog.text


async def test_a_module_is_not_closed(module: WriteModule) -> None:
    """It is shared, and a function named ``close`` may be anything."""
    name = module(HOOKS + "\ncalls = []\ndef close(): calls.append('closed')\n")
    await only_channel(name).close()
    assert sys.modules[name].calls == []


# --- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "text", "field", "value"),
    [
        ("server", " mail:25", "server", " mail:25"),
        ("tls", "true", "tls", True),
        ("tls", "off", "tls", False),
        ("username", "", "username", None),
        ("port", "", "port", 25),
        ("from", "a@b", "sender", "a@b"),
        ("recipients", "a@b, c@d", "recipients", ("a@b", "c@d")),
        ("numbers", "1 2\n3", "numbers", [1, 2, 3]),
        ("words", "a b", "words", ("a", "b")),
        ("more", "a b", "more", ["a", "b"]),
        ("tags", "a b a", "tags", {"a", "b"}),
        ("headers", '{"a": "b"}', "headers", {"a": "b"}),
        ("port", "2525", "port", 2525),
    ],
)
def test_an_option_is_read_by_the_type_of_its_field(
    module: WriteModule, option: str, text: str, field: str, value: object
) -> None:
    """Lists split, mappings are JSON, and an empty text is no value."""
    channel = only_channel(f"{module(CLASS)}:Channel", **{option: text})
    assert getattr(channel.settings, field) == value


def test_secrets_are_wrapped_and_may_stand_in_files(module: WriteModule, site: Path) -> None:
    """The end of the last line is not part of a secret; lists of secrets split."""
    (site / "password").write_text(f"{CANARY}\n")
    channel = only_channel(
        f"{module(CLASS)}:Channel", password_file=str(site / "password"), secrets="one two"
    )
    assert channel.settings.password.get_secret_value() == CANARY
    assert [one.get_secret_value() for one in channel.settings.secrets] == ["one", "two"]
    assert CANARY not in f"{channel!r} {channel.settings!r} {channel.config!r}"


def test_options_may_come_from_the_environment(module: WriteModule) -> None:
    """Without a line in the ini, by the names that the plugin declares."""
    prefix = "KINTO_EVENT_LISTENERS_DISPATCH_CHANNELS_OPS_"
    environ = {f"{prefix}PASSWORD": CANARY, f"{prefix}FROM": "a@b", f"{prefix}PORT": "26"}
    channel = only_channel(f"{module(CLASS)}:Channel", environ)
    assert channel.settings.password.get_secret_value() == CANARY
    assert (channel.settings.sender, channel.settings.port) == ("a@b", 26)


def test_the_name_of_a_field_counts_where_the_model_says_so(module: WriteModule) -> None:
    """Several spellings of one option are possible, but only one at a time."""
    source = """
    class Channel:
        class Settings(BaseModel):
            model_config = ConfigDict(populate_by_name=True)
            sender: str = Field("x", alias="from")
            url: str = Field("y", validation_alias=AliasChoices("url", "uri"))
        def __init__(self, settings): ...
        @hookimpl
        def on_event(self): ...
    """
    name = f"{module(source)}:Channel"
    assert only_channel(name, sender="a").settings.sender == "a"
    assert only_channel(name, uri="b").settings.url == "b"
    problem = problem_of(name, **{"sender": "a", "from": "b"})
    assert (problem.setting, problem.found) == (f"{OPS}sender", f"given as {OPS}from too")


def test_models_may_hold_models(module: WriteModule) -> None:
    """Deeper structure is JSON, and a secret in there is a secret."""
    source = """
    class Login(BaseModel):
        name: str
        password: SecretStr
    class Channel:
        class Settings(BaseModel):
            login: Login | None = None
            maybe: dict[str, list[int]] | None = None
        def __init__(self, settings): ...
        @hookimpl
        def on_event(self): ...
    """
    name = f"{module(source)}:Channel"
    channel = only_channel(
        name, login=f'{{"name": "me", "password": "{CANARY}"}}', maybe='{"a": [1]}'
    )
    assert channel.settings.login.password.get_secret_value() == CANARY
    assert channel.settings.maybe == {"a": [1]}
    problem = problem_of(name, login=f'{{"password": "{CANARY}"}}')
    assert problem.setting == f"{OPS}login"


@pytest.mark.parametrize(
    ("options", "setting", "words"),
    [
        ({"port": "smtp"}, "port", "'smtp'; expected a valid integer"),
        ({"tls": "ja"}, "tls", "'ja'; expected a valid boolean"),
        ({"numbers": "1 x"}, "numbers", "'1 x'"),
        ({"recipients": "a, b, c"}, "recipients", "'a, b, c'; expected another value: Tuple"),
        ({"headers": "a"}, "headers", "no JSON"),
        ({"headers": "[]"}, "headers", "a JSON object"),
        ({"headers": f'{{"a": ["{CANARY}"]}}'}, "headers", "a secret value"),
        ({"headers": "[" * 100_000}, "headers", "JSON"),
        ({"pasword": CANARY}, "pasword", "Did you mean 'password'?"),
        ({"timeout": "3"}, "timeout", "Did you mean 'timeout_seconds'?"),
        ({"server_file": "x"}, "server_file", "no setting of that name"),
        ({"queue_url": CANARY}, "queue_url", f"Write it as {D}queue_url."),
        ({"password_file": "/no/such/file"}, "password_file", "'/no/such/file': No such file"),
        ({"password": CANARY, "password_file": "x"}, "password_file", "either"),
        ({"sender": "x"}, "sender", "no setting of that name"),
        ({"port": "70000", "tls": ""}, "port", "'70000'; expected less than"),
        ({"phase": "before_commit"}, "phase", f"Write {OPS}mode = sync."),
        ({"when": "new =="}, "when", "JMESPath"),
        ({"uris": "/buckets/default/**"}, "uris", "real id"),
        ({"users": "alice"}, "users", "account:alice"),
        ({"actions": "created"}, "actions", "Did you mean 'create'?"),
        ({"subject": "{{ chnage }}"}, "subject", "Did you mean 'change'?"),
        ({"template": "{{"}, "template", "cannot be rendered"),
        ({"template": "{{ change.objectid }}"}, "template", "Did you mean 'object_id'?"),
        ({"template": "{{ 'x' * 300000 }}"}, "template", "text of more than 262,144 characters"),
    ],
)
def test_a_mistake_in_an_option_is_told_by_its_name(
    module: WriteModule, options: dict[str, str], setting: str, words: str
) -> None:
    """What the plugin, the route and the templates refuse is told like the core's own."""
    problem = problem_of(f"{module(CLASS)}:Channel", **options)
    assert problem.setting == OPS + setting
    assert words in str(problem)


def test_a_template_from_a_file_is_told_by_the_setting_of_the_file(
    module: WriteModule, site: Path
) -> None:
    """The mistake is in the file, so the file's setting is named."""
    (site / "template").write_text("{{ chnage }}")
    problem = problem_of(module(HOOKS), template_file=str(site / "template"))
    assert problem.setting == f"{OPS}template_file"


def test_an_unknown_variable_of_a_channel_is_told(module: WriteModule) -> None:
    """A plugin's options are known when it is loaded, so a slip in a variable is too."""
    name = "KINTO_EVENT_LISTENERS_DISPATCH_CHANNELS_OPS_PASWORD"
    problem = problem_of(f"{module(CLASS)}:Channel", {name: CANARY})
    assert (problem.setting, problem.advice) == (name, "Did you mean 'password'?")


def test_a_plugin_without_settings_has_no_options(module: WriteModule) -> None:
    """Whatever else is typed for the channel is unknown."""
    problem = problem_of(module(HOOKS), webhook_url=CANARY)
    assert problem.setting == f"{OPS}webhook_url"


def test_a_single_channel_is_told_of_every_name(module: WriteModule) -> None:
    """Right under the alias, the core's, the channel's and the plugin's names are all at hand."""
    settings = {
        "kinto.event_listeners": "dispatch",
        f"{D}use": "kinto_dispatch",
        f"{D}plugin": f"{module(CLASS)}:Channel",
        f"{D}pasword": "x",
        f"{D}qeue_url": "x",
        f"{D}mod": "x",
    }
    with pytest.raises(BadSettings) as raised:
        configure(settings, {})
    assert [(problem.setting, problem.advice) for problem in raised.value.problems] == [
        (f"{D}pasword", "Did you mean 'password'?"),
        (f"{D}qeue_url", "Did you mean 'queue_url'?"),
        (f"{D}mod", "Did you mean 'mode'?"),
    ]


REFUSES = """
class Channel:
    class Settings(BaseModel):
        url: SecretStr = Field(description="where to post")
        token: SecretStr | None = None
        name: str = "n"

        @field_validator("url")
        def _check(cls, value):
            if not value.get_secret_value().startswith("https://hooks.example.com/"):
                raise ValueError(f"{value.get_secret_value()} is not https://hooks.example.com/...")
            return value

        @model_validator(mode="after")
        def _check_all(self):
            if self.name == "bad":
                url = self.url.get_secret_value()
                raise ValueError(f"{url} and {self.name} do not go together")
            if self.name == "worse":
                raise KeyError(self.url.get_secret_value())
            if self.name == "worst":
                raise SystemExit(self.url.get_secret_value())
            return self
    def __init__(self, settings): ...
    @hookimpl
    def on_event(self): ...
"""
URL = f"https://hooks.example.com/services/{CANARY}"


def test_a_validator_may_quote_a_secret_and_nobody_sees_it(module: WriteModule) -> None:
    """What the plugin advises stays readable (B20)."""
    name = f"{module(REFUSES)}:Channel"
    problem = problem_of(name, url=f"http://hooks.example.com/services/{CANARY}?a={CANARY}x")
    assert problem.setting == f"{OPS}url"
    assert problem.found == "a secret value"
    assert "is not https://hooks.example.com/..." in problem.expected


def test_a_missing_option_is_told_with_its_description(module: WriteModule) -> None:
    """An empty one is missing too."""
    name = f"{module(REFUSES)}:Channel"
    for options in ({}, {"url": ""}):
        problem = problem_of(name, **options)
        assert problem == Problem(f"{OPS}url", "not set", "where to post")


def test_a_file_that_cannot_be_read_is_one_problem(module: WriteModule) -> None:
    """What it was to hold is not missing as well, and what lacks it is not judged."""
    name = f"{module(REFUSES)}:Channel"
    assert problem_of(name, url_file="/no/such/file").setting == f"{OPS}url_file"
    problem = problem_of(name, url=URL, token_file="/no/such/file", name="bad")
    assert problem.setting == f"{OPS}token_file"


def test_what_the_whole_model_refuses_is_told_of_the_channel(module: WriteModule) -> None:
    """There is no one setting to blame."""
    problem = problem_of(f"{module(REFUSES)}:Channel", url=URL, name="bad")
    assert problem.setting == OPS.rstrip(".")
    assert "do not go together" in problem.expected


@pytest.mark.parametrize(("name", "error"), [("worse", "KeyError"), ("worst", "SystemExit")])
def test_a_validator_that_breaks_fails_its_channel(
    module: WriteModule, caplog: pytest.LogCaptureFixture, name: str, error: str
) -> None:
    """That is the plugin's mistake, and not even ``SystemExit`` gets any further."""
    channel = only_channel(f"{module(REFUSES)}:Channel", url=URL, name=name)
    assert channel.status == "failed"
    assert channel.reason is not None
    assert error in channel.reason
    assert CANARY not in channel.reason + caplog.text


# --- plugins that cannot be loaded -----------------------------------------------------------


BROKEN = [
    ("raise RuntimeError('no luck')", "it cannot be imported: RuntimeError: no luck"),
    ("raise SystemExit(3)", "it cannot be imported: SystemExit: 3"),
    ("import pytest; pytest.skip('x', allow_module_level=True)", "Skipped"),
    ("class E(BaseException): pass\nraise E('base')", "E: base"),
    ("import no_such_thing", "No module named 'no_such_thing'"),
    ("def (", "SyntaxError"),
    ("", "it has no hook; write on_event_async(event, channel, delivery)"),
    ("def on_event(event): ...", "on_event is not marked; write @hookimpl above it"),
    (
        "async def on_event_async(event): ...\n@hookimpl\ndef on_event(event): ...",
        "on_event_async is not marked",
    ),
    ("@hookimpl\ndef on_evnt(event): ...", "Did you mean 'on_event'?"),
    ("@hookimpl\ndef tell(event): ...", "Hooks: on_event, on_event_async."),
    ("def on_evnt(event): ...", "on_evnt is no hook. Did you mean 'on_event'?"),
    (
        "@hookimpl\ndef on_event(event): ...\ndef on_event_asinc(event): ...",
        "Did you mean 'on_event_async'?",
    ),
    (
        "@hookimpl\nasync def on_event(event): ...",
        "on_event runs in the request: write def, or async def on_event_async",
    ),
    ("@hookimpl\ndef on_event(event): yield", "on_event yields"),
    ("@hookimpl\ndef on_event_async(event): yield", "on_event_async yields"),
    ("@hookimpl\nasync def on_event_async(event): yield", "on_event_async yields"),
    ("@hookimpl(wrapper=True)\ndef on_event(event): return (yield)", "on_event yields"),
    ("@hookimpl\ndef on_event(evnt): ...", "on_event takes 'evnt'; it may take event, channel"),
    (
        "@hookimpl\nasync def on_event_async(channel, event, delivry): ...",
        "on_event_async takes 'delivry'; it may take event, channel, delivery, each by its name",
    ),
]

BROKEN_CLASSES = [
    (
        "class Channel:\n"
        "  class Settings(BaseModel):\n"
        "    x: str = Field('', validation_alias=AliasPath('a', 'b'))\n"
        "  @hookimpl\n  def on_event(self): ...",
        "'x' of its Settings has no alias that is one word",
    ),
    ("Channel = 3", "it is a int object; name a class or a module"),
    (
        "class Channel:\n  @hookimpl\n  def on_event(self, event, channel, delivery): ...",
        "on_event takes 'delivery'; it may take event, channel, each by its name",
    ),
    (
        "class Channel:\n  @staticmethod\n  @hookimpl\n  def on_event(self): ...",
        "on_event takes 'self'",
    ),
    (
        "class Channel:\n  Settings = 3\n  @hookimpl\n  def on_event(self): ...",
        "its Settings is no class that inherits pydantic's BaseModel",
    ),
    (
        "class Channel:\n"
        "  class Settings(BaseModel):\n    mode: str = ''\n"
        "  @hookimpl\n  def on_event(self): ...",
        "its Settings has 'mode', a name of kinto-dispatch's own",
    ),
    (
        "class Channel:\n"
        "  class Settings(BaseModel):\n    x: str = Field('', alias='queue_url')\n"
        "  @hookimpl\n  def on_event(self): ...",
        "its Settings has 'queue_url'",
    ),
    (
        "class Channel:\n  def __init__(self, settings): ...\n"
        "  @hookimpl\n  def on_event(self): ...",
        "its __init__ does not take (self), since the class has no Settings",
    ),
    (
        "class Channel:\n  class Settings(BaseModel): ...\n  def __init__(self): ...\n"
        "  @hookimpl\n  def on_event(self): ...",
        "its __init__ does not take (self, settings)",
    ),
    (
        "class Channel:\n  def __init__(self): raise OSError('no socket')\n"
        "  @hookimpl\n  def on_event(self): ...",
        "it cannot be made: OSError: no socket",
    ),
    (
        "class Channel:\n  def __init__(self): exit(2)\n  @hookimpl\n  def on_event(self): ...",
        "it cannot be made: SystemExit: 2",
    ),
    (
        "class Channel:\n"
        "  def __init__(self):\n"
        "    class E(Exception):\n      def __str__(self): return 1 / 0\n"
        "    raise E\n"
        "  @hookimpl\n  def on_event(self): ...",
        "it cannot be made: E: (it cannot be shown)",
    ),
    (
        "class Channel:\n  @hookimpl\n  async def on_event(self): ...",
        "on_event runs in the request",
    ),
    (
        "class Channel:\n  def on_event(self, event): ...",
        "on_event is not marked",
    ),
]


@pytest.mark.parametrize(("source", "reason"), BROKEN)
def test_a_broken_module_fails_its_channel_only(
    module: WriteModule, caplog: pytest.LogCaptureFixture, source: str, reason: str
) -> None:
    """The author reads what to write, once, and the other channel is loaded (B29)."""
    check_broken(module, caplog, module(source), reason)


@pytest.mark.parametrize(("source", "reason"), BROKEN_CLASSES)
def test_a_broken_class_fails_its_channel_only(
    module: WriteModule, caplog: pytest.LogCaptureFixture, source: str, reason: str
) -> None:
    """As a module does (B29)."""
    check_broken(module, caplog, f"{module(source)}:Channel", reason)


def check_broken(
    module: WriteModule, caplog: pytest.LogCaptureFixture, plugin: str, reason: str
) -> None:
    settings = settings_of(plugin) | {f"{D}channels": "ops good", f"{D}channels.good.plugin": ""}
    settings[f"{D}channels.good.plugin"] = module(HOOKS)
    broken, good = configure(settings, {}).channels
    assert (broken.status, good.status) == ("failed", "loaded")
    assert broken.reason is not None
    assert reason in broken.reason
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "Channel 'ops' has failed" in record.getMessage()
    assert reason.partition(" of ")[0] in record.getMessage()


def test_the_traceback_is_logged(module: WriteModule, caplog: pytest.LogCaptureFixture) -> None:
    """With where the plugin raised, and what that came of."""
    source = "try:\n  {}['a']\nexcept KeyError as error:\n  raise OSError('b') from error"
    name = module(source)
    only_channel(name)
    assert f"{name}.py" in caplog.text
    assert "OSError: b\nwhich came of:" in caplog.text
    assert "KeyError: 'a'" in caplog.text


async def test_a_failed_channel_is_harmless(module: WriteModule) -> None:
    """Its lane can fill: it routes and renders. Calling it says why it cannot be called."""
    channel = only_channel(module("raise OSError('no')"), actions="create")
    assert (channel.status, channel.mode, channel.hooks) == ("failed", "async", ())
    assert channel.settings is None
    assert channel.route.select(EVENT) == EVENT.changes
    assert channel.render(EVENT).subject == "record created"
    assert not channel.is_coroutine
    with pytest.raises(PluginError, match="no"):
        channel.call_sync(EVENT)
    with pytest.raises(PluginError, match="no"):
        channel.call_async(EVENT, DELIVERY)
    await channel.close()


def test_a_veto_must_not_vanish(module: WriteModule) -> None:
    """A channel that may refuse writes stops the start if its plugin is broken."""
    problem = problem_of(module("raise OSError('no')"), mode="sync", phase="before_commit")
    assert problem.setting == f"{OPS}plugin"
    assert "OSError: no" in problem.found


@pytest.mark.parametrize(("mode", "hook"), [("sync", "on_event_async"), ("async", "on_event")])
def test_a_mode_that_the_plugin_lacks_is_a_mistake(
    module: WriteModule, mode: str, hook: str
) -> None:
    """The operator reads what the plugin can do."""
    problem = problem_of(module(f"@hookimpl\ndef {hook}(event): ..."), mode=mode)
    assert problem.setting == f"{OPS}mode"
    assert problem.expected != mode


def test_mistakes_of_all_kinds_are_told_at_once(module: WriteModule) -> None:
    """Of the core, the route, the templates and the plugins of all channels."""
    settings = settings_of(f"{module(CLASS)}:Channel", port="x", when="==", subject="{{") | {
        f"{D}channels": "ops more",
        f"{D}channels.more.plugin": "carier-pigeon",
        f"{D}channels.more.max_attempts": "x",
        f"{D}lease": "1",
    }
    with pytest.raises(BadSettings) as raised:
        configure(settings, {})
    assert {problem.setting for problem in raised.value.problems} == {
        f"{D}lease",
        f"{OPS}port",
        f"{OPS}when",
        f"{OPS}subject",
        f"{D}channels.more.plugin",
        f"{D}channels.more.max_attempts",
    }


def test_the_interrupt_of_a_person_is_not_caught(module: WriteModule) -> None:
    """Ctrl-C while a plugin is imported ends the start."""
    with pytest.raises(KeyboardInterrupt):
        only_channel(module("raise KeyboardInterrupt"))


def test_helpers_may_have_any_name(module: WriteModule) -> None:
    """Only what is nearly a hook's name is suspected, and an underscore says that it is none."""
    source = HOOKS + "def on_error(event): ...\ndef _on_event(event): ...\non_events = 3"
    assert only_channel(module(source)).status == "loaded"


def test_the_specifications_may_be_imported(module: WriteModule) -> None:
    """Their markers are not mistaken for implementations that lack one."""
    source = "from kinto_dispatch import on_event\n" + HOOKS.replace("on_event(", "tell(").replace(
        "@hookimpl\ndef", "@hookimpl(specname='on_event')\ndef"
    )
    assert only_channel(module(source)).hooks == ("on_event", "on_event_async")


def test_a_hook_of_a_later_release_may_be_optional(module: WriteModule) -> None:
    """pluggy's ``optionalhook`` lets a plugin run with several releases."""
    source = HOOKS + "@hookimpl(optionalhook=True)\ndef on_outcome(event): ..."
    assert only_channel(module(source)).status == "loaded"


def test_hooks_may_be_inherited(module: WriteModule) -> None:
    """Also static and class methods are hooks."""
    source = """
    class Base:
        @hookimpl
        def on_event(self, event): return event.id
    class Channel(Base):
        @staticmethod
        @hookimpl
        async def on_event_async(event): return event.id
    """
    channel = only_channel(f"{module(source)}:Channel")
    assert channel.call_sync(EVENT) == "1"
    assert channel.is_coroutine
    assert asyncio.run(channel.call_async(EVENT, DELIVERY)) == "1"


def test_a_class_may_leave_its_settings_to_the_channel(module: WriteModule) -> None:
    """Without an ``__init__`` of its own it reads ``channel.settings``; so may a module."""
    settings = "class Settings(BaseModel):\n  url: str = 'x'\n"
    hook = "@hookimpl\ndef on_event({}channel): return channel.settings.url\n"
    body = textwrap.indent(settings + hook.format("self, "), "  ")
    for plugin in (
        f"{module('class Channel:' + chr(10) + body)}:Channel",
        module(settings + hook.format("")),
    ):
        assert only_channel(plugin, url="y").call_sync(EVENT) == "y"


# --- redaction -------------------------------------------------------------------------------


def test_a_channel_cuts_its_secrets_out_of_any_text(module: WriteModule) -> None:
    """For what libraries say when they fail: the whole secret, and its parts, but no host
    (B20)."""
    url = f"https://hooks.example.com/services/T0123456/{CANARY}?key=p%40sswordx"
    channel = only_channel(f"{module(REFUSES)}:Channel", url=url, name="public-name")
    text = (
        f"POST {url} failed: {CANARY} at hooks.example.com:443 /services/T0123456"
        " p@sswordx public-name"
    )
    redacted = channel.redact(text)
    assert "hooks.example.com:443" in redacted
    assert "public-name" in redacted
    for part in (CANARY, "T0123456", "p@sswordx", "p%40sswordx"):
        assert part not in redacted


@pytest.mark.parametrize("user", ["", "x", "xy", "xyz"])
@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode])
def test_a_channel_cuts_its_secrets_out_of_what_was_made_of_them(
    module: WriteModule, user: str, encode: Callable[[bytes], bytes]
) -> None:
    """A server that quotes a request quotes user and password in base64 (B20)."""
    password = "s\u00e3\u00ff??~~>>word"
    url = f"https://hooks.example.com/?user={user}&password={quote(password)}"
    channel = only_channel(f"{module(REFUSES)}:Channel", url=url, name="public-name")
    sent = encode(f"{user}:{password}".encode()).decode()
    redacted = channel.redact(f"'Authorization': 'Basic {sent}', 'Host': 'hooks.example.com'")
    (left,) = re.findall("Basic (.*?)'", redacted)
    assert MASK in left
    assert len(left.replace(MASK, "")) <= len(user) * 2 + 6
    assert "hooks.example.com" in redacted


def test_pydantic_quotes_no_secret_in_a_log(
    module: WriteModule, caplog: pytest.LogCaptureFixture
) -> None:
    """It shortens what it quotes, so that no comparison would find the secret in it (B20)."""
    source = """
    class Inner(BaseModel):
        port: int
    class Channel:
        class Settings(BaseModel):
            url: SecretStr
        def __init__(self, settings): Inner(port=settings.url.get_secret_value())
        @hookimpl
        def on_event(self): ...
    """
    url = "x" * 60 + "-" + "secret-tail" * 3
    channel = only_channel(f"{module(source)}:Channel", url=url)
    assert channel.reason is not None
    assert "ValidationError: port Input should be a valid integer" in channel.reason
    assert "tail" not in channel.reason + caplog.text
    assert "xxx" not in channel.reason + caplog.text


# --- the listing -----------------------------------------------------------------------------


@pytest.fixture
def three(module: WriteModule, distribution: WriteDistribution) -> Callable[..., dict[str, Any]]:
    """Three installed plugins, one broken; a listing of them by name."""
    distribution(
        "test-dispatch",
        {
            "test-good": module(HOOKS),
            "test-idle": f"{module(CLASS)}:Channel",
            "test-broken": module("def on_event(event): ..."),
        },
    )

    def listing(*channels: Channel, load: bool = False) -> dict[str, Any]:
        return {
            plugin.name: plugin
            for plugin in installed(channels, load=load)
            if plugin.name.startswith(("test-", "plugin_under_test"))
        }

    return listing


def test_the_listing_imports_nothing(three: Callable[..., dict[str, Any]]) -> None:
    """What is not in use is available, with its distribution and version (B29)."""
    before = set(sys.modules)
    found = three()
    assert {plugin.status for plugin in found.values()} == {"available"}
    assert {(plugin.distribution, plugin.version) for plugin in found.values()} == {
        ("test-dispatch", "1.2")
    }
    assert not {name for name in set(sys.modules) - before if "plugin_under_test" in name}


def test_the_listing_knows_what_is_in_use(three: Callable[..., dict[str, Any]]) -> None:
    """A plugin is as its channels are."""
    found = three(only_channel("test-good"), only_channel("test-broken"))
    assert found["test-good"].status == "loaded"
    assert found["test-good"].hooks == ("on_event", "on_event_async")
    assert found["test-broken"].status == "failed"
    assert "on_event is not marked" in found["test-broken"].reason
    assert found["test-idle"].status == "available"


def test_the_listing_can_load_all(three: Callable[..., dict[str, Any]]) -> None:
    """Then also what nobody uses is checked."""
    found = three(load=True)
    assert {name: plugin.status for name, plugin in found.items()} == {
        "test-good": "loaded",
        "test-idle": "loaded",
        "test-broken": "failed",
    }


def test_the_listing_has_files_on_the_path(
    three: Callable[..., dict[str, Any]], module: WriteModule
) -> None:
    """They come from no distribution."""
    channel = only_channel(f"{module(CLASS)}:Channel")
    plugin = three(channel)[channel.config.plugin]
    assert (plugin.status, plugin.distribution, plugin.version) == ("loaded", None, None)


def test_the_listing_shows_twins(module: WriteModule, distribution: WriteDistribution) -> None:
    """Both, each as unusable."""
    distribution("test-dispatch-one", {"test-twin": module(HOOKS)})
    distribution("test-dispatch-two", {"test-twin": module(HOOKS)})
    twins = [plugin for plugin in installed() if plugin.name == "test-twin"]
    assert [plugin.distribution for plugin in twins] == ["test-dispatch-one", "test-dispatch-two"]
    assert {plugin.status for plugin in twins} == {"failed"}
