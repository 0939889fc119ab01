"""Signatures: verified by two libraries that share no code, and as the specification has them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replicate.webhook import Webhooks, WebhookSigningSecret, WebhookValidationError
from standardwebhooks import Webhook, WebhookVerificationError

from kinto_dispatch import Delivered
from kinto_dispatch.testing import (
    LocalHttp,
    make_change,
    make_channel,
    make_delivery,
    make_event,
)
from kinto_dispatch.testing.http import ReceivedRequest
from kinto_dispatch_webhook.signing import open_signers, sign


TOLERANCE_SECONDS = 300


def secret_of(key: bytes) -> str:
    """As operators write it."""
    return "whsec_" + base64.b64encode(key).decode()


OLD, NEW = secret_of(b"old-" * 8), secret_of(b"new-" * 8)

Verify = Callable[[str, bytes, Mapping[str, str]], bool]


def by_standardwebhooks(secret: str, body: bytes, headers: Mapping[str, str]) -> bool:
    """Whether the library of the specification takes it."""
    try:
        Webhook(secret).verify(body, dict(headers))
    except WebhookVerificationError:
        return False
    return True


def by_replicate(secret: str, body: bytes, headers: Mapping[str, str]) -> bool:
    """Whether a receiver's library takes it, whose authors wrote their own."""
    try:
        Webhooks.validate(
            headers=dict(headers),
            body=body.decode(),
            secret=WebhookSigningSecret(key=secret),
            tolerance=TOLERANCE_SECONDS,
        )
    except WebhookValidationError:
        return False
    return True


both = pytest.mark.parametrize("verify", [by_standardwebhooks, by_replicate])


def by_hand(secret: str, body: bytes, headers: Mapping[str, str]) -> str:
    """By the words of the specification, with no library but the standard one."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


async def sent(server: LocalHttp, **options: str) -> ReceivedRequest:
    """What arrives, of an event that has something of everything."""
    texts = {"title": "Ünï <b>\r\n\x00\u2028😀", "parts": ["a.b", {"": None}], "n": 1e300}
    own = {"url": f"{server.url}/hook", "secrets": NEW, "allow_networks": "127.0.0.0/8"}
    channel = make_channel("webhook", {**own, **options})
    event = make_event(changes=(make_change(new={"id": "first", **texts}),))
    try:
        outcome = await channel.call_async(event, make_delivery(key="0f:shop:3"))
    finally:
        await channel.close()
    assert outcome == Delivered("200 ok")
    (request,) = server.requests
    return request


def test_the_published_vector() -> None:
    """What all libraries of Standard Webhooks are tested with (B10)."""
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    headers = sign(open_signers([secret]), "msg_p5jXN8AQM9LWM0D4loKWxJek", body, 1614265330.9)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@both
@pytest.mark.parametrize("format", ["cloudevents", "plain"])
@pytest.mark.parametrize("payload", ["thin", "full"])
async def test_a_request_is_verified_by_two_libraries(
    http_sink: LocalHttp, verify: Verify, format: str, payload: str
) -> None:
    """The very bytes that arrive, whatever is in them; and by hand (B10)."""
    request = await sent(http_sink, format=format, payload=payload)
    assert verify(NEW, request.body, request.headers)
    assert not verify(OLD, request.body, request.headers)
    assert request.headers["webhook-signature"] == by_hand(NEW, request.body, request.headers)
    assert request.headers["webhook-id"] == "0f:shop:3"


@both
async def test_old_and_new_secret_sign_side_by_side(http_sink: LocalHttp, verify: Verify) -> None:
    """A receiver may know either, with either library, and no other (B11)."""
    request = await sent(http_sink, secrets=f"{NEW} {OLD}")
    assert verify(NEW, request.body, request.headers)
    assert verify(OLD, request.body, request.headers)
    assert not verify(secret_of(b"else" * 8), request.body, request.headers)
    expected = [by_hand(secret, request.body, request.headers) for secret in (NEW, OLD)]
    assert request.headers["webhook-signature"].split(" ") == expected


@both
@pytest.mark.parametrize("changed", ["body", "webhook-id", "webhook-timestamp"])
async def test_what_was_changed_on_the_way_is_not_verified(
    http_sink: LocalHttp, verify: Verify, changed: str
) -> None:
    """Everything that a receiver relies on is signed (B10)."""
    request = await sent(http_sink)
    headers = dict(request.headers)
    if changed == "body":
        body = request.body.replace(b"create", b"delete")
        assert body != request.body
    else:
        body = request.body
        headers[changed] = headers[changed][:-1] + ("4" if headers[changed][-1] != "4" else "5")
    assert not verify(NEW, body, headers)


@both
@pytest.mark.parametrize(("age", "expected"), [(0, True), (200, True), (400, False)])
def test_an_old_request_is_not_taken_for_new(verify: Verify, age: int, expected: bool) -> None:
    """More than five minutes after the attempt nobody can send it again (B11)."""
    headers = sign(open_signers([NEW]), "0f:shop", b"{}", time.time() - age)
    assert verify(NEW, b"{}", headers) is expected


def test_another_attempt_has_the_same_id_and_its_own_time() -> None:
    """So that a repeat is recognised, and an old request is not taken for new (B11)."""
    first, second = (sign(open_signers([NEW]), "0f:shop", b"{}", at) for at in (1000.9, 1060.0))
    assert first["webhook-id"] == second["webhook-id"]
    assert (first["webhook-timestamp"], second["webhook-timestamp"]) == ("1000", "1060")
    assert first["webhook-signature"] != second["webhook-signature"]


@given(
    keys=st.lists(st.binary(min_size=24, max_size=64), min_size=1, max_size=4, unique=True),
    text=st.text(),
)
def test_any_secret_and_any_text(keys: list[bytes], text: str) -> None:
    """Every one of the secrets verifies what is signed with all of them (B10, B11)."""
    secrets, body = [secret_of(key) for key in keys], json.dumps(text).encode()
    headers = sign(open_signers(secrets), "0f:shop", body, time.time())
    for secret in secrets:
        assert by_standardwebhooks(secret, body, headers)
        assert by_replicate(secret, body, headers)
