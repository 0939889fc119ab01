"""No record and no hook adds a header or a recipient to a mail, or makes one that breaks."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage

from kinto_dispatch import Message, legible
from kinto_dispatch.render import one_line
from kinto_dispatch.testing import make_change, make_event
from kinto_dispatch_email import EmailSettings
from kinto_dispatch_email.message import mail
from tests.fuzz.engine import Defect, Target


OWN = {"from": "Kinto <kinto@example.org>", "recipients": "a@example.org", "bcc": "b@example.org"}
PEOPLE = EmailSettings.model_validate(OWN)
HEADERS = {
    *("Subject", "From", "To", "Message-ID", "In-Reply-To", "References", "Date", "List-Id"),
    *("Auto-Submitted", "Content-Type", "MIME-Version", "Content-Transfer-Encoding"),
}
LONGEST_LINE = 998


def run(data: bytes) -> str:
    """Put it into every place that a user fills, and read the mail as a receiver does."""
    text = data.decode("utf-8", "replace").replace("\0", "")
    head, _, tail = text.partition("\x1e")
    people = named(head)
    who = people is not PEOPLE
    event = make_event(changes=(make_change(uri=f"/{text}"),), root_url=head, user_id=tail)
    letter = mail(people, Message(one_line(head), tail), event, "team", f"{tail}:team")
    read = message_from_bytes(letter.content, _class=EmailMessage, policy=policy.default)
    expected = HEADERS | ({"Reply-To"} if who else set())
    if sorted(read.keys()) != sorted(expected):
        raise Defect(f"its headers are {sorted(read.keys())}")
    if str(read["Subject"]).split() != legible(one_line(head)).split():
        raise Defect(f"the subject is read as {read['Subject']!r}")
    if len(read["To"].addresses) != 1 or len(letter.recipients) > 2:
        raise Defect(f"it goes to {letter.recipients}")
    if str(read.get_content()).splitlines() != tail.splitlines():
        raise Defect("the text is another one")
    lines = letter.content.split(b"\r\n")
    if max(map(len, lines)) > LONGEST_LINE or any(
        b"\n" in line or b"\r" in line for line in lines
    ):
        raise Defect("a line that servers do not take")
    return f"{who} {read['Content-Transfer-Encoding']} {len(lines) > 20}"


def named(text: str) -> EmailSettings:
    """Whom a mail goes to: the one of this address, if it is one."""
    try:
        people = EmailSettings.model_validate({**OWN, "recipients": text, "reply_to": text})
    except ValueError:
        return PEOPLE
    return people if people.recipients == (text,) else PEOPLE


TARGET = Target(
    "mails",
    run,
    seeds=[
        b"Hello\x1eYour record has changed.",
        b"x\r\nBcc: eve@example.com\x1e.\r\nMAIL FROM:<eve@example.com>",
        "Grüße an Jané\x1eÜ".encode(),
        b"=?utf-8?q?Bcc?=: x\x1e=?utf-8?b?eA==?=",
        b'"Doe, Jane" <jane@example.org>\x1ex',
        b"joe@example.org\x1eFrom me",
    ],
    words=[
        *b"\r \n \r\n : , ; < > @ =?utf-8?q?x?= =?utf-8?b?eA==?= ?= Bcc: To: . From".split(b" "),
        *b'a@b.org <a@b.org> " \\ ( ) =0A =3D %0a \t \x0b \x0c \x1b[2J'.split(b" "),
        "\u2028".encode(),
        "\u202e".encode(),
        "\x85".encode(),
        "é".encode() * 80,
        b"x" * 1_100,
        b"\x1e",
    ],
)
