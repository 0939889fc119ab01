"""Dead letters are found, read, brought back to life, or destroyed by somebody who means it."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from kinto_dispatch.cli.dead_letters import ACTIONS, Filter, carry_out, count
from kinto_dispatch.testing.builders import make_event


if TYPE_CHECKING:
    from tests.integration.commands.conftest import Site


@pytest.fixture
def graveyard(site: Site) -> Site:
    """Three dead letters: two of ``ops``, one of ``news``."""
    site.bury("ops", make_event(id="one"), "refused", "unknown Address")
    site.bury("ops", make_event(id="two"), "failed", "time-out")
    site.bury("news", make_event(id="two"), "poison", "killed its process")
    return site


def keys(site: Site) -> set[str]:
    """The keys of all dead letters there are."""
    result = site.run("dead", "list", "--json")
    return {row["key"] for row in site.json("dead", "list", code=result.exit_code)}


def test_the_list_has_stable_keys(graveyard: Site) -> None:
    """What died, of what, when, and after how many attempts."""
    rows = graveyard.json("dead", "list")
    assert [row["key"] for row in rows] == ["one:ops", "two:ops", "two:news"]
    assert rows[0].pop("at").endswith("+00:00")
    assert rows[0] == {
        "event_id": "one",
        "key": "one:ops",
        "channel": "ops",
        "kind": "refused",
        "reason": "unknown Address",
        "attempts": 0,
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--channel", "ops"], {"one:ops", "two:ops"}),
        (["--channel", "ops", "--event", "two"], {"two:ops"}),
        (["--event", "two"], {"two:ops", "two:news"}),
        (["--reason", "address"], {"one:ops"}),
        (["--older-than", "1h"], set()),
        (["--since", "1h"], {"one:ops", "two:ops", "two:news"}),
        (["--until", "1h"], set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_filters(graveyard: Site, options: list[str], expected: set[str]) -> None:
    """By channel, event, part of the reason, and time; code 3 says that nothing matched."""
    rows = graveyard.json("dead", "list", *options, code=0 if expected else 3)
    assert {row["key"] for row in rows} == expected


def test_show_has_the_event(graveyard: Site) -> None:
    """Everything about a dead letter, the event as it was captured."""
    rows = graveyard.json("dead", "show", "one")
    assert set(rows[0]) == {
        "event_id",
        "key",
        "channel",
        "kind",
        "reason",
        "attempts",
        "at",
        "event",
    }
    assert rows[0]["event"]["changes"][0]["new"]["title"] == "Hello"
    text = graveyard.run("dead", "show", "two", "--channel", "news").stdout
    assert "killed its process" in text
    assert "Hello" in text
    assert graveyard.run("dead", "show", "three").exit_code == 3


def test_a_body_that_is_no_event_can_be_shown(site: Site) -> None:
    """What could not be decoded is shown as text."""

    async def plant(queue):
        from kinto_dispatch.queue.values import DeadEntry

        cursor = (await queue.cursors(["ops"]))["ops"]
        letter = DeadEntry("log-1-0:ops", b"\xffno json", "failed", "not an event")
        await queue.route("ops", cursor, cursor, [], [letter])

    site.with_queue(plant)
    assert site.json("dead", "show", "log-1-0")[0]["event"] == "\\xffno json"


def test_replay_puts_letters_back_as_marked_first_attempts(graveyard: Site) -> None:
    """Event id and key stay the same; the attempt says that it is a replay."""
    result = graveyard.json("dead", "replay", "--channel", "ops", "--yes")
    assert result == {"matched": 2, "replayed": 2, "dry_run": False}
    assert keys(graveyard) == {"two:news"}
    graveyard.work()
    rows = graveyard.json("attempts", "--channel", "ops")
    assert {row["key"] for row in rows} == {"one:ops", "two:ops"}
    assert all(row["replay"] and row["attempt"] == 1 for row in rows)


def test_what_dies_again_can_be_replayed_again(graveyard: Site) -> None:
    """A letter that fails once more is a new one."""
    graveyard.set("ops", answer="reject")
    for _ in range(2):
        result = graveyard.json("dead", "replay", "--event", "one", "--yes")
        assert result["replayed"] == 1
        graveyard.work()
    assert "one:ops" in keys(graveyard)


def test_letters_of_a_channel_that_is_gone_are_shown_and_purged_by_name(graveyard: Site) -> None:
    """They are not out of sight; what destroys all of them means those of the channels there are,
    and nothing is put where nobody delivers it."""

    async def plant(queue):
        await queue.register(["former"])

    graveyard.with_queue(plant)
    graveyard.bury("former", make_event(id="old"), "refused", "nobody there")
    assert keys(graveyard) == {"one:ops", "two:ops", "two:news", "old:former"}
    assert [row["key"] for row in graveyard.json("dead", "show", "old")] == ["old:former"]
    refused = graveyard.run("dead", "replay", "--channel", "former", "--yes")
    assert refused.exit_code == 2
    assert "There is no channel 'former'" in refused.stderr
    assert graveyard.json("dead", "purge", "--all", "--yes")["purged"] == 3
    assert graveyard.json("dead", "purge", "--channel", "former", "--yes")["purged"] == 1
    assert keys(graveyard) == set()
    unknown = graveyard.run("dead", "list", "--channel", "formr")
    assert (unknown.exit_code, "There is no channel 'formr'" in unknown.stderr) == (2, True)


@pytest.mark.parametrize("name", ["replay", "purge"])
def test_only_what_was_counted_is_touched(graveyard: Site, name: str) -> None:
    """What dies after the question is left alone, or a replay that fails at once never ends."""
    chosen = Filter(lanes=["ops", "news"])
    plan = graveyard.with_queue(lambda queue: count(queue, chosen))
    graveyard.bury("ops", make_event(id="three"))
    done = graveyard.with_queue(lambda queue: carry_out(queue, ACTIONS[name], chosen, plan))
    assert done == 3
    assert keys(graveyard) == {"three:ops"}


def test_purge_destroys(graveyard: Site) -> None:
    """What is purged is gone, and nothing else."""
    result = graveyard.json("dead", "purge", "--event", "two", "--yes")
    assert result == {"matched": 2, "purged": 2, "dry_run": False}
    assert keys(graveyard) == {"one:ops"}


def test_filters_narrow_what_all_means(graveyard: Site) -> None:
    """``--all`` with a reason means those of all channels that have the reason."""
    result = graveyard.json("dead", "purge", "--all", "--reason", "process", "--yes")
    assert result["purged"] == 1
    assert keys(graveyard) == {"one:ops", "two:ops"}


@pytest.mark.parametrize("verb", ["replay", "purge"])
def test_a_dry_run_does_nothing(graveyard: Site, verb: str) -> None:
    """It counts and leaves everything as it was, without a question."""
    result = graveyard.json("dead", verb, "--all", "--dry-run")
    assert result["matched"] == 3
    assert result["dry_run"] is True
    assert len(keys(graveyard)) == 3


@pytest.mark.parametrize("verb", ["replay", "purge"])
@pytest.mark.parametrize(
    ("answer", "code", "left"), [("y\n", 0, 0), ("n\n", 1, 3), ("\n", 1, 3), ("", 2, 3)]
)
def test_it_asks_before(graveyard: Site, verb: str, answer: str, code: int, left: int) -> None:
    """Anything but yes leaves everything as it was; the question is on stderr."""
    result = graveyard.run("dead", verb, "--all", given=answer)
    assert result.exit_code == code, result.output
    assert "3 dead letters of ops, news" in result.stderr
    assert result.stdout == ""
    assert len(keys(graveyard)) == left


def test_ctrl_c_at_the_question_ends_with_130(graveyard: Site) -> None:
    """As a shell expects it, without a traceback, and nothing is done."""
    with graveyard.start("dead", "purge", "--all", stdin=subprocess.PIPE) as purge:
        assert purge.stderr is not None
        said = ""
        while not said.endswith("[y/N]: "):
            said += purge.stderr.read(1)
        purge.send_signal(signal.SIGINT)
        _, rest = purge.communicate(timeout=10)
    assert purge.returncode == 128 + signal.SIGINT
    assert rest.strip() == ""
    assert len(keys(graveyard)) == 3


@pytest.mark.parametrize("verb", ["replay", "purge"])
def test_nothing_to_do_is_said(site: Site, verb: str) -> None:
    """Without a question, and with a code of its own."""
    result = site.run("dead", verb, "--all")
    assert result.exit_code == 3
    assert "No dead letter matches." in result.stderr


def test_many_letters_are_replayed_page_by_page(site: Site) -> None:
    """More than a page of dead letters comes back complete."""

    async def plant(queue):
        from kinto_dispatch.queue.values import DeadEntry

        cursor = (await queue.cursors(["ops"]))["ops"]
        dead = [DeadEntry(f"e{number}:ops", b"{}", "failed", "x") for number in range(1201)]
        await queue.route("ops", cursor, cursor, [], dead)

    site.with_queue(plant)
    assert site.json("dead", "replay", "--all", "--yes")["replayed"] == 1201
    lane = site.json("status")["lanes"][0]
    assert (lane["waiting"], lane["dead"]) == (1201, 0)
