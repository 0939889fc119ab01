"""What an operator got wrong, as the real commands tell it: what, found, allowed, do this."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kinto_dispatch.testing.waiting import eventually


if TYPE_CHECKING:
    from tests.conftest import Deploy

BASE = "kinto.event_listeners.dispatch."
OPS = f"{BASE}channels.ops."

KINTO = "import sys; from kinto.__main__ import main; sys.exit(main())"

PLUGINS = {
    "good": "@hookimpl\nasync def on_event_async(event): pass",
    "raising": "raise RuntimeError('no licence')",
    "unmarked": "async def on_event_async(event): pass",
    "misspelt": "@hookimpl\nasync def on_evnt_async(event): pass",
    "coloured": "@hookimpl\nasync def on_event(event): pass",
}
"""Modules on the import path, all importing ``hookimpl``."""


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    """An ini that works, beside the plugins."""
    for name, body in PLUGINS.items():
        (tmp_path / f"{name}_plugin.py").write_text(f"from kinto_dispatch import hookimpl\n{body}")
    settings = {
        "kinto.event_listeners": "dispatch",
        f"{BASE}use": "kinto_dispatch",
        f"{BASE}queue_dir": str(tmp_path / "queue"),
        f"{BASE}channels": "ops",
        f"{OPS}plugin": "good_plugin",
    }
    lines = [f"{name} = {value}" for name, value in settings.items()]
    path = tmp_path / "kinto.ini"
    path.write_text("\n".join(["[app:main]", "use = egg:kinto", *lines, ""]))
    return path


def run(ini: Path, *arguments: str) -> tuple[int, str]:
    """The exit code of ``kinto-dispatch``, and all that it said."""
    program = f"import sys; sys.path.insert(0, {str(ini.parent)!r});"
    program += "from kinto_dispatch.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments, "--ini", str(ini)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        (
            f"{OPS}plugin = slak",
            (f"{OPS}plugin: channel 'ops' uses 'slak'", "Did you mean 'slack'?"),
        ),
        (
            f"{OPS}timeout_second = 5",
            (f"{OPS}timeout_second", "Did you mean 'timeout_seconds'?"),
        ),
        (
            f"{OPS}max_attempts = many",
            (f"{OPS}max_attempts: 'many'", "expected a whole number, from 1 to 1000"),
        ),
        (
            f"{OPS}subject = 100% sure",
            ("%", "%%"),
        ),
        (
            f"{OPS}template_file = nowhere.txt",
            (f"{OPS}template_file", "nowhere.txt"),
        ),
        (
            f"{BASE}queue_url = redsi://localhost",
            (f"{BASE}queue_url", "redis://"),
        ),
        (
            f"{OPS}when = new.title ==",
            (f"{OPS}when", "at character"),
        ),
    ],
)
@pytest.mark.parametrize("command", ["check", "worker"])
def test_a_mistake_in_the_ini_stops_the_command(
    ini: Path, command: str, line: str, parts: tuple[str, ...]
) -> None:
    """With exit code 78, the setting as it was typed, what is allowed, and a neighbour."""
    ini.write_text(ini.read_text() + line + "\n")
    if line.startswith(f"{OPS}plugin"):
        ini.write_text(ini.read_text().replace(f"{OPS}plugin = good_plugin\n", ""))
    code, said = run(ini, command)
    assert code == 78, said
    for part in parts:
        assert part in said
    assert "Traceback" not in said


def test_a_mistake_in_the_ini_stops_kinto(ini: Path) -> None:
    """The last that it says is the setting as it was typed, and what to do; there is one stack,
    which is of ``kinto start`` itself."""
    server = "[server:main]\nuse = egg:waitress#main\nhost = 127.0.0.1\nport = 0\n"
    ini.write_text(f"{ini.read_text()}{OPS}timeout_second = 5\n{server}")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KINTO, "start", "--ini", str(ini)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ini.parent)},
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("Traceback") == 1
    _, found, problem = done.stderr.partition("ConfigurationError: kinto-dispatch: 1 problem")
    assert found
    lines = problem.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(f"  - {OPS}timeout_second: no setting of that name")
    assert lines[1].endswith("Did you mean 'timeout_seconds'?")


@pytest.mark.parametrize("command", ["check", "worker"])
def test_a_missing_ini(tmp_path: Path, command: str) -> None:
    """Is named."""
    code, said = run(tmp_path / "nowhere.ini", command)
    assert code == 78
    assert "there is no file" in said
    assert "nowhere.ini" in said


@pytest.mark.parametrize(
    ("plugin", "reason"),
    [
        ("raising", "RuntimeError: no licence"),
        ("unmarked", "on_event_async is not marked; write @hookimpl above it"),
        ("misspelt", "is no hook. Did you mean 'on_event_async'?"),
        ("coloured", "write def, or async def on_event_async"),
    ],
)
def test_a_plugin_that_is_broken_fails_its_channel(ini: Path, plugin: str, reason: str) -> None:
    """``check`` says why, and fails; Kinto and the worker start all the same, without it (B29)."""
    ini.write_text(ini.read_text().replace("good_plugin", f"{plugin}_plugin"))
    code, said = run(ini, "check")
    assert code == 78, said
    assert f"channel ops: {plugin}_plugin failed" in said
    assert reason in said


def test_a_queue_that_cannot_be_reached(ini: Path) -> None:
    """Has an exit code of its own, and its URL without the password (B20, B30)."""
    url = "redis://:s3cr3t@127.0.0.1:1/0"
    ini.write_text(ini.read_text() + f"{BASE}queue_url = {url}\n")
    code, said = run(ini, "status")
    assert code == 69
    assert "The queue at redis://" in said
    assert "nothing listens there. Start the server" in said
    assert "s3cr3t" not in said
    code, said = run(ini, "check")
    assert code != 0
    assert "s3cr3t" not in said


def test_what_cannot_be_decoded_holds_up_nothing(deploy: Deploy) -> None:
    """In the log and in a lane: a dead letter with its reason, and what stands behind it arrives
    (R16) (B21)."""
    deployment = deploy()
    deployment.publish({"id": "before"})

    async def forge(queue: object) -> None:
        from kinto_dispatch.queue.values import Entry

        await queue.append([("forged", b"not json")])
        await queue.enqueue("ops", [Entry("forged:ops", b'{"v": 99}')])

    deployment.with_queue(forge)
    deployment.publish({"id": "behind"})
    with deployment.worker():
        deployment.await_delivered(["before", "behind"])
        eventually(lambda: len(deployment.dead_letters()) == 2, "both to be dead letters")
    assert {letter.kind for letter in deployment.dead_letters()} == {"failed"}
