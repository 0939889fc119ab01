"""What users write into metadata is refused with its place, or tells whom it may, soon."""

from __future__ import annotations

import json
from email.utils import getaddresses
from typing import Any

from kinto_dispatch.budget import Budget
from kinto_dispatch.errors import BadHook, RenderError, RouteError
from kinto_dispatch.event import Subscription
from kinto_dispatch.subscriptions import FORMATS, Openings, compile_hook, hooks_of, problems_of
from kinto_dispatch.testing import make_change, make_event
from tests.fuzz.engine import Defect, Target


OPENINGS = Openings({"ops": "slack", "post": "email", "team": "slack"}, "post")
NEW = {"title": "aaaaaaaaaaaaaaaaaaaaaaaa!", "n": 3, "to": "eve@example.com\r\nBcc: x@y.z"}
EVENT = make_event(
    bucket_id="blog",
    user_id="x\r\nBcc: eve@example.com",
    changes=(make_change(new=NEW, old={"n": 2.5}, changed=("n", "title", "to")),),
)
SEPARATOR = "\x1e"
MOST_TEXT = 200_000


def run(data: bytes) -> str:
    """Take it for metadata, and for each text in a hook."""
    text = data.decode("utf-8", "replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    answers = [judge(found)] if isinstance(found, dict) else []
    head, _, tail = text.partition(SEPARATOR)
    for written in (
        {"kinto-dispatch": [{"channel": "ops", "template": head, "recipients": tail.split()}]},
        {"kinto-dispatch": [{"channel": "post", "when": head, "subject": tail}]},
        {"kinto-emailer": [{"template": head, "recipients": [tail]}]},
        {"kinto-emailer": [{"template": "", "recipients": [head], "record_id": f"^{tail}"}]},
        {"kinto-slack": [{"channel": "#team", "template": head, "id": tail}]},
    ):
        answers.append(judge({name: {"hooks": hooks} for name, hooks in written.items()}))
    return " ".join(answers)


def judge(metadata: dict[str, Any]) -> str:
    """Write it, and if it may stand there, do as it says."""
    problems = list(problems_of(metadata, "blog", OPENINGS))
    if any(not why or not where.startswith(FORMATS) for where, why in problems):
        raise Defect(f"refused without place or reason: {problems}")
    hooks = list(hooks_of(metadata, OPENINGS))
    if problems:
        return "refused"
    return "".join(obey(format, channel, hook) for format, channel, hook in hooks) or "none"


def obey(format: str, channel: str | None, hook: dict[str, Any]) -> str:
    """What comes of a hook that may stand there."""
    if channel is None or channel not in OPENINGS.plugins:
        raise Defect(f"{channel} is not open")
    compiled = compile_hook(format, hook)
    subscription = Subscription(format=format, owner="/buckets/blog", channel=channel, hook=hook)
    try:
        changes = compiled.select(EVENT, Budget(10_000_000))
        message = compiled.render(EVENT, subscription)
    except (BadHook, RouteError, RenderError):
        return "error"
    if len(message.subject.splitlines()) > 1 or len(message.text) > MOST_TEXT:
        raise Defect("a message that nobody can send")
    if any(not is_one(recipient) for recipient in (message.recipients or ())):
        raise Defect(f"{(message.recipients or ())} are told")
    return f"{len(changes)}"


def is_one(recipient: str) -> bool:
    """Whether it is one address for a reader of mails, or may be a group of Kinto."""
    if recipient.startswith("/buckets/") and "@" not in recipient:
        return recipient.isprintable() and recipient.count("/") == 4
    return recipient.isprintable() and len(getaddresses([recipient])) == 1 and "@" in recipient


TARGET = Target(
    "hooks",
    run,
    seeds=[
        b'{"kinto-dispatch": {"hooks": [{"channel": "ops", "when": "new.n > `2`", "subject": '
        b'"{{ change.new.title }}", "recipients": ["a@b.org", "/buckets/blog/groups/g"]}]}}',
        b'{"kinto-emailer": {"hooks": [{"template": "{record_id} {root_url}", "sender": "a@b.c", '
        b'"recipients": ["/buckets/{bucket_id}/groups/g"], "id": "^a+$", "action": "create"}]}}',
        b'{"kinto-slack": {"hooks": [{"channel": "#team", "template": "{title}"}]}}',
        b"{{ change.new.title|upper }}\x1ea@b.org",
        b"new.title == 'a' && contains(changed, 'n')\x1ex",
        b"(a+)+$\x1e(a|a)*$",
        b"{id:>99999999} {x.__class__} {bucket_id[0]}\x1eJoe <joe@example.com>",
        b"/buckets/blog-secret/groups/g\x1e/buckets/{collection_id}/groups/{to}",
    ],
    words=[
        *b"kinto-dispatch kinto-emailer kinto-slack hooks channel recipients template".split(),
        *b"{ } {{ }} {% %} [ ] ( ) | ^ $ (a+)+ .* \\1 (?= {1,9} :>9 !r . __class__".split(),
        *b"/buckets/ /groups/ blog {bucket_id} {record_id} {to} @ < > , : %0a a@b.org".split(),
        b'{"hooks": [',
        b"null",
        b"\r\nBcc: ",
        b"\x1e",
        b'"\\ud800"',
        b"[@,@][]",
        b"9" * 40,
    ],
)
