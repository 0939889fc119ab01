"""A canary in every place where an operator writes a secret, and where it is not found again."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from redis import Redis

from kinto_dispatch.cli import cli
from kinto_dispatch.plugins import configure
from kinto_dispatch.testing import LocalHttp, LocalSmtp, LocalValkey, ReceivedRequest
from kinto_dispatch.testing.waiting import eventually


if TYPE_CHECKING:
    from tests.conftest import Deploy, Deployment

CANARY = "c4nary"
"""Begins every secret; what follows says whose it is."""

PLUGIN = """
from pydantic import BaseModel, SecretStr

from kinto_dispatch import Rejected, hookimpl


class Settings(BaseModel):
    token: SecretStr


class Channel:
    Settings = Settings

    def __init__(self, settings):
        self.settings = settings

    @hookimpl
    def on_event(self, event):
        raise RuntimeError(f"no luck with {self.settings.token.get_secret_value()}")

    @hookimpl
    async def on_event_async(self, event, delivery):
        if delivery.attempt > 1:
            return Rejected(f"really no luck with {self.settings.token.get_secret_value()}")
        self.on_event(event)
"""
"""Somebody else's, who quotes what was trusted to him."""

COMMANDS = ["check", "status", "attempts", "dead list"]
CHANNELS = ["hook", "room", "bot", "mail", "any", "list", "own"]


class Gossip(LocalHttp):
    """Says back all that it was sent: first that it is busy, then that it will not have it."""

    def respond(self, handler: Any, request: ReceivedRequest) -> None:
        told = f"{request.path} {dict(request.headers)} {request.body.decode('utf-8', 'replace')}"
        again = any(request.path == before.path for before in self.requests)
        self.answer(400 if again else 503, told.encode(), {"X-Said": request.path})
        super().respond(handler, request)


@pytest.fixture
def gossip() -> Iterator[Gossip]:
    """A receiver that keeps nothing to itself."""
    with Gossip() as server:
        yield server


@pytest.fixture
def locked_valkey(tmp_path: Path) -> Iterator[LocalValkey]:
    """A queue server with a password."""
    (tmp_path / "valkey").mkdir()
    with LocalValkey(tmp_path / "valkey") as server:
        with Redis.from_url(server.url) as client:
            client.config_set("requirepass", f"{CANARY}Queue")
        yield server


def secret_channels(gossip: Gossip, smtp: LocalSmtp) -> Mapping[str, Mapping[str, str]]:
    """Each plugin with all the secrets that it takes."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        nobody = f"127.0.0.1:{probe.getsockname()[1]}"
    near = {"allow_networks": "127.0.0.0/8"}
    own = {"plugin": "quoting_channel:Channel", "token": f"{CANARY}Token"}
    channels = {
        "hook": {
            "plugin": "webhook",
            "url": f"http://x:{CANARY}Login@{gossip.address}/{CANARY}Path?key={CANARY}Query",
            "secrets": "whsec_" + f"{CANARY}Signing".ljust(32, "0"),
            "headers": json.dumps({"X-Key": f"{CANARY}Header"}),
            **near,
        },
        "room": {
            "plugin": "slack",
            "webhook_url": f"{gossip.url}/services/T0/B0/{CANARY}Room",
            **near,
        },
        "bot": {
            "plugin": "slack",
            "token": f"xoxb-{CANARY}Bot",
            "conversation": "C1",
            "api_url": f"{gossip.url}/api/",
            **near,
        },
        "mail": {
            "plugin": "email",
            "server": smtp.address,
            "username": "kinto",
            "password": f"{CANARY}Password",
            "from": "kinto@example.com",
            "recipients": "ann@example.com",
        },
        "any": {
            "plugin": "apprise",
            "url": f"json://x:{CANARY}User@{gossip.address}/{CANARY}Any?+X-Key={CANARY}Plus",
            **near,
        },
        "list": {"plugin": "redis", "url": f"redis://x:{CANARY}List@{nobody}/0", "listname": "l"},
        "own": own,
        "gate": {**own, "mode": "sync"},
    }
    patience = {"max_attempts": "2", "retry_delays_seconds": "0.1", "resources": "record"}
    return {
        name: options if name == "gate" else {**options, **patience}
        for name, options in channels.items()
    }


def test_no_secret_is_found_again(
    deploy: Deploy,
    gossip: Gossip,
    locked_valkey: LocalValkey,
    postgresql_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither in the logs of Kinto and of a worker at their lowest level, nor in what the queue
    keeps on its disk, nor in what any command or any page of Kinto says, while things work and
    while they do not (B20)."""
    (tmp_path / "quoting_channel.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    with LocalSmtp(password="another") as smtp:
        deployment = deploy(
            secret_channels(gossip, smtp),
            kinto={"kinto.storage_url": postgresql_url.replace("@", f":{CANARY}Storage@", 1)},
            queue_url=f"{locked_valkey.url}?password={CANARY}Queue",
        )
        deployment.ini.write_text(deployment.ini.read_text().replace("= INFO", "= DEBUG"))
        said: dict[str, str] = {}
        with deployment.kinto, deployment.worker("-v") as worker:
            deployment.make_collections()
            deployment.put("r", title="x")
            eventually(lambda: not still_tried(deployment), "everything to be given up", 60)
            assert len(gossip.requests) > len(CHANNELS)
            event_id = deployment.attempts("hook")[-1]["event_id"]
            telling = [f"{what} {event_id}" for what in ("explain", "dead show")]
            tests = [f"send-test {name}" for name in CHANNELS]
            ask(deployment, [*COMMANDS, "channels", "plugins", *telling, *tests], said)
            said["disk"] = everything_in(locked_valkey.directory)
            locked_valkey.kill()
            deployment.put("r", title="y")
            deployment.put("r", title="z")
            ask(deployment, COMMANDS, said, suffix=" without a queue")
            eventually(lambda: "queue" in worker.said.splitlines()[-1], "the absence to be told")
        said["log of the worker"] = worker.said
        said["log of Kinto"] = deployment.kinto.log_file.read_text(errors="replace")
        said["repr"] = shown(deployment)
        said["log of the tests"] = caplog.text
    assert {where: found for where, text in said.items() if (found := secrets_in(text))} == {}
    assert all("no luck with " in said[where] for where in ("log of Kinto", "log of the worker"))


def still_tried(deployment: Deployment) -> list[str]:
    """The channels that have not given up on the record."""
    lanes = deployment.status()
    return [one.channel for one in lanes if one.channel in CHANNELS and not one.dead]


def ask(
    deployment: Deployment, commands: Iterable[str], said: dict[str, str], suffix: str = ""
) -> None:
    """Run commands, and get what Kinto shows to anybody."""
    for command in commands:
        for flag in ("-v", "--json"):
            words = [*command.split(), "--ini", str(deployment.ini), flag]
            result = CliRunner().invoke(cli, words, prog_name="kinto-dispatch")
            said[f"{command} {flag}{suffix}"] = f"{result.output} {result.exception!r}"
    for path in ("/", "/__heartbeat__", "/buckets/b"):
        said[f"GET {path}{suffix}"] = deployment.request("GET", path).text


def shown(deployment: Deployment) -> str:
    """What a debugger or a traceback shows of the configuration."""
    configuration = configure(deployment.settings, {})
    objects: list[object] = [configuration, configuration.settings]
    for channel in configuration.channels:
        objects += [channel, channel.settings, channel.config]
    return "\n".join(f"{one!r} {one!s}" for one in objects)


def everything_in(directory: Path) -> str:
    """All files below it."""
    return "".join(
        path.read_bytes().decode("latin-1") for path in directory.rglob("*") if path.is_file()
    )


def secrets_in(text: str) -> list[str]:
    """The canaries in it with what stands around them; also as base64 has them."""
    forms = [CANARY, *(encoded(before) for before in (b"", b"x", b"xx"))]
    return [text[max(0, at - 60) : at + 40] for form in forms if (at := text.find(form)) >= 0]


def encoded(before: bytes) -> str:
    """The canary in the middle of something in base64, without what depends on the rest."""
    text = base64.b64encode(before + CANARY.encode()).decode().rstrip("=")
    return text[-(-len(before) * 8 // 6) : len(before + CANARY.encode()) * 8 // 6]


def test_it_would_be_found() -> None:
    """In the middle of anything, plain or encoded."""
    for before in ("", "x", "xx", "user:"):
        secret = f"{before}{CANARY}Password"
        assert secrets_in(f"<{secret}>")
        assert secrets_in(base64.b64encode(secret.encode()).decode())
    assert not secrets_in(json.dumps({"Authorization": "Basic xxxx"}))
