"""What an address of the Internet is good for. Pure.

Explicit ranges, after the special-purpose registries of IANA: what ``ipaddress.is_global`` answers
has changed between versions of Python, also within one.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network


_RANGES = (
    ("0.0.0.0/8", "this network"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "carrier-grade NAT"),
    ("127.0.0.0/8", "loopback"),
    ("168.63.129.16/32", "metadata"),  # Azure's, outside of every special range
    ("169.254.0.0/16", "link-local"),  # with the metadata of most clouds
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved for protocols"),  # with Oracle's metadata
    ("192.0.2.0/24", "documentation"),
    ("192.88.99.0/24", "6to4 relay"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "benchmarking"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("240.0.0.0/4", "reserved"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    # What holds an IPv4 address is refused whichever it is: translators may take it anywhere.
    ("::/96", "IPv4-compatible"),
    ("::ffff:0:0/96", "IPv4-mapped"),
    ("::ffff:0:0:0/96", "IPv4-translated"),
    ("64:ff9b::/96", "NAT64"),
    ("64:ff9b:1::/48", "NAT64"),
    ("100::/64", "discard-only"),
    ("2001::/32", "Teredo"),
    ("2001::/23", "reserved for protocols"),
    ("2001:db8::/32", "documentation"),
    ("2002::/16", "6to4"),
    ("3fff::/20", "documentation"),
    ("5f00::/16", "segment routing"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
)
"""The first range that holds an address names it."""

RANGES = tuple((ip_network(network), kind) for network, kind in _RANGES)

ISATAP = 0x0000_5EFE
"""Before the IPv4 address that is the rest, under any prefix (RFC 5214). The bit ``UNIQUE`` may be
set, where that address is unique worldwide."""

UNIQUE = 0x0200_0000

GLOBAL_UNICAST = IPv6Network("2000::/3")
"""Outside of it nothing has been assigned to anybody; it may be private tomorrow."""


def special_use(address: str | IPv4Address | IPv6Address) -> str | None:
    """What the address is reserved for, or ``None`` if it is somebody's on the Internet.

    A scope (``%eth0``) is ignored. Raises ``ValueError`` for what is no address in its ordinary
    spelling.
    """
    ip = ip_address(address)
    for network, kind in RANGES:
        if ip in network:
            return kind
    if ip.version == 6 and ip not in GLOBAL_UNICAST:
        return "not global unicast"
    if ip.version == 6 and (int(ip) >> 32) & 0xFFFF_FFFF & ~UNIQUE == ISATAP:
        return "ISATAP"
    return None
