"""What commands say of the configuration and of the queue."""

from __future__ import annotations

import asyncio
import re
import socketserver
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.values import Entry
from kinto_dispatch.testing.builders import make_event


if TYPE_CHECKING:
    from tests.integration.commands.conftest import Site

ROOT = Path(__file__).parents[3]
BASE = "kinto.event_listeners.dispatch."


def test_channels_has_stable_keys(site: Site) -> None:
    """Each channel with its plugin, mode, phase where it has one, and its route on one line."""
    rows = {row["name"]: row for row in site.json("channels")}
    assert rows["ops"] == {
        "name": "ops",
        "plugin": "commands_channel:Channel",
        "mode": "async",
        "phase": None,
        "route": "everything",
        "status": "loaded",
        "reason": None,
    }
    assert rows["admins"]["mode"] == "sync"
    assert rows["admins"]["phase"] == "after_commit"
    assert rows["news"]["route"] == (
        "actions = create update; uris = /buckets/blog/collections/*/records/**; "
        "when = new.title != 'secret'"
    )


def test_a_channel_that_failed_is_listed_with_its_reason(site: Site) -> None:
    """A plugin that cannot be imported is no reason to list nothing."""
    (site.directory / "commands_broken.py").write_text("class Channel: pass\nraise OSError('boo')")
    site.set("ops", plugin="commands_broken:Channel")
    rows = {row["name"]: row for row in site.json("channels")}
    assert rows["ops"]["status"] == "failed"
    assert "boo" in rows["ops"]["reason"]
    assert rows["news"]["status"] == "loaded"


def test_plugins_has_stable_keys(site: Site) -> None:
    """Each plugin that is installed or used, with its hooks."""
    rows = {row["name"]: row for row in site.json("plugins")}
    assert rows["commands_channel:Channel"] == {
        "name": "commands_channel:Channel",
        "distribution": None,
        "version": None,
        "status": "loaded",
        "reason": None,
        "hooks": ["on_event", "on_event_async"],
    }


def test_plugins_needs_no_working_ini(site: Site) -> None:
    """What is installed can be listed while the ini is still wrong; that is said on stderr."""
    site.set("ops", no_such_setting="1")
    result = site.run("plugins", "--load", "--json")
    assert "no_such_setting" in result.stderr
    assert result.exit_code in (0, 3)
    assert result.stdout.startswith("[")


# --- check ---------------------------------------------------------------------------------------


def findings(site: Site, code: int = 0) -> dict[str, tuple[str, str]]:
    """What ``check`` found: for each thing its worst status and all details."""
    found: dict[str, tuple[str, str]] = {}
    for row in site.json("check", code=code):
        assert set(row) == {"check", "status", "detail", "advice"}
        status, detail = found.get(row["check"], ("ok", ""))
        worst = row["status"] if row["status"] != "ok" else status
        found[row["check"]] = (worst, f"{detail}{row['detail']} {row['advice']}\n")
    return found


def test_check_passes_what_works(site: Site) -> None:
    """Everything is found in order, with a warning that nobody delivers."""
    found = findings(site)
    assert {name: status for name, (status, _) in found.items()} == {
        "settings": "ok",
        "channel ops": "ok",
        "channel news": "ok",
        "channel admins": "ok",
        "outbox": "ok",
        "queue": "ok",
        "worker": "warning",
    }
    assert "valkey" in found["queue"][1]


def test_check_tells_all_mistakes_at_once(site: Site) -> None:
    """Settings, routes, templates and plugins: everything that stops the start, with advice."""
    site.set("ops", max_atempts="3", template="{{ event.")
    site.set("news", when="new.title ==", uris="/buckets/default/x")
    site.set("admins", plugin="emial")
    _, text = findings(site, code=78)["settings"]
    for part in ("max_attempts", "ops.template", "news.when", "news.uris", "'emial'"):
        assert part in text


def test_check_points_at_the_character(site: Site) -> None:
    """Below the expression, as it stands in the ini."""
    site.set("news", when="new.price  > 100 && old")
    lines = site.run("check").stdout.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.endswith("^")]
    assert lines[at].index("^") == lines[at - 1].index("100")
    assert lines[at - 1].endswith("new.price  > 100 && old")


def test_check_finds_a_failed_channel(site: Site) -> None:
    """A plugin that cannot be loaded is an error here, although the other channels would run."""
    (site.directory / "commands_broken2.py").write_text("raise OSError('boo')")
    site.set("ops", plugin="commands_broken2:Channel")
    found = findings(site, code=78)
    assert found["channel ops"][0] == "error"
    assert "boo" in found["channel ops"][1]
    assert found["channel news"][0] == "ok"
    assert found["queue"][0] == "ok"


def test_check_warns_of_a_veto_that_undoes_nothing(site: Site) -> None:
    """On memory storage, which is what these commands have."""
    assert findings(site)["channel admins"][0] == "ok"
    site.set("admins", phase="before_commit")
    status, text = findings(site)["channel admins"]
    assert status == "warning"
    assert "this storage cannot undo a write" in text


def test_check_looks_for_events_of_other_plugins(site: Site) -> None:
    """Their classes may be missing where only a worker runs, so that is a warning."""
    events = "kinto.event_listeners.dispatch.events"
    site.set_all({events: "smtplib.SMTP no_such_plugin.Event"})
    status, text = findings(site)["events"]
    assert status == "warning"
    assert "no_such_plugin.Event, whose module cannot be imported" in text
    assert "smtplib.SMTP, which has no request" in text
    assert "Where Kinto runs, this would stop its start." in text


def test_check_warns_of_open_channels_without_a_bound(site: Site) -> None:
    """Users can subscribe to them, and receivers write back."""
    site.set("ops", subscribable="true")
    site.set("news", subscribable="true", rate_limit="60/minute")
    found = findings(site)
    assert found["channel ops"][0] == "warning"
    assert "open for hooks without rate_limit" in found["channel ops"][1]
    assert found["channel news"][0] == "ok"


def test_check_finds_an_unfit_queue(site: Site) -> None:
    """A server that may drop what is queued is a warning, not a refusal."""

    async def evict(policy: str) -> None:
        import redis.asyncio

        async with redis.asyncio.Redis.from_url(site.settings[f"{BASE}queue_url"]) as client:
            await client.config_set("maxmemory-policy", policy)

    asyncio.run(evict("allkeys-lru"))
    try:
        status, text = findings(site)["queue"]
    finally:
        asyncio.run(evict("noeviction"))
    assert status == "warning"
    assert "maxmemory-policy is allkeys-lru" in text
    assert "noeviction" in text


def test_check_finds_an_unreachable_queue(site: Site) -> None:
    """Exit code 69 says that only the queue is missing."""
    site.set_all({f"{BASE}queue_url": "redis://:s3cret@127.0.0.1:1/0"})
    status, text = findings(site, code=69)["queue"]
    assert status == "error"
    assert "127.0.0.1:1" in text
    assert "s3cret" not in text


def test_check_finds_a_server_that_rejects_what_it_is_asked(site: Site) -> None:
    """Something listens there that is no queue server: said as a finding like any other."""

    class Stranger(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while self.request.recv(65_536):
                self.request.sendall(b"-ERR what do you want\r\n" * 2)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        site.set_all({f"{BASE}queue_url": f"redis://127.0.0.1:{server.server_address[1]}/0"})
        status, text = findings(site, code=69)["queue"]
        server.shutdown()
    assert status == "error"
    assert "rejected a request (what do you want)" in text


def test_check_does_not_start_the_embedded_server(site: Site) -> None:
    """Without ``queue_url`` it says that the server starts on first use, and leaves it at that."""
    del site.settings[f"{BASE}queue_url"]
    site.write()
    status, text = findings(site)["queue"]
    assert status == "ok"
    assert "embedded" in text
    assert "not running (starts on first use)" in text
    assert not (site.directory / "queue").exists()


def test_check_attaches_to_an_embedded_server_that_runs(site: Site) -> None:
    """What somebody else has started is asked how it is."""
    from kinto_dispatch.queue.embedded import ensure_server, stop_server

    del site.settings[f"{BASE}queue_url"]
    site.write()
    ensure_server(site.directory / "queue")
    try:
        assert "valkey" in findings(site)["queue"][1]
    finally:
        stop_server(site.directory / "queue")


def test_commands_start_the_embedded_server(site: Site) -> None:
    """What it keeps is on its disk: to list it, the server has to run."""
    from kinto_dispatch.queue.embedded import stop_server

    del site.settings[f"{BASE}queue_url"]
    site.write()
    try:
        site.publish()
        site.work()
        stop_server(site.directory / "queue")
        assert site.json("attempts", "--channel", "ops")[0]["outcome"] == "delivered"
    finally:
        stop_server(site.directory / "queue")


def test_check_asks_no_queue_where_nothing_needs_it(site: Site) -> None:
    """Sync channels run in the request."""
    site.set_all({f"{BASE}channels": "admins", f"{BASE}queue_url": "redis://127.0.0.1:1/0"})
    for name in ("ops", "news"):
        for key in [key for key in site.settings if f"channels.{name}." in key]:
            del site.settings[key]
    site.write()
    assert set(findings(site)) == {"settings", "channel admins"}


@pytest.mark.postgresql
def test_check_finds_a_missing_outbox(site: Site, postgresql_url: str) -> None:
    """With PostgreSQL storage the table has to be there: run kinto migrate."""
    site.set_all(
        {
            "kinto.storage_backend": "kinto.core.storage.postgresql",
            "kinto.storage_url": postgresql_url,
        }
    )
    status, text = findings(site, code=78)["outbox"]
    assert status == "error"
    assert "kinto migrate" in text
    assert "LINE" not in text
    result = site.run("status")
    assert result.exit_code == 1
    assert "kinto migrate" in result.stderr


@pytest.mark.postgresql
def test_check_finds_a_database_that_is_not_there(site: Site, postgresql_url: str) -> None:
    """The reason in a line, without the driver's guesses, and what to do."""
    name = urlsplit(postgresql_url).path
    gone = postgresql_url.replace(name, f"{name}_gone", 1)
    backend = "kinto.core.storage.postgresql"
    for url, advice in (
        (gone, "Create it, or correct its name in storage_url."),
        ("postgresql://u:s3cret@127.0.0.1:1/db", "Check that PostgreSQL runs"),
    ):
        site.set_all({"kinto.storage_backend": backend, "kinto.storage_url": url})
        status, text = findings(site, code=78)["outbox"]
        assert status == "error"
        assert advice in text
        assert "Is the server running" not in text
        assert "s3cret" not in text


def test_check_finds_a_channel_that_no_worker_runs(site: Site) -> None:
    """As after an ini was changed and its worker was not started again."""

    async def plant(queue: Queue, *channels: str) -> None:
        await queue.beat("w", {"name": "w", "channels": list(channels)}, 60)

    site.with_queue(lambda queue: plant(queue, "ops"))
    status, text = findings(site)["worker"]
    assert (status, text.partition(" Start one")[0]) == ("warning", "none runs: news")
    site.with_queue(lambda queue: plant(queue, "ops", "news"))
    assert findings(site)["worker"] == ("ok", "1 running \n")


def test_check_is_readable(site: Site) -> None:
    """One line each, with the status as a word."""
    lines = site.run("check").stdout.splitlines()
    assert any("ok" in line and "settings:" in line for line in lines)
    assert any("warning" in line and "worker:" in line for line in lines)


# --- status --------------------------------------------------------------------------------------


def test_status_has_stable_keys(site: Site) -> None:
    """Lanes, outbox and workers, the age of what waits first."""
    site.publish()
    site.work()
    event = make_event()
    site.bury("ops", event)
    entry = Entry(f"{event.id}:ops", event.encode())

    async def plant(queue):
        await queue.enqueue("ops", [entry])
        info = {"host": "h", "pid": 1, "version": "0", "started_at": 0.0, "channels": ["ops"]}
        await queue.beat("w", {"name": "w", "in_flight": 0, **info}, 60)

    site.with_queue(plant)
    status = site.json("status")
    assert set(status) == {"lanes", "outbox", "workers", "queue"}
    ops, news = status["lanes"]
    age = ops.pop("oldest_waiting_seconds")
    assert 0 <= age < 60
    assert ops == {
        "channel": "ops",
        "waiting": 1,
        "in_flight": 0,
        "retry": 0,
        "collecting": 0,
        "dead": 1,
        "paused": False,
        "breaker": "closed",
        "configured": True,
    }
    assert news["oldest_waiting_seconds"] is None
    assert status["outbox"] is None
    assert status["workers"] == [
        {
            "name": "w",
            "host": "h",
            "pid": 1,
            "version": "0",
            "started_at": "1970-01-01T00:00:00.000+00:00",
            "channels": ["ops"],
            "in_flight": 0,
            "stuck": [],
        }
    ]


def test_what_a_channel_left_behind_is_shown(site: Site) -> None:
    """Renamed, removed, or in another ini: what waits in its lane, or is dead there, is not out of
    sight; a lane with nothing in it is."""

    async def plant(queue):
        await queue.register(["former", "empty"])
        await queue.enqueue("former", [Entry("k", make_event().encode())])

    site.with_queue(plant)
    lanes = {lane["channel"]: lane for lane in site.json("status")["lanes"]}
    assert "empty" not in lanes
    assert {name: lane["configured"] for name, lane in lanes.items()} == {
        "ops": True,
        "news": True,
        "former": False,
    }
    assert lanes["former"]["waiting"] == 1
    assert "no channel of this name in the ini" in site.run("status").stdout
    status, text = findings(site)["lanes"]
    assert status == "warning"
    assert "lane 'former' has no channel in this ini, but 1 to deliver and 0 dead" in text


def test_status_tells_whose_threads_hang(site: Site) -> None:
    """A worker says so of its lanes."""

    async def plant(queue):
        await queue.beat("w", {"name": "w", "channels": ["ops"], "stuck": ["ops"]}, 60)

    site.with_queue(plant)
    assert site.json("status")["workers"][0]["stuck"] == ["ops"]
    assert "threads hang in their hooks: ops" in site.run("status").stdout


@pytest.mark.postgresql
def test_status_counts_the_outbox(site: Site, postgresql_url: str) -> None:
    """Rows that are committed and not yet relayed are counted, with the age of the oldest."""
    from kinto_dispatch.testing.outbox import open_storage

    open_storage(postgresql_url).session_factory.get_bind().dispose()
    site.set_all(
        {
            "kinto.storage_backend": "kinto.core.storage.postgresql",
            "kinto.storage_url": postgresql_url,
        }
    )
    assert site.json("status")["outbox"] == {"waiting": 0, "oldest_waiting_seconds": None}


def test_status_says_that_a_worker_is_needed(site: Site) -> None:
    """What no worker has routed yet is in no lane, but it waits."""
    site.publish()
    lane = site.json("status")["lanes"][0]
    assert lane["waiting"] == 0
    assert lane["oldest_waiting_seconds"] is not None
    assert "waits in the log for a worker" in site.run("status").stdout


def test_status_without_a_queue(site: Site) -> None:
    """An unreachable queue is one message without the password, and code 69 (B20, B30)."""
    site.set_all({f"{BASE}queue_url": "redis://:s3cret@127.0.0.1:1/0"})
    result = site.run("status")
    assert result.exit_code == 69
    assert result.stdout == ""
    assert "127.0.0.1:1" in result.stderr
    assert "s3cret" not in result.stderr


def test_a_paused_lane_fills_until_it_is_resumed(site: Site) -> None:
    """``pause`` holds for all workers; ``resume`` lets them go on."""
    assert site.run("pause", "ops").exit_code == 0
    assert site.json("status")["lanes"][0]["paused"] is True
    site.publish()
    site.work()
    assert site.json("status")["lanes"][0]["waiting"] == 1
    assert "paused" in site.run("status").stdout
    assert site.run("resume", "ops").exit_code == 0
    site.work()
    lane = site.json("status")["lanes"][0]
    assert (lane["paused"], lane["waiting"]) == (False, 0)


# --- attempts ------------------------------------------------------------------------------------


def test_attempts_has_stable_keys(site: Site) -> None:
    """Each attempt with what came of it."""
    event = site.publish()
    site.work()
    ops = next(row for row in site.json("attempts") if row["channel"] == "ops")
    assert 0 <= ops.pop("duration_seconds") < 60
    at = datetime.fromisoformat(ops.pop("at"))
    assert timedelta(0) <= datetime.now(UTC) - at < timedelta(minutes=1)
    assert ops == {
        "event_id": event.id,
        "key": f"{event.id}:ops",
        "channel": "ops",
        "attempt": 1,
        "outcome": "delivered",
        "reason": "taken",
        "replay": False,
    }


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ([], 3),
        (["--channel", "ops"], 2),
        (["--channel", "ops", "--channel", "news"], 3),
        (["--outcome", "delivered"], 1),
        (["--outcome", "rejected"], 2),
        (["--outcome", "poison"], 0),
        (["--since", "1h"], 3),
        (["--until", "1h"], 0),
        (["--limit", "1"], 1),
        (["--event", "none"], 0),
        (["--event", "first"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_attempts_are_filtered(site: Site, options: list[str], count: int) -> None:
    """By channel, event, outcome and time; code 3 says that nothing matched."""
    site.set("ops", answer="reject")
    site.publish(id="first", action="delete")
    site.publish(id="second")
    site.work()
    rows = site.json("attempts", *options, code=0 if count else 3)
    assert len(rows) == count


# --- the reference -------------------------------------------------------------------------------


def documented(name: str) -> set[str]:
    """The keys of an output in the reference of the commands."""
    lines = (ROOT / "docs/reference/commands.md").read_text().splitlines()
    row = next(line for line in lines if f"{name} |" in line and line.startswith("| `"))
    return set(re.findall(r"`([a-z_]+)`", row.split("|")[2]))


def test_keys_are_documented(site: Site) -> None:
    """What programs may rely on is what the reference says."""
    site.publish(id="e")
    site.work()
    site.bury("ops", make_event(id="e"))
    explanation = site.json("explain", "e")
    assert documented("`check`") == set(site.json("check")[0])
    assert documented("`plugins`") == set(site.json("plugins")[0])
    assert documented("`channels`") == set(site.json("channels")[0])
    assert documented("`send-test`") == set(site.json("send-test", "ops"))
    assert documented("`status`") == set(site.json("status"))
    assert documented("`status` lanes") == set(site.json("status")["lanes"][0])
    assert documented("`attempts`, `tail`") == set(site.json("attempts")[0])
    assert documented("`dead list`") == set(site.json("dead", "list")[0])
    assert documented("`dead replay`, `replay`") == set(site.json("replay", "--all", "--dry-run"))
    assert documented("`dead purge`") == set(site.json("dead", "purge", "--all", "--dry-run"))
    assert documented("`tail --events`") == set(explanation["event"])
    assert documented("`explain` channels") == set(explanation["channels"][0])
    delivery = explanation["channels"][0]["deliveries"][0]
    assert documented("`explain` deliveries") == set(delivery)


def test_what_a_destination_answered_cannot_reach_the_terminal(site: Site) -> None:
    """Control characters in a reason are shown, not obeyed."""
    plugin = site.directory / "commands_rude.py"
    answer = "Rejected('\\x1b[2Jgone\\nnext')"
    plugin.write_text(
        "from kinto_dispatch import Rejected, hookimpl\n"
        "class Channel:\n"
        "    @hookimpl\n"
        f"    def on_event_async(self): return {answer}\n"
    )
    site.set("ops", plugin="commands_rude:Channel")
    site.publish()
    site.work()
    for command in (["attempts"], ["dead", "list"]):
        out = site.run(*command, "--channel", "ops").stdout
        assert "\\x1b[2Jgone next" in out
        assert "\x1b" not in out
