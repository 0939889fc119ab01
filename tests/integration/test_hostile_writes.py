"""What somebody who may write could send: a real Kinto, over HTTP, and a real worker."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from kinto_dispatch.testing import LocalHttp
from kinto_dispatch.testing.waiting import eventually


if TYPE_CHECKING:
    from tests.conftest import Deploy, Deployment

SECONDS = 120.0
"""Nothing takes as long; a machine that has much to do may."""

MONSTERS: Mapping[str, bytes] = {
    "nul": rb'{"data": {"title": "a\u0000b"}}',
    "half": rb'{"data": {"title": "\ud800"}}',
    "nan": b'{"data": {"n": NaN, "m": -Infinity}}',
    "digits": b'{"data": {"n": ' + b"9" * 5_000 + b"}}",
    "large": b'{"data": {"n": 1%s, "m": -9223372036854775809}}' % (b"0" * 40),
    "twice": b'{"data": {"title": "first", "title": "second"}}',
    "deep": b'{"data": {"n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    "nested": b'{"data": {"n": ' + b'{"a":' * 100 + b"1" + b"}" * 100 + b"}}",
    "broken": b'{"data": {"title": "\xff\xfe"}}',
    "empty": b"",
    "megabytes": b'{"data": {"title": "' + b"x" * 10_000_000 + b'"}}',
    "keys": json.dumps({"data": {"\x1b[2J\n%s{0}": {"\u202e": "<b>"}, "": 1}}).encode(),
}
"""Records by their ids, as they are sent. What Kinto makes of each is its own affair."""

ANSWER = (
    'no\r\n{"severity": 0, "Fields": {"msg": "forged"}}\n\x1b[2J\x1b[31m %s %d %(reason)s {0} '
    "delivery.attempted event_id='forged' \u2028\u202e\x85"
)

LOGS = """
[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = json
[logger_root]
level = DEBUG
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = json
[formatter_json]
class = kinto.core.JsonLogFormatter
"""


@pytest.fixture
def rude(http_sink: LocalHttp) -> LocalHttp:
    """A receiver that refuses, in words that could be lines of a log."""
    http_sink.answer(400, ANSWER.encode())
    return http_sink


@pytest.fixture(params=["postgresql", "memory"])
def kinto(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """With an outbox and without."""
    if request.param == "memory":
        return {}
    return {"kinto.storage_url": request.getfixturevalue("postgresql_url")}


def test_whatever_json_is_written_is_told_or_refused(
    deploy: Deploy, kinto: Mapping[str, str]
) -> None:
    """What Kinto takes is delivered, what it refuses is not, and what comes behind arrives
    (B23)."""
    deployment = deploy({"ops": {}}, kinto=kinto)
    with deployment.kinto, deployment.worker():
        deployment.make_collections()
        taken = {name for name, body in MONSTERS.items() if is_taken(deployment, name, body)}
        assert {"large", "twice", "nested", "keys", "megabytes"} <= taken
        assert "deep" not in taken
        deployment.put("behind").raise_for_status()
        told = deployment.await_delivered(taken | {"behind"}, seconds=SECONDS)
        assert {name: told[name] for name in MONSTERS if name not in taken} == {
            name: 0 for name in MONSTERS if name not in taken
        }
        assert not deployment.dead_letters()
        assert deployment.request("GET", "/__heartbeat__").status_code == 200


def is_taken(deployment: Deployment, name: str, body: bytes) -> bool:
    """Whether Kinto says that it has stored it."""
    path = f"/buckets/b/collections/c0/records/{name}"
    headers = {"Content-Type": "application/json"}
    return deployment.request("PUT", path, data=body, headers=headers).ok


def test_each_event_is_one_line_of_the_log(deploy: Deploy, rude: LocalHttp) -> None:
    """Of a JSON log, whatever a client calls itself and whatever a receiver answers (B24)."""
    refused = {
        "plugin": "webhook",
        "url": rude.url,
        "secrets": "whsec_" + "0" * 32,
        "allow_networks": "127.0.0.0/8",
        "resources": "record",
    }
    deployment = deploy({"hook": refused, "gate": {"mode": "sync", "resources": "record"}})
    ini = deployment.ini.read_text()
    deployment.ini.write_text(ini[: ini.index("[loggers]")] + LOGS)
    deployment.kinto.migrate()  # which logs in its own way
    before = deployment.kinto.log_file.stat().st_size
    with deployment.kinto, deployment.worker() as worker:
        deployment.make_collections()
        agent = 'x %s %(x)s {0} {"a": "b"}'
        headers = {"User-Agent": agent}
        deployment.request(
            "PUT", "/buckets/b/collections/c0/records/r", json={"data": {}}, headers=headers
        ).raise_for_status()
        fold(deployment)
        eventually(lambda: deployment.dead_letters("hook"), "the dead letter", SECONDS)
        deployment.kinto.stop()
    (refusal,) = attempts(worker.said, "delivery.attempted")
    said = deployment.kinto.log_file.read_bytes()[before:].decode("utf-8", "replace")
    (told,) = attempts(said, "sync.attempted")
    assert (refusal["channel"], told["channel"]) == ("hook", "gate")
    assert refusal["reason"].startswith("400 no {")


def attempts(said: str, event: str) -> list[dict[str, Any]]:
    """The fields of those lines that tell of this; all lines are objects."""
    lines = [json.loads(line) for line in said.split("\n") if line.strip()]
    assert all(isinstance(line, dict) for line in lines)
    assert "\x1b" not in said
    found = [line["Fields"] for line in lines]
    return [one for one in found if one.get("msg", "").startswith(f"{event} ")]


def fold(deployment: Deployment) -> None:
    """A header that goes on in the next line, as old clients had it."""
    host, port = deployment.kinto.url.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(
            b"GET /v1/?a=%0a%1b[2J HTTP/1.1\r\nHost: x\r\nUser-Agent: a\r\n\tforged: line\r\n"
            b"Connection: close\r\n\r\n"
        )
        client.recv(65_536)
