from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.shared.outbound.addresses import is_allowed, networks_from
from services.shared.outbound.settings import OutboundSettings

INSIDE = (
    "0.0.0.0",
    "10.1.2.3",
    "100.100.100.200",  # Alibaba's metadata
    "127.0.0.1",
    "168.63.129.16",  # Azure's
    "169.254.169.254",  # everybody else's
    "172.31.255.255",
    "192.0.0.192",  # Oracle's
    "192.168.0.1",
    "198.19.255.255",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::8.8.8.8",
    "100::1",
    "2001:0:808:808::1",  # Teredo
    "2001:db8::1",
    "2002:7f00:1::",  # 6to4 of 127.0.0.1
    "3fff::1",
    "fd00:ec2::254",  # Amazon's metadata
    "fe80::1",
    "fec0::1",
    "ff0e::1",
    "2606:4700::1111%eth0",
)


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_that_is_not_public_may_not_be_called(address: str) -> None:
    assert not is_allowed(ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])
def test_a_public_address_may_be_called(address: str) -> None:
    assert is_allowed(ip_address(address))


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
@example(IPv6Address("2001:1::1"))
def test_every_special_address_known_to_python_is_refused(address: IPv4Address | IPv6Address) -> None:
    special = not address.is_global or address.is_multicast or address.is_link_local or address.is_loopback
    if isinstance(address, IPv4Address):
        special = special or address.is_reserved
    assert not (special and is_allowed(address))


@given(st.ip_addresses(v=4))
@example(IPv4Address("127.0.0.1"))
@example(IPv4Address("8.8.8.8"))
def test_an_ipv4_address_is_judged_the_same_in_every_notation(address: IPv4Address) -> None:
    for written in (f"::ffff:{address}", f"64:ff9b::{address}"):
        assert is_allowed(IPv6Address(written)) == is_allowed(address)


def test_an_allowed_network_may_be_called_and_its_neighbour_may_not() -> None:
    allowed = networks_from("10.20.0.0/16, fd00:1::/64")
    for address in ("10.20.3.4", "::ffff:10.20.3.4", "fd00:1::7"):
        assert is_allowed(ip_address(address), allowed)
    for address in ("10.21.0.1", "127.0.0.1", "fd00:1:0:1::7", "fd00:1::7%eth0"):
        assert not is_allowed(ip_address(address), allowed)


@pytest.mark.parametrize("text", ["10.0.0.0/33", "intranet", "10.0.0.1/8"])
def test_an_invalid_network_is_refused_at_startup(text: str) -> None:
    with pytest.raises(ValidationError, match="outbound_allowed_networks"):
        OutboundSettings(outbound_allowed_networks=text)


def test_by_default_only_https_to_public_addresses_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LYRA_OUTBOUND_ALLOWED_NETWORKS", raising=False)
    monkeypatch.delenv("LYRA_OUTBOUND_ALLOW_HTTP", raising=False)
    settings = OutboundSettings()
    assert settings.allowed_networks == ()
    assert not settings.outbound_allow_http
