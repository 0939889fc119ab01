"""The ini as operators write it."""

from __future__ import annotations

import pytest

from kinto_dispatch.errors import BadSettings
from kinto_dispatch.plugins import Channel, configure
from kinto_dispatch.testing import make_channel


TUTORIAL = {
    "kinto.event_listeners": "send_email",
    "kinto.event_listeners.send_email.use": "kinto_dispatch",
    "kinto.event_listeners.send_email.plugin": "email",
    "kinto.event_listeners.send_email.server": "localhost:1025",
    "kinto.event_listeners.send_email.tls": "false",
    "kinto.event_listeners.send_email.username": "",
    "kinto.event_listeners.send_email.password": "",
    "kinto.event_listeners.send_email.from": "postmaster@localhost",
    "kinto.event_listeners.send_email.recipients": "kinto@yopmail.com",
}
LEAST = {"from": "postmaster@localhost", "recipients": "kinto@yopmail.com"}


def channel(**options: str) -> Channel:
    """A channel with the least that it needs, and these."""
    return make_channel("email", {**LEAST, **options})


def test_the_tutorials_settings_work_as_they_are() -> None:
    """Only ``use`` has changed, and ``plugin`` has come."""
    (made,) = configure(TUTORIAL, {}).channels
    assert (made.name, made.status) == ("send_email", "loaded")
    assert made.settings.server == "localhost:1025"
    assert made.settings.tls == "none"
    assert (made.settings.username, made.settings.password) == (None, None)
    assert made.settings.recipients == ("kinto@yopmail.com",)


def test_a_channel_needs_a_sender_and_recipients() -> None:
    """Both are told at once."""
    with pytest.raises(BadSettings) as caught:
        make_channel("email", {})
    assert {problem.setting.rpartition(".")[2] for problem in caught.value.problems} == {
        "from",
        "recipients",
    }


def test_recipients_stand_on_lines_or_between_commas() -> None:
    """A comma in a quoted name does not end it."""
    made = channel(recipients='a@x.org, "Doe, Jane" <b@x.org>\nc@x.org')
    assert made.settings.recipients == ("a@x.org", '"Doe, Jane" <b@x.org>', "c@x.org")


def test_groups_of_the_default_bucket_stop_the_start() -> None:
    """It has another id for each user, so nobody would ever get a mail."""
    group = "/buckets/default/groups/editors"
    with pytest.raises(BadSettings, match="groups by the id of their bucket"):
        channel(recipients=group)
    assert channel(recipients="/buckets/default2/groups/editors").settings.recipients


@pytest.mark.parametrize("name", ["from", "recipients", "cc", "bcc", "reply_to"])
@pytest.mark.parametrize("value", ["x <b@c.org>\r\nBcc: e@x", "a@b.org c@d.org", "nobody"])
def test_what_is_not_an_address_stops_the_start(name: str, value: str) -> None:
    """By the name of the setting (B14, B15)."""
    with pytest.raises(BadSettings, match=rf"channels\.test\.{name}: .*as in|{name}: .*not show"):
        channel(**{name: value})


@pytest.mark.parametrize("server", ["localhost:", "localhost:0", "localhost:99999", "a b", "[::1"])
def test_what_is_not_a_server_stops_the_start(server: str) -> None:
    """With an example of one."""
    with pytest.raises(BadSettings, match=r"host:port, as in localhost:25"):
        channel(server=server)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("false", "none"),
        ("no", "none"),
        ("none", "none"),
        ("true", "starttls"),
        ("True", "starttls"),
        ("on", "starttls"),
        ("starttls", "starttls"),
        ("implicit", "implicit"),
    ],
)
def test_encryption_has_a_name_or_the_tutorials_yes(written: str, read: str) -> None:
    """Whoever has the tutorial's settings keeps them."""
    assert channel(tls=written).settings.tls == read


def test_another_encryption_stops_the_start() -> None:
    """With those that there are."""
    with pytest.raises(BadSettings, match=r"tls: .*implicit"):
        channel(tls="ssl3")
