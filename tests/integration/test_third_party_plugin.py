"""Somebody else's plugin: written, built, installed and used as its author and operator would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


pytest.importorskip("hatchling", reason="builds a distribution (pip install hatchling)")

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "carrier-pigeons"
version = "3.1"
description = "Sends changes by pigeon."
dependencies = ["kinto-dispatch"]

[project.entry-points.kinto_dispatch]
pigeon = "carrier_pigeons:PigeonChannel"
raven = "carrier_pigeons.ravens"
"""

PIGEONS = '''
"""Pigeons that carry changes."""

from pathlib import Path

from pydantic import BaseModel, Field, SecretStr

from kinto_dispatch import (
    Addresses, Channel, Delivered, Delivery, Event, Outcome, Rejected, hookimpl,
)


class PigeonSettings(BaseModel):
    loft: Path = Field(description="the directory where they land")
    ring: SecretStr
    to: Addresses = ()


class PigeonChannel:
    Settings = PigeonSettings

    def __init__(self, settings: PigeonSettings) -> None:
        self._settings = settings

    @hookimpl
    def on_event(self, event: Event, channel: Channel) -> Outcome:
        if event.action == "delete":
            return Rejected("pigeons bring no bad news")
        return self._fly(channel, event, "now")

    @hookimpl
    async def on_event_async(self, event: Event, channel: Channel, delivery: Delivery) -> Outcome:
        return self._fly(channel, event, delivery.key)

    def _fly(self, channel: Channel, event: Event, leg: str) -> Outcome:
        letter = f"{channel.name} {leg} {channel.render(event).subject}\\n"
        ring = self._settings.ring.get_secret_value()
        for address in self._settings.to:
            with (self._settings.loft / f"{address}-{ring}").open("a") as file:
                file.write(letter)
        return Delivered(f"{len(self._settings.to)} pigeons")

    async def close(self) -> None:
        (self._settings.loft / "closed").touch()
'''

RAVENS = '''
"""A channel without settings is a module."""

from kinto_dispatch import hookimpl


@hookimpl
def on_event_async(event):
    """Nevermore."""
'''

OPERATOR = '''
"""What an operator sees of it: reads the ini, calls both hooks, prints the listing."""

import asyncio
import json
import sys
import warnings
from dataclasses import asdict

warnings.simplefilter("ignore")  # of Pyramid, about pkg_resources

from pyramid.paster import get_appsettings

from kinto_dispatch import Delivery
from kinto_dispatch.plugins import configure, installed
from kinto_dispatch.testing.builders import make_event

configuration = configure(get_appsettings(sys.argv[1], name="main"))
now, later, raven = configuration.channels


async def call() -> list[str]:
    delivery = Delivery("1:later", 1, False, 30.0)
    outcomes = [now.call_sync(make_event()), now.call_sync(make_event(action="delete"))]
    outcomes.append(await later.call_async(make_event(), delivery))
    outcomes.append(raven.call_async(make_event(), delivery))
    for channel in configuration.channels:
        await channel.close()
    return [repr(outcome) for outcome in outcomes]


print(json.dumps({
    "modes": [channel.mode for channel in configuration.channels],
    "outcomes": asyncio.run(call()),
    "plugins": [asdict(one) for one in installed(configuration.channels)],
    "shown": repr(configuration) + repr(now.settings),
}))
'''

INI = """
[app:main]
use = egg:kinto
kinto.event_listeners = dispatch
kinto.event_listeners.dispatch.use = kinto_dispatch
kinto.event_listeners.dispatch.channels = now later raven
kinto.event_listeners.dispatch.channels.now.plugin = pigeon
kinto.event_listeners.dispatch.channels.now.mode = sync
kinto.event_listeners.dispatch.channels.now.loft = {loft}
kinto.event_listeners.dispatch.channels.now.ring_file = {loft}/ring
kinto.event_listeners.dispatch.channels.now.to = coo, roo
kinto.event_listeners.dispatch.channels.later.plugin = pigeon
kinto.event_listeners.dispatch.channels.later.subject = {{{{ resource_name|upper }}}}
kinto.event_listeners.dispatch.channels.later.to = coo
kinto.event_listeners.dispatch.channels.raven.plugin = raven
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip put the built distribution; nothing is fetched for it."""
    source = tmp_path_factory.mktemp("carrier-pigeons")
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "carrier_pigeons").mkdir()
    (source / "carrier_pigeons" / "__init__.py").write_text(PIGEONS)
    (source / "carrier_pigeons" / "ravens.py").write_text(RAVENS)
    target = tmp_path_factory.mktemp("site")
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(target)]
    run([sys.executable, "-m", "pip", "install", "--quiet", *options, str(source)])
    return target


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    """Two channels that fly, in the request and after it, and one that is a module."""
    (tmp_path / "ring").write_text("c4n4ry\n")
    path = tmp_path / "kinto.ini"
    path.write_text(INI.format(loft=tmp_path))
    return path


def run(command: list[str], **environ: str) -> str:
    """The output of a program that must succeed."""
    done = subprocess.run(
        command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def seen(site: Path, ini: Path, tmp_path: Path) -> dict[str, Any]:
    """What the operator's program saw, with the rest of channel ``later`` in the environment."""
    program = tmp_path / "operator.py"
    program.write_text(OPERATOR)
    later = "KINTO_EVENT_LISTENERS_DISPATCH_CHANNELS_LATER_"
    found: dict[str, Any] = json.loads(
        run(
            [sys.executable, str(program), str(ini)],
            PYTHONPATH=str(site),
            **{f"{later}LOFT": str(tmp_path), f"{later}RING": "c4n4ry"},
        )
    )
    return found


def test_a_plugin_of_somebody_else_is_installed_configured_and_called(
    seen: dict[str, Any], tmp_path: Path
) -> None:
    """An entry point is all it takes; both hooks deliver, with settings from file and variable."""
    assert seen["modes"] == ["sync", "async", "async"]
    assert seen["outcomes"] == [
        "Delivered(detail='2 pigeons')",
        "Rejected(reason='pigeons bring no bad news', pause=False)",
        "Delivered(detail='1 pigeons')",
        "None",
    ]
    assert (
        tmp_path / "coo-c4n4ry"
    ).read_text() == "now now record created\nlater 1:later RECORD\n"
    assert (tmp_path / "roo-c4n4ry").read_text() == "now now record created\n"
    assert (tmp_path / "closed").exists()


def test_it_is_listed_with_its_distribution(seen: dict[str, Any]) -> None:
    """The listing says where it comes from and what it can do."""
    listed = {one["name"]: one for one in seen["plugins"]}
    assert listed["pigeon"] == {
        "name": "pigeon",
        "distribution": "carrier-pigeons",
        "version": "3.1",
        "status": "loaded",
        "reason": None,
        "hooks": ["on_event", "on_event_async"],
    }
    assert listed["raven"]["hooks"] == ["on_event_async"]


def test_its_secret_is_not_shown(seen: dict[str, Any]) -> None:
    """Neither by the configuration nor by the plugin's own settings (B20)."""
    assert "c4n4ry" not in seen["shown"]


def test_its_mistakes_are_told_before_anything_starts(site: Path, ini: Path) -> None:
    """The command that checks an ini knows the plugin's settings by their names."""
    text = ini.read_text().replace("now.ring_file", "now.rng_file")
    ini.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "kinto_dispatch", "check", "--ini", str(ini)],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    told = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 78, told
    assert "channels.now.rng_file" in told
    assert "Did you mean 'ring_file'?" in told
    assert "channels.now.ring: not set" in told
    assert "channels.later.loft: not set; expected the directory where they land" in told
