"""Where a channel may send to over HTTP, and the one door through which it does.

Needs ``aiohttp``, which the plugins that use it bring, only once a connection is wanted.
"""

from kinto_dispatch.egress.guard import EgressGuard


__all__ = ["EgressGuard"]
