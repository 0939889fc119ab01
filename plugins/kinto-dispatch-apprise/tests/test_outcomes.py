"""Every answer of a service has its outcome, and only what was sent counts as sent."""

from __future__ import annotations

import gc
import gzip
import json
import logging
import socket
import time
import tracemalloc
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from urllib.parse import parse_qs

import pytest
import requests
from apprise.plugins.discord import NotifyDiscord
from apprise.plugins.slack import NotifySlack
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kinto_dispatch import Delivered, Event, Outcome, Rejected, Retry
from kinto_dispatch.testing import (
    DeadServer,
    LocalHttp,
    LocalSmtp,
    ScriptedServer,
    drip,
    make_channel,
    make_delivery,
    make_event,
)
from kinto_dispatch.testing.contract import HOSTILE


SECRET = "canary-5d1f0c"
# What the renderer can produce: no NUL and no halves of characters.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def send(
    url: str, event: Event | None = None, seconds: float = 5.0, **options: str
) -> Outcome | None:
    """The outcome of one attempt in the worker, to this machine."""
    channel = make_channel("apprise", {"url": url, "allow_hosts": "127.0.0.1", **options})
    delivery = make_delivery(timeout_seconds=seconds)
    outcome: Outcome | None = channel.call_async(event or make_event(), delivery)
    return outcome


def test_title_and_text_are_the_channels(http_sink: LocalHttp) -> None:
    """As in Kinto's tutorial, unless the operator has others."""
    assert send(f"json://{http_sink.address}/x") == Delivered("200")
    (request,) = http_sink.requests
    message = json.loads(request.body)
    assert message["title"] == "record created"
    assert message["message"].startswith("User id: basicauth:")


@pytest.mark.parametrize(
    ("status", "headers", "outcome"),
    [
        (400, {}, Rejected("JSON: 400 because")),
        (404, {}, Rejected("JSON: 404 because")),
        (410, {}, Rejected("JSON: 410 because")),
        (408, {}, Retry("JSON: 408 because")),
        (429, {"Retry-After": "7"}, Retry("JSON: 429 because", 7.0, throttled=True)),
        (429, {"Retry-After": "soon"}, Retry("JSON: 429 because", throttled=True)),
        (500, {}, Retry("JSON: 500 because")),
        (503, {"Retry-After": "120"}, Retry("JSON: 503 because", 120.0, throttled=True)),
    ],
)
def test_a_refusal_is_told_in_the_services_words(
    http_sink: LocalHttp, status: int, headers: dict[str, str], outcome: Outcome
) -> None:
    """With the status and the time that it asks for, of which Apprise itself tells neither."""
    http_sink.answer(status, b"because\r\n", headers)
    assert send(f"json://{http_sink.address}/x") == outcome
    assert len(http_sink.requests) == 1


@pytest.mark.parametrize("spoiler", ["retry=3&wait=0", "optional=yes", "redirect=yes"])
def test_a_url_cannot_make_a_failure_a_success(http_sink: LocalHttp, spoiler: str) -> None:
    """Nor send more than once in an attempt."""
    http_sink.answer(500, b"because")
    assert send(f"json://{http_sink.address}/x?{spoiler}") == Retry("JSON: 500 because")
    assert len(http_sink.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(http_sink: LocalHttp, status: int) -> None:
    """It could lead anywhere (B5)."""
    with LocalHttp() as internal:
        http_sink.answer(status, headers={"Location": f"{internal.url}/"})
        outcome = send(f"json://{http_sink.address}/x?redirect=yes")
        assert isinstance(outcome, Rejected)
        assert f"answered {status}" in outcome.reason
        assert "not followed" in outcome.reason
        assert internal.requests == []


def test_proxies_of_the_environment_are_not_used(
    http_sink: LocalHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be asked past the guard (B6)."""
    with LocalHttp() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "")
        assert send(f"json://{http_sink.address}/x") == Delivered("200")
        assert proxy.requests == []


def test_a_name_is_judged_by_where_it_leads(http_sink: LocalHttp) -> None:
    """``localhost`` is a name like any other until it is dialled (B3, B6)."""
    port = http_sink.port
    outcome = send(f"jsons://localhost:{port}/{SECRET}", allow_hosts="")
    assert isinstance(outcome, Rejected)
    assert "localhost" in outcome.reason
    assert "refused: loopback" in outcome.reason
    assert http_sink.requests == []


def test_what_is_not_http_is_judged_alike(smtp_server: LocalSmtp) -> None:
    """The guard is asked by the system, whatever a service speaks (B6)."""
    url = f"mailto://localhost:{smtp_server.port}?from=k@x.org&to=a@x.org&mode=insecure"
    outcome = send(url, schemes="mailto", allow_hosts="")
    assert isinstance(outcome, Rejected), outcome
    assert smtp_server.messages == []
    outcome = send(url, schemes="mailto", allow_hosts="localhost")
    assert isinstance(outcome, Delivered), outcome
    assert smtp_server.messages[0].recipients == ("a@x.org",)


def test_without_http_the_reason_is_what_apprise_logs(smtp_server: LocalSmtp) -> None:
    """And nothing is given up, since it does not say whether it is for good."""
    smtp_server.refuse(550, "no such user")
    url = f"mailto://{smtp_server.address}?from=k@x.org&to=a@x.org&mode=insecure"
    outcome = send(url, schemes="mailto")
    assert isinstance(outcome, Retry)
    assert "failed" in outcome.reason


def test_one_after_the_other_nobody_waits(smtp_server: LocalSmtp) -> None:
    """Apprise would sleep for 5.5 s between mails; the lane has a rate limit."""
    url = f"mailto://{smtp_server.address}?from=k@x.org&to=a@x.org&mode=insecure"
    options = {"url": url, "schemes": "mailto", "allow_hosts": "127.0.0.1"}
    channel = make_channel("apprise", options)
    started = time.monotonic()
    for _ in range(3):
        assert isinstance(channel.call_async(make_event(), make_delivery()), Delivered)
    assert time.monotonic() - started < 5.5


def test_a_no_with_status_200_is_no_success(
    http_sink: LocalHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Slack says it: what it means stands in the text, and Apprise reads it."""
    monkeypatch.setattr(NotifySlack, "api_url", f"{http_sink.url}/{{}}")
    http_sink.answer(200, b'{"ok": false, "error": "not_in_channel"}')
    outcome = send(f"slack://xoxb-1234-1234-{SECRET}/C024BE91L")
    assert isinstance(outcome, Retry)
    assert outcome.reason.startswith('Slack: 200 {"ok": false, "error": "not_in_channel"}')


def test_a_service_that_wants_to_wait_waits_in_its_lane(
    http_sink: LocalHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it keeps no thread; Discord would be waited for inside of the attempt."""
    monkeypatch.setattr(NotifyDiscord, "notify_url", http_sink.url)
    later = str(int(time.time()) + 20)
    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": later, "Retry-After": "20"}
    http_sink.answer(429, b"slow down", headers)
    started = time.monotonic()
    assert send(f"discord://4174216298/{SECRET}") == Retry(
        "Discord: 429 slow down", 20.0, throttled=True
    )
    assert time.monotonic() - started < 10
    assert len(http_sink.requests) == 1


# --- record data ---------------------------------------------------------------------------


def message_of(scheme: str, body: bytes) -> tuple[str, str]:
    """Title and text, as a parser of the receiver reads them."""
    if scheme == "json":
        found = json.loads(body)
        return found["title"], found["message"]
    if scheme == "form":
        fields = parse_qs(body.decode(), keep_blank_values=True)
        return fields.get("title", [""])[0], fields["message"][0]
    texts = {
        item.tag.rpartition("}")[2]: item.text or ""
        for item in ElementTree.fromstring(body).iter()
    }
    return texts["Subject"], texts["Message"]


@pytest.mark.parametrize("scheme", ["json", "form"])
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None
)
@given(text=TEXTS)
@example(text=HOSTILE)
@example(text="{{ 7 * 7 }} :smile: \\n %20 &amp;")
def test_whatever_a_record_holds_comes_back(http_sink: LocalHttp, scheme: str, text: str) -> None:
    """A text is a text: Apprise interprets nothing in it."""
    event = make_event(user_id=f"<{text}>")
    assert send(f"{scheme}://{http_sink.address}/x", event) == Delivered("200")
    request = http_sink.requests[-1]
    title, shown = message_of(scheme, request.body)
    assert title == "record created"
    assert shown.split() == f"User id: <{text}>".split()
    assert "bcc" not in request.headers


def test_hostile_data_stays_inside_xml(http_sink: LocalHttp) -> None:
    """A parser finds one message with the text in it, and no more elements."""
    event = make_event(user_id="]]><Subject>x</Subject> & <!DOCTYPE a>")
    assert send(f"xml://{http_sink.address}/x", event) == Delivered("200")
    assert message_of("xml", http_sink.requests[0].body)[0] == "record created"
    assert "]]><Subject>x</Subject> &" in message_of("xml", http_sink.requests[0].body)[1]


# --- secrets -------------------------------------------------------------------------------


def test_no_log_quotes_the_url(http_sink: LocalHttp, caplog: pytest.LogCaptureFixture) -> None:
    """Not even at the lowest level: user, password, path, parameters and headers are secret, be
    it sent, refused, redirected or not connected (B20)."""
    caplog.set_level(1)
    for name in ("apprise", "urllib3", "requests", "urllib3.connectionpool"):
        caplog.set_level(1, logger=name)
    parts = [f"{SECRET}-{number}" for number in range(6)]
    query = f"?+X-Token={parts[3]}&-{parts[4]}=1&:{parts[5]}=2"
    tail = f"/{parts[2]}/{query}"
    seen = []
    for status in (200, 302, 403, 500):
        http_sink.answer(status, " ".join(parts).encode(), {"Location": f"/{SECRET}"})
        seen.append(send(f"json://{parts[0]}:{parts[1]}@{http_sink.address}{tail}"))
    with DeadServer() as dead:
        seen.append(send(f"json://{parts[0]}:{parts[1]}@{dead.address}{tail}"))
    assert http_sink.requests[0].headers["x-token"] == parts[3]
    assert SECRET not in repr(seen)
    assert SECRET not in caplog.text


@pytest.mark.parametrize("status", [200, 403, 500])
def test_a_service_logs_out_in_the_attempt(
    http_sink: LocalHttp, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """Some do so when they are collected; were it later, nobody would watch them (B20)."""
    caplog.set_level(1)
    caplog.set_level(1, logger="apprise")
    answer = {"access_token": SECRET, "user_id": "@u:x", "room_id": "!r:x", "event_id": "1"}
    http_sink.answer(status, json.dumps(answer).encode())
    outcome = send(f"matrix://user:{SECRET}@{http_sink.address}/!r:x")
    assert isinstance(outcome, Delivered) == (status == 200), outcome
    count = len(http_sink.requests)
    gc.collect()
    assert len(http_sink.requests) == count
    paths = [request.path.rpartition("/")[2] for request in http_sink.requests]
    assert ("logout" in paths) == (status == 200), paths
    assert "logout" not in caplog.text
    assert SECRET not in caplog.text


def test_others_keep_their_logs_and_redirects(
    http_sink: LocalHttp, caplog: pytest.LogCaptureFixture
) -> None:
    """Only an attempt is watched: the rest of the process uses the same libraries as ever."""
    assert send(f"json://{http_sink.address}/x") == Delivered("200")
    caplog.set_level(logging.DEBUG)
    with LocalHttp() as other:
        http_sink.answer(302, headers={"Location": f"{other.url}/there"})
        assert requests.get(http_sink.url, timeout=5).url == f"{other.url}/there"
    assert "/there" in caplog.text


# --- servers that misbehave ----------------------------------------------------------------


@pytest.mark.parametrize(
    "talk",
    [
        drip(b"H"),
        drip(b"X-More: headers\r\n", b"HTTP/1.1 200 OK\r\n"),
        drip(b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n"),
    ],
)
def test_a_server_that_drips_does_not_outlast_the_deadline(
    talk: Callable[[socket.socket], None],
) -> None:
    """However often it says a little (B8)."""
    with ScriptedServer(talk) as server:
        started = time.monotonic()
        outcome = send(f"json://{server.address}/x", seconds=0.5)
        assert outcome == Retry("JSON: no answer within 0.5 s")
        assert time.monotonic() - started < 30


def test_of_a_long_answer_only_the_beginning_is_read(http_sink: LocalHttp) -> None:
    """And less of it is shown (B9)."""
    http_sink.answer(400, b"x" * 3_000_000)
    outcome = send(f"json://{http_sink.address}/x")
    assert isinstance(outcome, Rejected)
    assert len(outcome.reason) <= 300


def test_what_is_packed_is_unpacked_only_at_its_beginning(http_sink: LocalHttp) -> None:
    """However little came over the line, the worker does not grow with it (B9)."""
    bomb = gzip.compress(bytes(100_000_000))
    http_sink.answer(400, bomb, {"Content-Encoding": "gzip"})
    tracemalloc.start()
    try:
        outcome = send(f"json://{http_sink.address}/x")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert isinstance(outcome, Rejected)


def test_a_reason_is_one_line_that_shows(http_sink: LocalHttp) -> None:
    """Whatever the server says, it goes into logs and onto terminals (B24)."""
    http_sink.answer(400, b"no\r\nINFO: \x1b[31mall\x00 is \xff well\x85")
    assert send(f"json://{http_sink.address}/x") == Rejected("JSON: 400 no INFO: [31mall is well")


def test_where_nobody_listens_the_reason_is_the_systems(http_sink: LocalHttp) -> None:
    """That of the library quotes the URL."""
    with DeadServer() as dead:
        assert send(f"json://{dead.address}/{SECRET}") == Retry("JSON: Connection refused")


# --- what services show --------------------------------------------------------------------


def test_html_goes_to_who_shows_it(http_sink: LocalHttp, smtp_server: LocalSmtp) -> None:
    """And everybody else gets the text that belongs to it, not HTML without its tags."""
    template = "<html><body><h1>{{ action }}</h1><p>{{ user_id }}</p></body></html>"
    event = make_event(user_id="<b>&</b>")
    assert send(
        f"gotify://{http_sink.address}/abcdefghijklmno", event, template=template
    ) == Delivered("200")
    assert "<h1>" not in json.loads(http_sink.requests[0].body)["message"]
    url = f"mailto://{smtp_server.address}?from=k@x.org&to=a@x.org&mode=insecure"
    assert isinstance(send(url, event, schemes="mailto", template=template), Delivered)
    html = smtp_server.messages[0].message.get_body(("html",))
    assert html is not None
    assert "<h1>create</h1><p>&lt;b&gt;&amp;&lt;/b&gt;</p>" in html.get_content()
