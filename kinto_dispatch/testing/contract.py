"""What a channel plugin promises to those who run it, as tests that every plugin passes.

    class TestSmoke(ChannelContract):
        plugin = "smoke"

        @pytest.fixture
        def destination(self):
            with LocalHttp() as server:
                yield SmokeServer(server)

Each test runs on a real local service and on all hooks that the plugin has. A hook is judged as
the worker judges it: ``None`` is ``Delivered``, an exception is ``Retry``.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import pytest

from kinto_dispatch.delivery import Delivery
from kinto_dispatch.errors import BadSettings
from kinto_dispatch.event import Event
from kinto_dispatch.outcome import Delivered, Rejected, Retry
from kinto_dispatch.testing.builders import make_change, make_channel, make_delivery, make_event
from kinto_dispatch.testing.destinations import DeadServer, SilentServer


if TYPE_CHECKING:
    from kinto_dispatch.plugins import Channel

HOSTILE = (
    "<!channel> <@U1> <https://evil.example|bank> & &amp; </pre><script>alert(1)</script> "
    "{{ 7 * 7 }} {event.__class__} ${HOME} %s %(x)s '; DROP TABLE -- =?utf-8?q?x?= "
    "\x1b[31m\r\nBcc: evil@example.com\r\n.\r\nMAIL FROM:<evil@example.com>\r\n"
    '" } ] \u202e\U0001f4a5'
)
"""What somebody who may write a record could try on those who are told of it."""

TOLERANCE_SECONDS = 3.0
"""How late a hook may end after its deadline on a machine with other things to do."""

CONCURRENT = 20


class Destination(Protocol):
    """A real service on this machine, as the fixture of a contract describes it."""

    options: Mapping[str, str]
    """The plugin's settings that lead there, as an operator types them."""

    secret: str | None
    """A part of these settings that nobody may see; ``None`` if there is none."""

    def texts(self) -> list[str]:
        """What has arrived, in order, decoded to what the receiver reads."""

    def refuse(self) -> None:
        """Take nothing from now on, and say so."""

    def options_at(self, address: str) -> Mapping[str, str]:
        """The settings for the same service at another ``127.0.0.1:port``."""


class ChannelContract:
    """A suite to inherit: name the ``plugin`` and provide the fixture ``destination``."""

    plugin: ClassVar[str | type | ModuleType]
    """As the ini names it: its entry point, ``module:Class``, or the class or module itself."""

    @pytest.fixture
    def destination(self) -> Iterator[Destination]:
        """A service that is ready; to be provided by the suite."""
        raise NotImplementedError("provide a fixture 'destination'")

    def each_hook(
        self, options: Mapping[str, str], **channel_settings: Any
    ) -> Iterator[tuple[str, Channel]]:
        """Every hook that the plugin has, with a channel of its own."""
        for hook in make_channel(self.plugin, options).hooks:
            yield hook, make_channel(self.plugin, options, **channel_settings)

    def test_it_loads_with_settings_from_text(self, destination: Destination) -> None:
        """What an operator types is understood, and there is a hook to call."""
        channel = make_channel(self.plugin, destination.options)
        assert channel.status == "loaded", channel.reason
        assert channel.hooks, "no hook is marked with @hookimpl"

    def test_an_unknown_setting_is_refused(self, destination: Destination) -> None:
        """A setting that the plugin does not have stops the start, by its name."""
        with pytest.raises(BadSettings, match="no_such_setting"):
            make_channel(self.plugin, {**destination.options, "no_such_setting": "1"})

    def test_it_delivers(self, destination: Destination) -> None:
        """One delivery makes one message, with each hook."""
        for number, (hook, channel) in enumerate(self.each_hook(destination.options), start=1):
            outcome = run(channel, hook, make_event())
            assert isinstance(outcome, Delivered), outcome
            assert len(destination.texts()) == number

    def test_record_data_arrives_literally(self, destination: Destination) -> None:
        """Whatever a record holds is text to its reader: it sends nothing else, nowhere else."""
        subject = "{{ change.new.title }}"
        hostile = make_change(new={"id": "first", "title": HOSTILE})
        event = make_event(user_id=HOSTILE, changes=(hostile,))
        hooks = self.each_hook(destination.options, subject=subject)
        for number, (hook, channel) in enumerate(hooks, start=1):
            outcome = run(channel, hook, event)
            assert isinstance(outcome, Delivered), outcome
            assert len(destination.texts()) == number
            assert _words(HOSTILE) in _words(destination.texts()[-1])

    def test_a_refusal_is_no_success(self, destination: Destination) -> None:
        """A destination that refuses gives ``Rejected`` or ``Retry``, with its reason."""
        destination.refuse()
        for hook, channel in self.each_hook(destination.options):
            outcome = run(channel, hook, make_event())
            assert isinstance(outcome, (Rejected, Retry)), outcome
            assert outcome.reason.strip()
        assert destination.texts() == []

    def test_a_dead_destination_is_tried_again(self, destination: Destination) -> None:
        """Where nobody listens, nothing is given up."""
        with DeadServer() as dead:
            for hook, channel in self.each_hook(destination.options_at(dead.address)):
                outcome = run(channel, hook, make_event())
                assert isinstance(outcome, Retry), outcome
                assert outcome.reason.strip()

    def test_a_silent_destination_does_not_outlast_the_deadline(
        self, destination: Destination
    ) -> None:
        """In the worker an attempt ends with its deadline, and is made again."""
        delivery = make_delivery(timeout_seconds=0.5)
        with SilentServer() as silent:
            for hook, channel in self.each_hook(destination.options_at(silent.address)):
                if hook == "on_event":
                    continue  # has no deadline of its own: the core leaves it behind
                started = time.monotonic()
                outcome = run(channel, hook, make_event(), delivery)
                assert isinstance(outcome, Retry), outcome
                assert time.monotonic() - started < 0.5 + TOLERANCE_SECONDS

    def test_secrets_are_never_shown(
        self, destination: Destination, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Not in a repr, an outcome, an error or a log, whether it works or not."""
        if destination.secret is None:
            return
        caplog.set_level(logging.DEBUG)
        seen = self._seen(destination.options)
        destination.refuse()
        seen += self._seen(destination.options)
        with DeadServer() as dead:
            options = destination.options_at(dead.address)
            seen += self._seen(options)
        with pytest.raises(BadSettings) as caught:
            make_channel(self.plugin, {**options, "no_such_setting": "1"})
        assert destination.secret not in "\n".join([*seen, str(caught.value), caplog.text])

    def _seen(self, options: Mapping[str, str]) -> list[str]:
        """All that can be seen of a delivery besides the logs."""
        seen = []
        for hook, channel in self.each_hook(options):
            seen += [repr(channel), repr(channel.settings), str(channel.settings)]
            seen.append(repr(run(channel, hook, make_event())))
        return seen

    def test_deliveries_do_not_disturb_each_other(self, destination: Destination) -> None:
        """Many at a time arrive, each once and as itself."""
        users = [f"account:user-{number:02}" for number in range(CONCURRENT)]
        for hook, channel in self.each_hook(destination.options):
            before = len(destination.texts())
            outcomes = run_all(channel, hook, [make_event(user_id=user) for user in users])
            assert all(isinstance(outcome, Delivered) for outcome in outcomes), outcomes
            arrived = destination.texts()[before:]
            found = [user for text in arrived for user in users if user in text]
            assert sorted(found) == users

    def test_it_closes_cleanly(self, destination: Destination) -> None:
        """Closing gives everything back, also without a delivery and a second time."""
        hooks = list(self.each_hook(destination.options))
        gc.collect()  # what earlier tests left is not ours
        with warnings.catch_warnings(record=True) as left:
            warnings.simplefilter("always")
            for hook, channel in hooks:
                live_and_close(make_channel(self.plugin, destination.options), [])
                live_and_close(channel, [hook, hook])
            del channel, hooks
            gc.collect()
        assert [str(warning.message) for warning in left] == []


def run(channel: Channel, hook: str, event: Event, delivery: Delivery | None = None) -> Any:
    """The outcome of one delivery, judged as the core does; closes the channel."""
    return run_all(channel, hook, [event], delivery)[0]


def run_all(
    channel: Channel, hook: str, events: list[Event], delivery: Delivery | None = None
) -> list[Any]:
    """The outcomes of deliveries that run at the same time; closes the channel."""

    async def deliver() -> list[Any]:
        loop = asyncio.get_running_loop()
        # As many threads as there are deliveries, so that none waits for another.
        with ThreadPoolExecutor(len(events)) as threads:
            loop.set_default_executor(threads)
            attempts = [_attempt(channel, hook, event, delivery) for event in events]
            try:
                return await asyncio.gather(*attempts)
            finally:
                await channel.close()

    return asyncio.run(deliver())


def live_and_close(channel: Channel, hooks: list[str]) -> None:
    """Run a delivery with each of the hooks, one after the other, then close twice."""

    async def live() -> None:
        for hook in hooks:
            outcome = await _attempt(channel, hook, make_event(), None)
            assert isinstance(outcome, Delivered), outcome
        await channel.close()
        await channel.close()

    asyncio.run(live())


async def _attempt(channel: Channel, hook: str, event: Event, delivery: Delivery | None) -> Any:
    delivery = delivery or make_delivery()
    try:
        result = await _call(channel, hook, event, delivery)
    except Exception as error:
        return Retry(f"{type(error).__name__}: {error}")
    return Delivered() if result is None else result


async def _call(channel: Channel, hook: str, event: Event, delivery: Delivery) -> Any:
    if hook == "on_event":
        result = await asyncio.to_thread(channel.call_sync, event)
        assert not inspect.isawaitable(result), "on_event runs in the request: write def"
        return result
    if not channel.is_coroutine:
        return await asyncio.to_thread(channel.call_async, event, delivery)
    async with asyncio.timeout(delivery.timeout_seconds):
        return await channel.call_async(event, delivery)


def _words(text: str) -> str:
    """The text without regard to how its lines are broken."""
    return " ".join(text.split())
