"""Every answer has its outcome, and nothing goes elsewhere."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured
from cloudevents.core.formats.json import JSONFormat

from kinto_dispatch import Delivered, Delivery, Outcome, Rejected, Retry
from kinto_dispatch.plugins.redaction import MASK
from kinto_dispatch.testing import (
    LocalHttp,
    make_change,
    make_channel,
    make_delivery,
    make_event,
)
from kinto_dispatch_webhook.message import Payload, body


SECRET = "whsec_" + base64.b64encode(b"shop" * 8).decode()
OPTIONS = {"secrets": SECRET, "allow_networks": "127.0.0.0/8"}


async def send(url: str, delivery: Delivery | None = None, **options: str) -> Outcome:
    """The outcome of one attempt in the worker."""
    channel = make_channel("webhook", {**OPTIONS, "url": f"{url}/hook", **options})
    try:
        async with asyncio.timeout(20):
            outcome: Outcome = await channel.call_async(make_event(), delivery or make_delivery())
        return outcome
    finally:
        await channel.close()


@pytest.mark.parametrize("payload", ["thin", "full"])
async def test_it_is_a_cloudevent(http_sink: LocalHttp, payload: str) -> None:
    """The library of CloudEvents reads it, with all that is required."""
    await send(http_sink.url, make_delivery(key="0f:shop"), payload=payload)
    (request,) = http_sink.requests
    message = HTTPMessage(headers=dict(request.headers), body=request.body)
    found = from_structured(message, JSONFormat())
    assert request.headers["content-type"] == "application/cloudevents+json"
    assert (found.get_id(), found.get_specversion()) == ("0f:shop", "1.0")
    assert found.get_type() == "org.kinto-storage.record.create"
    assert found.get_source() == "http://localhost:8888/v1/"
    assert found.get_subject() == make_event().uri
    assert found.get_time() is not None
    assert ("Hello" in request.body.decode()) == (payload == "full")


async def test_plain_json_is_what_standard_webhooks_suggests(http_sink: LocalHttp) -> None:
    """An id, a type, a time, and which objects, but by default not what they hold."""
    await send(http_sink.url, make_delivery(key="0f:shop"), format="plain")
    (request,) = http_sink.requests
    found = json.loads(request.body)
    assert request.headers["content-type"] == "application/json"
    assert list(found) == ["id", "type", "timestamp", "data"]
    assert (found["id"], found["type"]) == ("0f:shop", "record.create")
    assert found["timestamp"] == "2016-01-22T10:52:22.672Z"
    uri = make_event().uri
    assert found["data"]["changes"] == [{"uri": uri, "object_id": "first"}]
    assert "user_id" not in found["data"]


@pytest.mark.parametrize("payload", ["thin", "full"])
def test_how_many_versions_it_stands_for_is_said(payload: Payload) -> None:
    """Where a channel sends the latest one only; else there is nothing to say."""
    said = json.loads(body(make_event(skipped=3), "key", payload, "plain"))
    assert said["data"]["skipped"] == 3
    assert b"skipped" not in body(make_event(), "key", payload, "plain")


async def test_what_json_cannot_say_is_a_dead_letter(http_sink: LocalHttp) -> None:
    """Which says what helps; thin says nothing of it."""
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    event = make_event(changes=(make_change(new={"deep": deep}),))
    for payload, kind in (("full", Rejected), ("thin", Delivered)):
        channel = make_channel(
            "webhook", {**OPTIONS, "url": f"{http_sink.url}/", "payload": payload}
        )
        assert isinstance(await channel.call_async(event, make_delivery()), kind)
        await channel.close()


async def test_headers_of_the_operator_go_with_it(http_sink: LocalHttp) -> None:
    """Also in the place of one that would be there anyway."""
    await send(http_sink.url, headers='{"Authorization": "Bearer abc", "user-agent": "me/1"}')
    (request,) = http_sink.requests
    assert request.headers["authorization"] == "Bearer abc"
    assert request.headers["user-agent"] == "me/1"


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_2xx_is_success(http_sink: LocalHttp, status: int) -> None:
    """Whatever it says."""
    http_sink.answer(status, b"")
    assert await send(http_sink.url) == Delivered(str(status))


@pytest.mark.parametrize(
    "secret", ["abc12", "Zx9/Qw8/Er7/Ty6", "a1b2:c3d4", "longsecret99", "p@ss:w0rd"]
)
@pytest.mark.parametrize("scheme", ["", "Bearer "])
async def test_no_header_is_shown_whatever_it_is_made_of(
    http_sink: LocalHttp, secret: str, scheme: str
) -> None:
    """A receiver may quote what it refuses; also a secret of short parts is one (B20)."""
    http_sink.answer(403, f"bad key {secret}.".encode())
    outcome = await send(http_sink.url, headers=json.dumps({"X-Api-Key": f"{scheme}{secret}"}))
    assert outcome == Rejected(f"403 bad key {MASK}.")


@pytest.mark.parametrize(
    "charset",
    ["undefined", "idna", "punycode", "hex", "zlib", "rot13", "utf-7", "nonsense", "\xff"],
)
async def test_an_answer_may_claim_any_encoding(http_sink: LocalHttp, charset: str) -> None:
    """Its status counts, and its text is read as what nearly all of them are (B9)."""
    header = {"Content-Type": f"text/plain; charset={charset}"}
    http_sink.answer(200, b"\xc3\xa9 \xff", header)
    assert isinstance(await send(http_sink.url), Delivered)
    http_sink.answer(403, "é".encode(), header)
    assert await send(http_sink.url) == Rejected("403 é")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_what_passes_is_tried_again(http_sink: LocalHttp, status: int) -> None:
    """Not before the receiver says."""
    http_sink.answer(status, b"a\r\nb\x1b[31m", {"Retry-After": "7"})
    is_of_all = status in (429, 503)
    assert await send(http_sink.url) == Retry(f"{status} a b [31m", 7.0, throttled=is_of_all)


@pytest.mark.parametrize("status", [304, 400, 401, 403, 404, 409, 413, 422, 451])
async def test_what_does_not_pass_is_a_dead_letter(http_sink: LocalHttp, status: int) -> None:
    """With at most 200 characters of the answer."""
    http_sink.answer(status, b"" if status == 304 else b"x" * 1000)
    outcome = await send(http_sink.url)
    assert outcome == Rejected(f"{status} {'x' * 200}" if status != 304 else "304")


async def test_gone_pauses_the_channel(http_sink: LocalHttp) -> None:
    """The receiver wants no more, and says why (R20)."""
    http_sink.answer(410, b"moved away")
    outcome = await send(http_sink.url)
    assert outcome == Rejected("410 moved away; the receiver wants no more", pause=True)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(http_sink: LocalHttp, status: int) -> None:
    """The second host is never visited (B5)."""
    with LocalHttp() as elsewhere:
        http_sink.answer(status, headers={"Location": f"{elsewhere.url}/canary"})
        outcome = await send(http_sink.url)
        assert isinstance(outcome, Rejected)
        assert "redirect" in outcome.reason
        assert elsewhere.requests == []


async def test_a_name_for_a_private_address_is_refused(http_sink: LocalHttp) -> None:
    """Once it is resolved; the dead letter says what to set (B3)."""
    url = f"https://localhost:{http_sink.port}"
    outcome = await send(url, allow_networks="10.0.0.0/8")
    assert isinstance(outcome, Rejected)
    assert "allow_hosts = localhost" in outcome.reason
    assert http_sink.requests == []


async def test_proxies_of_the_environment_are_not_used(
    http_sink: LocalHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would see the secrets, and go around the guard (B6)."""
    with LocalHttp() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert isinstance(await send(http_sink.url), Delivered)
        assert proxy.requests == []


async def test_a_huge_answer_is_not_read(http_sink: LocalHttp) -> None:
    """Its beginning goes into the reason (B9)."""
    http_sink.answer(500, b"x" * 100_000_000)
    assert await send(http_sink.url) == Retry(f"500 {'x' * 200}")


async def test_a_bomb_stays_compressed(http_sink: LocalHttp) -> None:
    """Nothing of it is shown, or unpacked (B9)."""
    bomb = gzip.compress(b"x" * 10_000_000)
    http_sink.answer(500, bomb, {"Content-Encoding": "gzip"})
    assert await send(http_sink.url) == Retry("500")


@contextmanager
def tarpit(start: bytes, piece: bytes) -> Iterator[str]:
    """A server that answers its one client without end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        over = threading.Event()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65_536)
                try:
                    connection.sendall(start)
                    while not over.wait(0.05):
                        connection.sendall(piece)
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        over.set()
        thread.join()


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 ", b"HTTP/1.1 200 OK\r\n"])
async def test_a_tarpit_does_not_outlast_the_deadline(start: bytes) -> None:
    """However often a little of it comes (B8)."""
    with tarpit(start, b"X: y\r\n" if start.endswith(b"\n") else b"x") as url:
        started = time.monotonic()
        outcome = await send(url, make_delivery(timeout_seconds=0.5))
        assert outcome == Retry("no answer within 0.5 s")
        assert time.monotonic() - started < 10


async def test_a_status_is_an_answer_without_its_text() -> None:
    """What was taken is not sent again since its text does not end (B8)."""
    with tarpit(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x") as url:
        assert await send(url, make_delivery(timeout_seconds=1.0)) == Delivered("200")


CANARY = "c4n4ry7f3e"


@pytest.mark.parametrize("status", [0, 200, 302, 404, 500])
async def test_no_secret_is_shown(
    http_sink: LocalHttp,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    status: int,
) -> None:
    """Neither URL, headers nor secrets, even if the receiver repeats them (B20)."""
    caplog.set_level(logging.DEBUG)
    secret = f"whsec_{CANARY}{'A' * 30}"
    http_sink.answer(status or 200, f"{'x' * 185} Bearer {CANARY} {secret}".encode())
    url = http_sink.url if status else "http://127.0.0.1:1"
    options = {
        "url": f"{url.replace('//', f'//{CANARY}:{CANARY}@')}/{CANARY}?q={CANARY}",
        "secrets": secret,
        "headers": json.dumps({"X-Token": f"Bearer {CANARY}"}),
        "allow_networks": "127.0.0.0/8",
    }
    channel = make_channel("webhook", options)
    outcome = await channel.call_async(make_event(), make_delivery())
    await channel.close()
    seen = [repr(outcome), repr(channel), repr(channel.settings), str(channel.settings)]
    seen += [repr(vars(channel)), caplog.text, *capfd.readouterr()]
    assert [text for text in seen if CANARY[:4] in text] == []
