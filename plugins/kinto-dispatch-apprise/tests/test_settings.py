"""Exactly one destination, of a kind and at a place that the operator permits, or no start."""

from __future__ import annotations

import logging
import sys

import pytest
from apprise.manager_plugins import NotificationManager
from apprise.plugins import NotifyBase

from kinto_dispatch import EgressGuard
from kinto_dispatch.errors import BadSettings
from kinto_dispatch.plugins import Channel
from kinto_dispatch.testing import make_channel
from kinto_dispatch_apprise.client import uses_http
from kinto_dispatch_apprise.watch import attempt


SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
TELEGRAM = "tgram://123456789:abcdefg_hijklmnop"


def channel(url: str, **options: str) -> Channel:
    """A channel for this URL; whatever fails is raised."""
    made = make_channel("apprise", {"url": url, **options})
    assert made.status == "loaded", made.reason
    return made


def problem(url: str, **options: str) -> str:
    """What the operator reads when Kinto does not start."""
    with pytest.raises(BadSettings) as caught:
        channel(url, **options)
    (found,) = caught.value.problems
    assert found.setting.endswith("channels.test.url")
    return str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        SLACK,
        f"{SLACK}/#general",
        "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
        "discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js",
        f"{TELEGRAM}/12315544",
        "ntfys://ntfy.example.org/topic",
        "jsons://hooks.example.org/path",
        "gotifys://push.example.org/abcdefghijklmno",
    ],
)
def test_what_is_one_destination_is_taken(url: str) -> None:
    """Nobody is asked for it: the URL alone decides."""
    assert channel(url).hooks == ("on_event_async",)


@pytest.mark.parametrize(
    ("url", "count"),
    [
        (f"{SLACK}/#a/#b", 2),
        (f"{TELEGRAM}/1/2/3", 3),
        ("ntfys://ntfy.example.org/one/two", 2),
        ("twilio://AC123:tok@+15551234567/+15551234568/+15551234569", 2),
        ("rockets://u:p@chat.example.org/#a/@b", 2),
        ("mailtos://u:p@example.org?to=a@x.org,b@x.org", 2),
        ("mailgun://u@example.org/abc-def/a@x.org/b@x.org?batch=yes", 2),
    ],
)
def test_several_destinations_in_one_url_are_refused(url: str, count: int) -> None:
    """Or a retry for the one that failed would repeat the others."""
    said = problem(url, schemes=url.partition(":")[0])
    assert f"one destination, not {count}: make a channel for each" in said


def test_a_message_in_parts_is_refused() -> None:
    """Or a retry for a part would repeat those before it."""
    assert "no split messages" in problem("jsons://example.org/?overflow=split")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nope://canary-5d1f0c",
        "not a URL",
        "slack://T1JJ3T3L2/canary-5d1f0c",
        "jsons://example.org/a, jsons://example.org/b",
        "file:///etc/passwd",
        "gopher://example.org",
        "unix:///tmp/socket",
        "dbus://",
        "windows://",
        "macosx://",
        "gnome://",
    ],
)
def test_what_apprise_does_not_understand_is_refused_without_quoting_it(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also in the logs, where Apprise would quote it: half of a URL is often the secret half
    (B7, B20)."""
    caplog.set_level(logging.DEBUG)
    assert "canary" not in problem(url) + caplog.text


@pytest.mark.parametrize("url", ["syslog://", "rsyslog://127.0.0.1", "irc://irc.example.org/#x"])
def test_what_does_not_speak_http_must_be_named(url: str) -> None:
    """What is about this machine, or has a protocol of its own, is nobody's by chance (B7)."""
    scheme = url.partition(":")[0]
    assert f"name {scheme} in schemes" in problem(url)


@pytest.mark.parametrize(
    "url",
    [
        "jsons://example.org/?+X-A=1%0d%0aBcc:%20evil",
        "jsons://example.org/?+X%0aY=1",
        "jsons://example.org/a%00b",
        "jsons://user:p%c2%85ss@example.org",
    ],
)
def test_headers_cannot_be_hidden_in_a_url(url: str) -> None:
    """Nothing in it may end a line (B12, B14)."""
    assert "characters that do not show" in problem(url)


def kinds() -> list[type[NotifyBase]]:
    """Every service of Apprise that needs no permission."""
    with attempt(EgressGuard(), 0.0):
        manager = NotificationManager()
        found = {manager[scheme] for scheme in manager.schemas()}
    return sorted((kind for kind in found if uses_http(kind)), key=lambda kind: kind.__name__)


def test_what_is_permitted_unasked_stays_in_sight() -> None:
    """No service among them runs programs, or connects from a thread that nobody watches (B6)."""
    assert len(kinds()) > 150
    for kind in kinds():
        for parent in kind.__mro__:
            if parent.__module__.startswith("apprise.plugins."):
                names = vars(sys.modules[parent.__module__])
                out_of_sight = {"subprocess", "Thread", "ThreadPoolExecutor", "multiprocessing"}
                assert not out_of_sight & set(names), kind


def test_schemes_are_the_only_ones() -> None:
    """An operator who names some gets no others (B7); both spellings of a service are one."""
    assert "slack discord; name jsons in schemes" in problem(
        "jsons://example.org", schemes="slack discord"
    )
    channel("jsons://example.org", schemes="json")


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("127.0.0.1", "refused: loopback"),
        ("10.1.2.3", "refused: private"),
        ("169.254.169.254", "refused: link-local"),
        ("[::1]", "refused: loopback"),
        ("2130706433", "write it as 127.0.0.1"),
        ("127.1", "one URL that Apprise understands"),
    ],
)
@pytest.mark.parametrize("scheme", ["jsons", "xmls", "forms", "gotifys"])
def test_a_private_address_must_be_named(scheme: str, host: str, said: str) -> None:
    """In every spelling (B1, B2)."""
    assert said in problem(f"{scheme}://{host}/abcdefghijklmno")


def test_without_encryption_only_named_hosts_are_reached() -> None:
    """Whoever listens on the way would read along."""
    assert "https, or http with allow_hosts = example.org" in problem("json://example.org/x")
    channel("json://example.org/x", allow_hosts="example.org")
    channel("json://10.1.2.3/x", allow_networks="10.1.0.0/16")


def test_the_url_may_come_from_a_file(tmp_path: pytest.TempPathFactory) -> None:
    """A per cent sign need not be doubled there."""
    path = f"{tmp_path}/url"
    with open(path, "w") as file:
        file.write("jsons://user:p%40ss@example.org/x\n")
    assert channel_from(path).status == "loaded"


def channel_from(path: str) -> Channel:
    """A channel whose URL stands in this file."""
    return make_channel("apprise", {"url_file": path})
