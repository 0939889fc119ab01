"""Signatures after Standard Webhooks 1.0. Pure."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook


PREFIX = "whsec_"
FEWEST_BYTES, MOST_BYTES = 24, 64
MOST_SECRETS = 5
"""A receiver changes from one to the next; what is forgotten should not sign for ever."""

ADVICE = (
    "make one with: python -c 'import base64, secrets;"
    ' print("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())\''
)


def open_signers(secrets: Iterable[str]) -> tuple[Webhook, ...]:
    """One for each secret. Raises ``ValueError``, which quotes none of them."""
    signers = tuple(_signer(secret, number) for number, secret in enumerate(secrets, start=1))
    if not signers:
        raise ValueError(f"one secret or several; {ADVICE}")
    if len(signers) > MOST_SECRETS:
        raise ValueError(f"at most {MOST_SECRETS} secrets; leave out those that nobody uses now")
    return signers


def _signer(secret: str, number: int) -> Webhook:
    expected = f"{PREFIX} and the base64 of {FEWEST_BYTES} to {MOST_BYTES} bytes"
    if not secret.startswith(PREFIX):
        raise ValueError(f"{expected}, but secret {number} does not begin with {PREFIX}; {ADVICE}")
    try:
        # Strictly: what this library takes without its padding, that of the receiver may not.
        key = b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        raise ValueError(f"{expected}, but secret {number} is not base64; {ADVICE}") from None
    if not FEWEST_BYTES <= len(key) <= MOST_BYTES:
        raise ValueError(f"{expected}, but secret {number} has {len(key)}; {ADVICE}")
    return Webhook(key)


def sign(signers: Sequence[Webhook], key: str, body: bytes, at: float) -> dict[str, str]:
    """The three headers. ``key`` has no full stop: it is made of a UUID, a name and a number.

    ``at`` is the time of the attempt, in seconds since the epoch.
    """
    seconds = int(at)
    moment = datetime.fromtimestamp(seconds, UTC)  # the library takes any other for UTC, too
    text = body.decode()
    signatures = (signer.sign(key, moment, text) for signer in signers)
    return {
        "webhook-id": key,
        "webhook-timestamp": str(seconds),
        "webhook-signature": " ".join(signatures),
    }
