"""Whom a hook wants to be told: addresses, and groups of the bucket that it stands in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

from pydantic import AfterValidator

from kinto_dispatch.mailboxes import is_mailbox, mailbox
from kinto_dispatch.settings import Addresses


MOST_RECIPIENTS = 50

_GROUP = re.compile(r"/buckets/([A-Za-z0-9][A-Za-z0-9_-]*)/groups/([A-Za-z0-9][A-Za-z0-9_-]*)")


def group_of(text: str) -> tuple[str, str] | None:
    """The ids of the bucket and of the group, where it is the uri of a group."""
    found = _GROUP.fullmatch(text)
    return (found[1], found[2]) if found else None


def foreign_groups(recipients: Iterable[str], owner: str) -> Sequence[str]:
    """The groups among them that are not of the bucket that ``owner`` is, or lies in: whoever may
    write there need not be allowed to read them."""
    groups = ((recipient, group_of(recipient)) for recipient in recipients)
    bucket_id = owner.split("/")[2]
    return [recipient for recipient, group in groups if group and group[0] != bucket_id]


def members_to_addresses(members: Iterable[object]) -> Sequence[str]:
    """The members of a group that can be written to: ``ldap:a@b.org`` is ``a@b.org``."""
    texts = (member for member in members if isinstance(member, str))
    bare = (text if is_mailbox(text) else text.partition(":")[2] for text in texts)
    return [text for text in bare if is_mailbox(text)]


def _each(check: Callable[[str], object]) -> AfterValidator:
    def checked(texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            check(text)
        return texts

    return AfterValidator(checked)


def _check_recipient(text: str) -> None:
    if text.startswith("/buckets/default/"):
        raise ValueError(
            "groups by the id of their bucket; /buckets/default is another one for each user"
        )
    if group_of(text) is None:
        mailbox(text)


Mailboxes = Annotated[Addresses, _each(mailbox)]
"""For the ``Settings`` of a plugin: addresses with or without a name, each exactly one."""

Recipients = Annotated[Addresses, _each(_check_recipient)]
"""The same, and groups, as in ``/buckets/b/groups/g``: see ``Channel.addresses``."""
