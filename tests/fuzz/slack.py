"""No record pings anybody in Slack, forges a link, or makes a message that Slack refuses."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from kinto_dispatch import Message
from kinto_dispatch.testing import make_change, make_event
from kinto_dispatch_slack.blocks import blocks
from kinto_dispatch_slack.message import payload
from tests.fuzz.engine import Defect, Target


def _load_reader() -> ModuleType:
    """What reads messages as Slack does, from the tests of the plugin."""
    name = "slack_mrkdwn"
    if name not in sys.modules:
        path = Path(__file__).parents[2] / f"plugins/kinto-dispatch-slack/tests/{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec
        assert spec.loader
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


READER: Any = _load_reader()


def run(data: bytes) -> str:
    """Put it into every place that a user fills."""
    text = data.decode("utf-8", "replace")
    head, _, tail = text.partition("\x1e")
    new = {"title": text, head: [tail], "n": {tail: head}}
    event = make_event(
        user_id=head,
        root_url=tail or "https://kinto.example/v1/",
        timestamp=len(data) * 10**12,
        changes=(
            make_change(uri=f"/{head}", new=new, old={"title": tail}, changed=tuple(new)),
            make_change(uri=text, old=new, new=None),
        ),
    )
    body = json.loads(json.dumps(payload(Message(head, tail), blocks(text, event))))
    plain = READER.read_text(body["text"])
    expected = f"{head}\n{tail}" if head and tail else head or tail
    if plain.texts != [expected] or not plain.is_inert:
        raise Defect(f"the text is read as {plain}")
    shown = READER.read_blocks(body["blocks"])
    if shown.pings or any(url != label for url, label in shown.links):
        raise Defect(f"the blocks are read as {shown}")
    return f"{len(shown.links)} links, {len(body['blocks'])} blocks, {'&' in body['text']}"


TARGET = Target(
    "slack",
    run,
    seeds=[
        b"<!channel>",
        b"<https://evil.example|bank>\x1e<@U1>",
        b"&lt;!here&gt; &amp;\x1ehttps://kinto.example/v1/",
        b"a\x1ehttps://user@kinto.example/v1/",
        b"*bold* _x_ ~y~ `z` :smile: > quote",
    ],
    words=[
        *b"< > & | <! <@ <# <!subteam^S1> &lt; &gt; &amp; &amp;lt; http:// javascript:".split(),
        "\u202e".encode(),
        "\u2028".encode(),
        b"\n",
        b"&" * 3_100,
        b"\x1e",
    ],
)
