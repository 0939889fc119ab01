"""Where a channel may send to over HTTP, the one door through which it does, and a client that
posts through it.

Needs ``aiohttp``, which the plugins that use it bring, only once a connection is wanted.
"""

from kinto_dispatch.egress.answer import HttpAnswer
from kinto_dispatch.egress.client import HttpClient
from kinto_dispatch.egress.guard import EgressGuard
from kinto_dispatch.egress.headers import check_headers


__all__ = ["EgressGuard", "HttpAnswer", "HttpClient", "check_headers"]
