"""A site to run commands at: an ini with three channels, a plugin, and a real queue."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner, Result

from kinto_dispatch.attempt import Attempter
from kinto_dispatch.cli import cli
from kinto_dispatch.event import Event
from kinto_dispatch.patience import Patience
from kinto_dispatch.plugins import Configuration, configure
from kinto_dispatch.queue import open_queue
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.values import DeadEntry, DeadKind
from kinto_dispatch.router import Router
from kinto_dispatch.testing.builders import make_event


T = TypeVar("T")

PROGRAM = str(Path(sys.executable).with_name("kinto-dispatch"))

PLUGIN = """
import asyncio
import time

from pydantic import BaseModel, SecretStr

from kinto_dispatch import Delivered, Rejected, Retry, Veto, hookimpl

ANSWERS = {
    "deliver": Delivered("taken"),
    "nothing": None,
    "retry": Retry("busy", after=60),
    "reject": Rejected("bad address"),
    "veto": Veto(403, "not allowed"),
    "nonsense": 42,
}


class Settings(BaseModel):
    answer: str = "deliver"
    token: SecretStr | None = None


class Channel:
    Settings = Settings

    def __init__(self, settings):
        self.settings = settings

    @hookimpl
    async def on_event_async(self, event, channel, delivery):
        if self.settings.answer == "hang":
            await asyncio.sleep(60)
        if self.settings.answer == "slow":
            await asyncio.sleep(2)
            return Delivered("after a while")
        return self._answer(event, channel)

    @hookimpl
    def on_event(self, event, channel):
        if self.settings.answer == "hang":
            time.sleep(60)
        return self._answer(event, channel)

    def _answer(self, event, channel):
        channel.render(event)
        if self.settings.answer == "raise":
            raise RuntimeError(f"no luck with {self.settings.token.get_secret_value()}")
        return ANSWERS[self.settings.answer]
"""

BASE = "kinto.event_listeners.dispatch."


class Site:
    """Three channels: ``ops`` (async, everything), ``news`` (async, its route wants creates and
    updates under one collection, change by change) and ``admins`` (sync)."""

    def __init__(self, directory: Path, queue_url: str) -> None:
        self.directory = directory
        self.ini = directory / "kinto.ini"
        self.settings = {
            "use": "egg:kinto",
            "kinto.storage_backend": "kinto.core.storage.memory",
            "kinto.event_listeners": "dispatch",
            f"{BASE}use": "kinto_dispatch",
            f"{BASE}queue_url": queue_url,
            f"{BASE}queue_dir": str(directory / "queue"),
            f"{BASE}channels": "ops news admins",
        }
        for name in ("ops", "news", "admins"):
            self.set(name, plugin="commands_channel:Channel")
        self.set(
            "news",
            actions="create update",
            uris="/buckets/blog/collections/*/records/**",
            when="new.title != 'secret'",
            split_changes="true",
        )
        self.set("admins", mode="sync")

    def set(self, channel: str, **settings: str) -> None:
        """Change settings of a channel in the ini."""
        for name, value in settings.items():
            self.settings[f"{BASE}channels.{channel}.{name}"] = value
        self.write()

    def set_all(self, settings: Mapping[str, str]) -> None:
        """Change settings in the ini, by their full names."""
        self.settings |= settings
        self.write()

    def write(self) -> None:
        """Write the ini as the settings are now."""
        lines = [f"{name} = {value}" for name, value in self.settings.items()]
        self.ini.write_text("\n".join(["[app:main]", *lines, ""]))

    # --- commands ------------------------------------------------------------------------

    def run(self, *arguments: str, given: str | None = None) -> Result:
        """Run a command in this process; ``given`` is its standard input."""
        command = [*arguments, "--ini", str(self.ini)]
        result = CliRunner().invoke(cli, command, input=given, prog_name="kinto-dispatch")
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def json(self, *arguments: str, code: int = 0) -> Any:
        """What a command prints with ``--json``."""
        result = self.run(*arguments, "--json")
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command in a process of its own."""
        return subprocess.Popen(
            [PROGRAM, *arguments, "--ini", str(self.ini)],
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    # --- the queue -----------------------------------------------------------------------

    @property
    def configuration(self) -> Configuration:
        """The channels as the ini has them now."""
        dispatch = {k: v for k, v in self.settings.items() if k.startswith("kinto.")}
        return configure(dispatch, {})

    def with_queue(self, work: Callable[[Queue], Awaitable[T]]) -> T:
        """What ``work`` returns, given the site's queue."""

        async def run() -> T:
            queue = open_queue(self.configuration.settings)
            try:
                await queue.register([one.name for one in self.configuration.async_channels])
                return await work(queue)
            finally:
                await queue.close()

        return asyncio.run(run())

    def publish(self, **over: Any) -> Event:
        """Put an event into the log, as Kinto does."""
        event = make_event(**over)
        self.with_queue(lambda queue: queue.append([(event.id, event.encode())]))
        return event

    def work(self) -> None:
        """Route what is in the log and attempt once what is in the lanes, as a worker does."""
        channels = self.configuration.async_channels

        async def work(queue: Queue) -> None:
            await Router(queue, channels, Patience(asyncio.Event())).route_once(0)
            for channel in channels:
                # The first call to a new lane may only make its group.
                claims = [
                    claim
                    for _ in range(2)
                    for claim in await queue.fetch(channel.name, "worker", 100, 0.01)
                ]
                settled = [await Attempter(channel).attempt(claim) for claim in claims]
                await queue.settle(channel.name, settled)

        self.with_queue(work)

    def bury(self, lane: str, event: Event, kind: DeadKind = "failed", reason: str = "x") -> None:
        """Make a dead letter of an event."""

        async def work(queue: Queue) -> None:
            cursor = (await queue.cursors([lane]))[lane]
            letter = DeadEntry(f"{event.id}:{lane}", event.encode(), kind, reason)
            await queue.route(lane, cursor, cursor, [], [letter])

        self.with_queue(work)


@pytest.fixture
def site(tmp_path: Path, queue_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site with an empty queue."""
    (tmp_path / "commands_channel.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("KINTO_INI", raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield Site(tmp_path, queue_url)
    # Each command sets up its own logging, on a stderr that ended with it.
    root.handlers[:], root.level = handlers, level
