"""Every answer of Slack has its outcome, and nothing is sent where it should not go."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from kinto_dispatch import Delivered, Outcome, Rejected, Retry
from kinto_dispatch.testing import (
    LocalHttp,
    ScriptedServer,
    drip,
    make_channel,
    make_delivery,
    make_event,
)
from kinto_dispatch_slack.answer import ADVICE


async def send(
    url: str,
    timeout_seconds: float = 5.0,
    token: str | None = None,
    template: str | None = None,
    **options: str,
) -> Outcome:
    """The outcome of one attempt in the worker."""
    way = {"webhook_url": f"{url}/services/T0/B0/canary"}
    if token:
        way = {"token": token, "conversation": "C1", "api_url": f"{url}/api"}
    common = {} if template is None else {"template": template}
    settings = {"allow_networks": "127.0.0.0/8", **way, **options}
    channel = make_channel("slack", settings, **common)
    try:
        async with asyncio.timeout(timeout_seconds + 5):
            outcome: Outcome = await channel.call_async(
                make_event(), make_delivery(timeout_seconds=timeout_seconds)
            )
        return outcome
    finally:
        await channel.close()


async def test_a_message_is_the_channels_subject_and_text(http_sink: LocalHttp) -> None:
    """By default those of Kinto's tutorial, as JSON to the webhook."""
    assert await send(http_sink.url) == Delivered("200 ok")
    (request,) = http_sink.requests
    assert (request.method, request.path) == ("POST", "/services/T0/B0/canary")
    assert request.headers["content-type"].startswith("application/json")
    user = "basicauth:fea1e21d339299506d89e60f048cefd5b424ea641ba48267c35a4ce921439fa4"
    assert json.loads(request.body)["text"] == f"record created\nUser id: {user}"


async def test_without_a_template_there_are_blocks(http_sink: LocalHttp) -> None:
    """With the subject as header; with the API as with a webhook."""
    await send(http_sink.url)
    http_sink.answer(200, b'{"ok": true, "ts": "1.2"}')
    await send(http_sink.url, token="xoxb-1")
    for request in http_sink.requests:
        header, section, *_ = json.loads(request.body)["blocks"]
        assert header["text"]["text"] == "record created"
        assert 'title: "Hello"' in section["text"]["text"]


async def test_a_template_replaces_the_blocks(http_sink: LocalHttp) -> None:
    """The message is what the operator wrote, escaped."""
    await send(http_sink.url, template="<!here> {{ change.new.title }} & co")
    (request,) = http_sink.requests
    body = json.loads(request.body)
    assert body["text"] == "record created\n&lt;!here&gt; Hello &amp; co"
    assert "blocks" not in body


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, b"invalid_payload", Rejected("400 invalid_payload")),
        (400, b"user_not_found", Rejected("400 user_not_found")),
        (403, b"action_prohibited", Rejected("403 action_prohibited")),
        (404, b"no_service", Rejected(f"404 no_service: {ADVICE['no_service']}")),
        (
            410,
            b"channel_is_archived",
            Rejected(f"410 channel_is_archived: {ADVICE['channel_is_archived']}"),
        ),
        (408, b"", Retry("408")),
        (500, b"rollup_error", Retry("500 rollup_error")),
        (503, b"<h1>\r\n  sorry\n</h1>", Retry("503 <h1> sorry </h1>", throttled=True)),
    ],
)
async def test_a_refusal_is_told_in_slacks_words(
    http_sink: LocalHttp, status: int, body: bytes, expected: Outcome
) -> None:
    """What may pass is tried again; what will not is a dead letter."""
    http_sink.answer(status, body)
    assert await send(http_sink.url) == expected
    assert len(http_sink.requests) == 1


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "after"), [("30", 30.0), ("0", 0.0), ("soon", None), ("-1", None), (None, None)]
)
async def test_slack_says_when_to_come_back(
    http_sink: LocalHttp, status: int, header: str | None, after: float | None
) -> None:
    """In seconds; what is no number is left to the schedule. The client itself never repeats."""
    http_sink.answer(status, b"ratelimited", {"Retry-After": header} if header else {})
    assert await send(http_sink.url) == Retry(f"{status} ratelimited", after, throttled=True)
    assert len(http_sink.requests) == 1


async def test_a_bot_shows_its_token_and_says_where(http_sink: LocalHttp) -> None:
    """And tells operators the message's timestamp."""
    http_sink.answer(200, b'{"ok": true, "channel": "C1", "ts": "1503435956.000247"}')
    assert await send(http_sink.url, token="xoxb-1") == Delivered("message 1503435956.000247")
    (request,) = http_sink.requests
    assert request.path == "/api/chat.postMessage"
    assert request.headers["authorization"] == "Bearer xoxb-1"
    assert json.loads(request.body)["channel"] == "C1"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b'{"ok": false, "error": "no_text"}', Rejected("no_text")),
        (200, b'{"ok": false, "error": "", "ts": "1.1"}', Rejected("")),
        (200, b'{"ok": false, "error": null}', Rejected("None")),
        (200, b'{"ok": false, "error": "ratelimited_not"}', Rejected("ratelimited_not")),
        (429, b'{"ok": false}', Retry('429 {"ok": false}', 7.0, throttled=True)),
        (500, b"oops", Retry("500 oops", 7.0)),
        (404, b"no such page", Rejected("404 no such page")),
    ],
)
async def test_a_bot_learns_why(
    http_sink: LocalHttp, status: int, body: bytes, expected: Outcome
) -> None:
    """The API says 200 to what it understands, and the error beside it."""
    http_sink.answer(status, body, {"Retry-After": "7"})
    assert await send(http_sink.url, token="xoxb-1") == expected


@pytest.mark.parametrize("error", ADVICE)
async def test_a_bot_is_told_what_to_do(http_sink: LocalHttp, error: str) -> None:
    """What only a person can change is a dead letter that says how."""
    http_sink.answer(200, json.dumps({"ok": False, "error": error}).encode())
    assert await send(http_sink.url, token="xoxb-1") == Rejected(f"{error}: {ADVICE[error]}")


@pytest.mark.parametrize(
    "error",
    [
        "fatal_error",
        "internal_error",
        "message_limit_exceeded",
        "org_login_required",
        "rate_limited",
        "ratelimited",
        "request_timeout",
        "service_unavailable",
        "team_added_to_org",
    ],
)
async def test_what_passes_by_itself_is_tried_again(http_sink: LocalHttp, error: str) -> None:
    """Also where Slack says 200 to it, and after the time that it asks for."""
    http_sink.answer(200, json.dumps({"ok": False, "error": error}).encode(), {"Retry-After": "7"})
    assert await send(http_sink.url, token="xoxb-1") == Retry(error, 7.0, throttled=True)


@pytest.mark.parametrize(
    "body", [b"", b"ok", b"<html>", b"[]", b'{"ok": 1}', b'{"ok": false}', b"[" * 60_000]
)
async def test_a_bot_does_not_take_any_answer_for_success(
    http_sink: LocalHttp, body: bytes
) -> None:
    """Something in between may say 200 to everything."""
    http_sink.answer(200, body)
    outcome = await send(http_sink.url, token="xoxb-1")
    assert isinstance(outcome, Retry)
    assert "not from Slack" in outcome.reason


# --- where it goes -------------------------------------------------------------------------


async def test_a_name_for_a_private_address_is_refused(http_sink: LocalHttp) -> None:
    """Once it is resolved; the dead letter says what to set."""
    outcome = await send(f"https://localhost:{http_sink.port}", allow_networks="10.0.0.0/8")
    assert isinstance(outcome, Rejected)
    assert "localhost (127.0.0.1) is refused: loopback" in outcome.reason
    assert "allow_hosts = localhost" in outcome.reason
    assert http_sink.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(http_sink: LocalHttp, status: int) -> None:
    """A message goes where the operator said or nowhere."""
    with LocalHttp() as elsewhere:
        http_sink.answer(status, headers={"Location": f"{elsewhere.url}/canary"})
        outcome = await send(http_sink.url)
        assert isinstance(outcome, Rejected)
        assert "redirect" in outcome.reason
        assert "canary" not in outcome.reason
        assert elsewhere.requests == []


async def test_proxies_of_the_environment_are_not_used(
    http_sink: LocalHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would see the secret, and go around the guard (B6)."""
    with LocalHttp() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert isinstance(await send(http_sink.url), Delivered)
        assert proxy.requests == []


# --- servers that misbehave ----------------------------------------------------------------


async def test_a_huge_answer_is_not_read(http_sink: LocalHttp) -> None:
    """Its beginning goes into the reason."""
    http_sink.answer(500, b"x" * 50_000_000)
    outcome = await send(http_sink.url)
    assert isinstance(outcome, Retry)
    assert 100 < len(outcome.reason) < 1000


async def test_an_answer_in_no_known_encoding_is_an_answer(http_sink: LocalHttp) -> None:
    """What cannot be read is left out."""
    http_sink.answer(404, b"\xff\xfe", {"Content-Type": "text/html; charset=klingon"})
    assert await send(http_sink.url) == Rejected("404")


@contextmanager
def server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """The URL of a server that talks like this to whoever has asked something."""

    def hear_first(client: socket.socket) -> None:
        client.recv(65_536)
        talk(client)

    with ScriptedServer(hear_first) as scripted:
        yield f"http://{scripted.address}"


@pytest.mark.parametrize(
    "talk",
    [
        drip(b"x", b"HTTP/1.1 200 "),
        drip(b"X: y\r\n", b"HTTP/1.1 200 OK\r\n"),
        drip(b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        drip(b"1\r\nx\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ],
)
async def test_an_answer_that_does_not_end_does_not_outlast_the_deadline(
    talk: Callable[[socket.socket], None],
) -> None:
    """However often a little of it comes, in the headers or after them."""
    with server(talk) as url:
        outcome = await send(url, timeout_seconds=0.5, token="xoxb-1")
        assert outcome in (Retry("no answer within 0.5 s"), Retry("an answer without its end"))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n\r\n",
        b"220 smtp.example.com ESMTP\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_no_answer_is_tried_again(answer: bytes) -> None:
    """Without the secret in the reason, which the library quotes with the URL (B20)."""
    with server(lambda connection: connection.sendall(answer)) as url:
        outcome = await send(url, token="xoxb-canary")
        assert isinstance(outcome, Retry), outcome
        assert outcome.reason
        assert "canary" not in outcome.reason


async def test_of_a_webhook_the_status_is_enough() -> None:
    """It says 200 to what it has taken; sent again it would be there twice."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx"
    with server(lambda connection: connection.sendall(answer)) as url:
        assert await send(url) == Delivered("200")


# --- secrets -------------------------------------------------------------------------------

CANARY = "c4n4ry7f3e"


@pytest.mark.parametrize("token", [None, f"xoxb-{CANARY}"], ids=["webhook", "bot"])
@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("status", [200, 302, 403, 404, 429, 500])
async def test_no_secret_leaves_but_to_slack(
    http_sink: LocalHttp,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    token: str | None,
    refused: bool,
    status: int,
) -> None:
    """Neither the token nor the URL of a webhook is in an outcome, a log or a repr (B20)."""
    caplog.set_level(logging.DEBUG)
    http_sink.answer(status, b"not_allowed", {"Location": f"http://evil.example/{CANARY}"})
    url = "http://127.0.0.1:1" if refused else http_sink.url
    options = {"allow_networks": "127.0.0.0/8", "webhook_url": f"{url}/services/T0/B0/{CANARY}"}
    if token:
        options = {"token": token, "conversation": "C1", "api_url": f"{url}/api/"}
        options["allow_networks"] = "127.0.0.0/8"
    channel = make_channel("slack", options)
    outcome = await channel.call_async(make_event(), make_delivery())
    await channel.close()
    printed = "".join(capfd.readouterr())
    seen = [repr(outcome), repr(channel), repr(channel.settings), str(channel.settings)]
    seen += [repr(vars(channel)), caplog.text, printed]
    seen += [repr(vars(record)) for record in caplog.records]
    assert [text for text in seen if CANARY in text] == []


@pytest.mark.parametrize("room", [0, 285, 290, 299, 300])
async def test_a_secret_that_slack_repeats_is_left_out(http_sink: LocalHttp, room: int) -> None:
    """Also where the error is cut in the middle of it (B20)."""
    error = {"ok": False, "error": "x" * room + f"xoxb-{CANARY}"}
    http_sink.answer(200, json.dumps(error).encode())
    outcome = await send(http_sink.url, token=f"xoxb-{CANARY}")
    assert isinstance(outcome, Rejected)
    assert "xoxb" not in outcome.reason


async def test_an_answer_that_is_too_long_to_be_read_is_one(http_sink: LocalHttp) -> None:
    """Slack repeats the message, and a long one leaves no room for the end of it: it stands there
    all the same, and is not posted again (B9)."""
    beginning = b'{"ok": true, "channel": "C1", "ts": "1.2", "message": {"text": "'
    http_sink.answer(200, beginning + b"}" * 100_000 + b'"}}')
    assert await send(http_sink.url, token="xoxb-1") == Delivered("message 1.2")
    http_sink.answer(200, b'{"ok": false, "error": "' + b"x" * 100_000)
    assert isinstance(await send(http_sink.url, token="xoxb-1"), Retry)
