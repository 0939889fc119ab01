"""A port of this machine on the command line, with the address to listen on."""

from __future__ import annotations

import contextlib
from typing import Any
from urllib.parse import urlsplit

import rich_click as click


LOOPBACK = "127.0.0.1"

Address = tuple[str, int]


class AddressType(click.ParamType[Address]):
    """``8080`` on the loopback address, ``0.0.0.0:8080``, ``[::]:8080``; port 0 is a free one."""

    name = "[HOST:]PORT"

    def convert(self, value: Any, param: Any, ctx: Any) -> Address:
        """Host and port. A usage error for anything else."""
        with contextlib.suppress(ValueError):
            parts = urlsplit(f"//{LOOPBACK}:{value}" if str(value).isdecimal() else f"//{value}")
            is_bare = parts.netloc and "@" not in parts.netloc and not parts.path
            if is_bare and parts.hostname and parts.port is not None:
                return parts.hostname, parts.port
        self.fail(f"{value!r} is none of 8080 (on {LOOPBACK}), 0.0.0.0:8080, [::]:8080.", param)
