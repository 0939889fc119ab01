"""The command line as such: what it loads, how it is asked, and what it says of mistakes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import rich_click as click
from click.testing import CliRunner

from kinto_dispatch.cli import COMMANDS, cli, exit_code, load_command
from kinto_dispatch.errors import (
    BadSettings,
    DispatchError,
    OutboxUnavailable,
    PluginError,
    QueueUnavailable,
)


PROGRAM = str(Path(sys.executable).with_name("kinto-dispatch"))
HELP_SECONDS = 0.25
HEAVY = {"aiohttp", "jinja2", "kinto", "msgspec", "pydantic", "pyramid", "redis", "sqlalchemy"}

INI = """
[app:main]
use = egg:kinto
kinto.event_listeners = {name}
kinto.event_listeners.{name}.use = kinto_dispatch
kinto.event_listeners.{name}.plugin = a_channel:Channel
kinto.event_listeners.{name}.mode = sync
"""

PLUGIN = """
from kinto_dispatch import hookimpl

class Channel:
    @hookimpl
    def on_event(self, event):
        pass
"""

WriteIni = Callable[..., str]


@pytest.fixture
def write_ini(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteIni:
    """Writes an ini with one sync channel of that name; returns its path."""
    (tmp_path / "a_channel.py").write_text(PLUGIN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("KINTO_INI", raising=False)

    def write(name: str = "ops", more: str = "") -> str:
        path = tmp_path / f"{name}.ini"
        path.write_text(INI.format(name=name) + more)
        return str(path)

    return write


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own."""
    return subprocess.run(
        [PROGRAM, *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- what is loaded ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_has_help(name: str) -> None:
    """Each name in the listing has a command behind it that says what it is for."""
    command = load_command(name)
    assert command is not None
    assert command.name == name
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert f"kinto-dispatch {name}" in result.output or name in result.output
    for option in command.params:
        assert not isinstance(option, click.Option) or option.hidden or option.help, option.name


@pytest.mark.parametrize("arguments", [[], ["worker"]], ids=["group", "worker"])
def test_help_answers_at_once(arguments: list[str]) -> None:
    """Completion and people ask for help often; the best of ten takes less than 250 ms of the
    processor, which is what it takes on a machine with nothing else to do."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(*arguments, "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)

    assert any(seconds() < HELP_SECONDS for _ in range(10))


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_loads_nothing_heavy(name: str) -> None:
    """Neither Kinto nor Redis nor anything else that only the work needs is imported for help."""
    program = (
        "import sys; from kinto_dispatch.cli import cli; cli(sys.argv[1:], standalone_mode=False);"
        "print(*sys.modules, file=sys.stderr)"
    )
    arguments = [name, "--help"] if name else ["--help"]
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    assert "Usage:" in result.stdout
    assert not HEAVY & set(result.stderr.split())


def test_listing_imports_no_command() -> None:
    """The group's help has each command's one line without importing its module."""
    program = (
        "import sys; from kinto_dispatch.cli import cli; cli(['--help'], standalone_mode=False);"
        "print(*sys.modules, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = set(result.stderr.split())
    modules = {f"kinto_dispatch.cli.{name.replace('-', '_')}" for name in COMMANDS}
    assert not modules & loaded
    assert all(name in result.stdout for name in COMMANDS)


def test_completion_knows_commands_and_options() -> None:
    """A shell that asks for completions gets the names of commands, and of a command's options."""
    environ = {"_KINTO_DISPATCH_COMPLETE": "bash_complete", "COMP_CWORD": "1"}
    assert "plain,send-test" in run(COMP_WORDS="kinto-dispatch se", **environ).stdout
    environ["COMP_CWORD"] = "2"
    assert "--outcome" in run(COMP_WORDS="kinto-dispatch attempts --ou", **environ).stdout


# --- how it is asked -----------------------------------------------------------------------------


def names_of(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The channels that a command listed."""
    assert result.returncode == 0, result.stderr
    return [row["name"] for row in json.loads(result.stdout)]


def test_the_ini_is_given_before_or_after_the_command(write_ini: WriteIni) -> None:
    """`--ini` may stand on either side of the command; further right wins; then `KINTO_INI`."""
    one, two = write_ini("one"), write_ini("two")
    assert names_of(run("--ini", one, "channels", "--json")) == ["one"]
    assert names_of(run("channels", "--json", "--ini", one)) == ["one"]
    assert names_of(run("channels", "--json", KINTO_INI=two)) == ["two"]
    assert names_of(run("--ini", one, "channels", "--json", KINTO_INI=two)) == ["one"]
    assert names_of(run("--ini", one, "channels", "--json", "--ini", two)) == ["two"]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    ("flags", "shown", "hidden"),
    [([], "ERROR", "DEBUG"), (["-v"], "DEBUG", "nothing"), (["-q"], "ERROR", "DEBUG")],
    ids=["usual", "debug", "quiet"],
)
def test_the_log_is_on_stderr(
    write_ini: WriteIni, before: bool, flags: list[str], shown: str, hidden: str
) -> None:
    """`-v` shows everything, before or after the command, and nothing gets into the data."""
    plugin = Path(write_ini("ops")).with_name("a_channel.py")
    plugin.write_text(
        "import logging; logging.getLogger('x').debug('hello'); logging.getLogger('x').error('o')"
        + PLUGIN
    )
    arguments = [*flags, "channels"] if before else ["channels", *flags]
    result = run(*arguments, "--json", "--ini", write_ini("ops"))
    assert names_of(result) == ["ops"]
    assert shown in result.stderr
    assert hidden not in result.stderr


def test_colour_is_for_terminals(write_ini: WriteIni) -> None:
    """What is piped has no escape sequences, whatever a terminal would get."""
    result = run("check", "--ini", write_ini("ops"), TERM="xterm-256color", COLUMNS="300")
    assert "\x1b" not in result.stdout + result.stderr
    assert "\x1b" not in run("--help", TERM="xterm-256color").stdout


# --- what it says of mistakes --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["wroker"], 2, "There is no command 'wroker'. Did you mean 'worker'?"),
        (["dead", "lsit"], 2, "list"),
        (["worker", "--bursst"], 2, "--burst"),
        (["send-test"], 2, "CHANNEL"),
        (["send-test", "opps"], 2, "Did you mean 'ops'?"),
        (["pause", "ops"], 2, "mode = sync"),
        (["attempts", "--since", "yesterday"], 2, "'yesterday' is no time; write how long ago"),
        (["attempts", "--outcome", "lost"], 2, "delivered"),
        (["dead", "replay"], 2, "Say what is meant: --channel, --event, or --all."),
        (["dead", "purge", "--reason", "x"], 2, "Say what is meant"),
        (["replay", "--all", "--event", "e"], 2, "--all means all"),
        (["explain"], 2, "Give an event's id, or a uri"),
        (["send-test", "ops", "--data", "[]"], 2, "give a JSON object"),
        (["channels", "--ini", "no.ini"], 78, "there is no file 'no.ini'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_message_and_a_code(
    write_ini: WriteIni, arguments: list[str], code: int, said: str
) -> None:
    """Whatever is typed wrongly: a code, a message on stderr, and never a traceback."""
    result = run(*arguments, KINTO_INI=write_ini("ops"))
    assert result.returncode == code, result.stderr
    assert said in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadSettings([]), 78),
        (QueueUnavailable("redis://localhost", "refused"), 69),
        (OutboxUnavailable("away"), 1),
        (PluginError("slack", "broken"), 1),
        (DispatchError("something else"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_have_documented_codes(error: DispatchError, code: int) -> None:
    """A program can tell a bad configuration from a queue that is away."""
    assert exit_code(error) == code


def test_a_single_percent_is_explained(write_ini: WriteIni) -> None:
    """An ini takes `%` for the start of a substitution: the error names the setting."""
    more = "kinto.event_listeners.ops.subject = 100% sure\n"
    result = run("check", "--json", "--ini", write_ini("ops", more))
    assert result.returncode == 78
    assert "ops.subject: a single % in the value; expected %% for each %" in result.stdout


def test_an_unreadable_ini_is_explained(tmp_path: Path) -> None:
    """What no parser reads is said as one message that names the file."""
    ini = tmp_path / "kinto.ini"
    ini.write_text("kinto = good\n")
    result = run("channels", "--ini", str(ini))
    assert result.returncode == 78
    assert str(ini) in result.stderr
    assert "Say with --ini or KINTO_INI which file Kinto is started with." in result.stderr
    assert "Traceback" not in result.stderr


def test_a_broken_pipe_is_quiet(write_ini: WriteIni) -> None:
    """Whoever stops reading, as `head` does, gets no complaint."""
    with subprocess.Popen(
        [PROGRAM, "channels", "--ini", write_ini("ops")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
