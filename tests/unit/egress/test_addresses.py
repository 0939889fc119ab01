"""Every special range is refused to its edges, and its neighbours are not."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinto_dispatch.egress.addresses import RANGES, special_use


REFUSED = {
    "0.0.0.0": "this network",
    "0.1.2.3": "this network",
    "10.0.0.1": "private",
    "10.255.255.255": "private",
    "100.64.0.1": "carrier-grade NAT",
    "100.100.100.200": "carrier-grade NAT",  # Alibaba's metadata
    "100.127.255.255": "carrier-grade NAT",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "168.63.129.16": "metadata",
    "169.254.0.1": "link-local",
    "169.254.169.254": "link-local",
    "169.254.170.2": "link-local",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.0.0.192": "reserved for protocols",
    "192.0.2.1": "documentation",
    "192.88.99.1": "6to4 relay",
    "192.168.0.1": "private",
    "198.18.0.1": "benchmarking",
    "198.19.255.255": "benchmarking",
    "198.51.100.7": "documentation",
    "203.0.113.7": "documentation",
    "224.0.0.1": "multicast",
    "239.255.255.255": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "broadcast",
    "::": "unspecified",
    "::1": "loopback",
    "::1%lo": "loopback",
    "::8.8.8.8": "IPv4-compatible",
    "::ffff:127.0.0.1": "IPv4-mapped",
    "::ffff:8.8.8.8": "IPv4-mapped",
    "::ffff:0:127.0.0.1": "IPv4-translated",
    "64:ff9b::a00:1": "NAT64",
    "64:ff9b::808:808": "NAT64",
    "64:ff9b:1::a00:1": "NAT64",
    "100::1": "discard-only",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2": "Teredo",
    "2001:2::1": "reserved for protocols",
    "2001:10::1": "reserved for protocols",
    "2001:db8::1": "documentation",
    "2002:a00:1::1": "6to4",
    "2002:808:808::1": "6to4",
    "3fff::1": "documentation",
    "5f00::1": "segment routing",
    "fc00::1": "private",
    "fd00:ec2::254": "private",  # Amazon's metadata
    "fd20:ce::254": "private",  # Google's metadata
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local",
    "fec0::1": "site-local",
    "ff02::1": "multicast",
    "2001:470:1f0b::5efe:a00:1": "ISATAP",  # 10.0.0.1
    "2001:470:1f0b::200:5efe:a00:1": "ISATAP",
    "2606:4700::5efe:127.0.0.1": "ISATAP",
    "4000::1": "not global unicast",
    "1fff::1": "not global unicast",
    "e000::1": "not global unicast",
}

ON_THE_INTERNET = (
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "168.63.129.17",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.3.0",
    "192.88.98.255",
    "192.88.100.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "198.51.99.255",
    "198.51.101.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
    "2000::1",
    "2001:470:1f0b::5eff:a00:1",
    "2001:470:1f0b::100:5efe:a00:1",
    "2001:470:1f0b:5efe::1",
    "2001:200::1",
    "2001:db7:ffff::1",
    "2001:db9::1",
    "2003::1",
    "2606:4700:4700::1111",
    "2a00:1450:4001:80b::200e",
    "3ffe:ffff::1",
    "3fff:1000::1",
)


@pytest.mark.parametrize(("address", "kind"), REFUSED.items())
def test_a_special_address_is_named(address: str, kind: str) -> None:
    """What an address is reserved for is said, whichever way it is given (B1)."""
    assert special_use(address) == kind
    assert special_use(ip_address(address)) == kind


@pytest.mark.parametrize("address", ON_THE_INTERNET)
def test_an_address_on_the_internet_has_no_special_use(address: str) -> None:
    """Also right beside a special range (B1)."""
    assert special_use(address) is None


@pytest.mark.parametrize(("network", "kind"), RANGES, ids=[str(row[0]) for row in RANGES])
def test_a_range_reaches_to_its_edges(network: IPv4Network | IPv6Network, kind: str) -> None:
    """The first and the last address of a range are refused (B1)."""
    assert special_use(network[0]) is not None
    assert special_use(network[-1]) is not None


@pytest.mark.parametrize(
    "text", ["", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::1]", "1.2.3.4\n"]
)
def test_what_is_no_address_in_its_ordinary_spelling_is_an_error(text: str) -> None:
    """Nobody has to guess how such a spelling is read elsewhere (B2)."""
    with pytest.raises(ValueError, match="does not appear"):
        special_use(text)


@given(st.ip_addresses())
def test_what_python_calls_private_is_refused(address: IPv4Address | IPv6Address) -> None:
    """Our ranges hold everything that Python's own judgement finds unfit for the Internet (B1)."""
    if address.is_private or address.is_reserved or address.is_multicast or address.is_link_local:
        assert special_use(address) is not None
