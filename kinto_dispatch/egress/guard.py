"""Decides on an address whether a channel may send there."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any

from kinto_dispatch.egress.addresses import special_use
from kinto_dispatch.errors import EgressRefused


if TYPE_CHECKING:
    import aiohttp

Network = IPv4Network | IPv6Network


class EgressGuard:
    """Lets through what is on the Internet, and what the operator named. Immutable.

    Private, loopback, link-local and all other special addresses are refused, unless the host of
    the URL is one of ``allow_hosts`` or the address lies in one of ``allow_networks``. The
    decision falls on the address that is dialled, so a name may resolve as it likes.
    """

    def __init__(
        self, allow_hosts: Iterable[str] = (), allow_networks: Iterable[str | Network] = ()
    ) -> None:
        """Raises ``ValueError`` for what is no network."""
        self._hosts = frozenset(_plain(host) for host in allow_hosts)
        self._networks = tuple(ip_network(network) for network in allow_networks)

    def allows_host(self, host: str) -> bool:
        """Whether the operator named this host, or the network of this literal address."""
        try:
            return _plain(host) in self._hosts or self._is_in_networks(host)
        except ValueError:
            return False

    def check_address(self, address: str, host: str = "") -> None:
        """Raises ``EgressRefused`` unless ``address``, which ``host`` resolved to, may be dialled.

        Anything that is no address is refused.
        """
        if _plain(host) in self._hosts:
            return
        try:
            kind = special_use(address)
            if kind is None or self._is_in_networks(address):
                return
        except ValueError:
            kind = "not an address"
        raise EgressRefused(host or address, address, kind)

    def check_url(self, url: str) -> None:
        """Raises ``ValueError`` for a URL that no channel may send to, without asking any server.

        For the settings of a channel: anything but https (and http to what the operator allows),
        a host that is a refused address, or an address in a spelling that programs read in
        different ways. Names pass until they are resolved. The error never quotes the URL.
        """
        from yarl import URL

        try:
            parts = URL(url)
        except (ValueError, IndexError):  # the latter where a bracket stands before an empty host
            raise ValueError("a URL, as in https://example.com/hook") from None
        host = parts.host or ""
        allowed = self.allows_host(host)
        if not host or parts.scheme not in ("https", "http"):
            raise ValueError("a URL with https and a host, as in https://example.com/hook")
        if allowed:
            return
        if _is_address(host):
            try:
                self.check_address(host)
            except EgressRefused as refused:
                raise ValueError(str(refused)) from refused
        elif _is_odd_address(host):
            raise ValueError(f"{host} is an address; write it as {_canonical(host)}")
        if parts.scheme == "http":
            raise ValueError(f"https, or http with allow_hosts = {host}")

    def connector(self, url: str, **options: Any) -> aiohttp.TCPConnector:
        """A connector for requests to the host of ``url``; ``options`` are aiohttp's.

        Call it in the event loop that uses it. What is refused raises
        ``aiohttp.ClientConnectorError`` with the reason in its ``strerror``.
        """
        from kinto_dispatch.egress.door import open_connector

        return open_connector(self, url, **options)

    def session(self, url: str, **options: Any) -> aiohttp.ClientSession:
        """A session for requests to the host of ``url``; ``options`` are aiohttp's.

        Call it in the event loop that uses it. Nothing is taken from the environment, redirects
        raise ``RedirectRefused``, refused addresses ``EgressRefused``; of an answer at most
        64 kB are read. It has no time-out of its own: whoever sends has a deadline.
        """
        from kinto_dispatch.egress.door import open_session

        return open_session(self, url, **options)

    def _is_in_networks(self, address: str) -> bool:
        ip = ip_address(address)
        return any(ip in network for network in self._networks)


def _plain(host: str) -> str:
    return host.lower().strip("[]").rstrip(".")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_odd_address(host: str) -> bool:
    """Whether the C library takes it for an address: ``127.1``, ``0x7f.1``, ``2130706433``."""
    try:
        socket.inet_aton(host.rstrip("."))
    except OSError:
        return False
    return True


def _canonical(host: str) -> str:
    return socket.inet_ntoa(socket.inet_aton(host.rstrip(".")))
