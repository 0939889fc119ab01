"""Whom a hook wants to be told: addresses, and groups of the bucket that it stands in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


MOST_RECIPIENTS = 50

_LOCAL = r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}"
_DOMAIN = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
_NAME = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029<>,;:\"@\\()]{1,100}"
_MAILBOX = re.compile(rf"{_LOCAL}@{_DOMAIN}|{_NAME} <{_LOCAL}@{_DOMAIN}>")
_GROUP = re.compile(r"/buckets/([A-Za-z0-9][A-Za-z0-9_-]*)/groups/([A-Za-z0-9][A-Za-z0-9_-]*)")


def is_mailbox(text: str) -> bool:
    """Whether it is one address, as in ``a@b.org`` or ``Joe <a@b.org>``."""
    return _MAILBOX.fullmatch(text) is not None


def group_of(text: str) -> tuple[str, str] | None:
    """The ids of the bucket and of the group, where it is the uri of a group."""
    found = _GROUP.fullmatch(text)
    return (found[1], found[2]) if found else None


def members_to_addresses(members: Iterable[object]) -> Sequence[str]:
    """The members of a group that can be written to: ``ldap:a@b.org`` is ``a@b.org``."""
    texts = (member for member in members if isinstance(member, str))
    bare = (text if is_mailbox(text) else text.partition(":")[2] for text in texts)
    return [text for text in bare if is_mailbox(text)]
