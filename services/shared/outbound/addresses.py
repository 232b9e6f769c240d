"""Which addresses requests may go to: the public internet, and networks allowed by a setting.

The tables follow the IANA special-purpose address registries (RFC 6890, RFC 8190), plus addresses that `ipaddress`
considers global although they are not public hosts: multicast, translated and tunnelled addresses, and Azure's metadata
service.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NOT_PUBLIC_4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by carriers
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's metadata and DNS
        "169.254.0.0/16",  # link-local, metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_PUBLIC_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: names an IPv4 address
        "3fff::/20",  # documentation
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")


def networks_from(text: str) -> tuple[Network, ...]:
    """Parses comma-separated networks in CIDR notation. Raises ValueError naming the invalid one."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def is_allowed(address: Address, allowed: Iterable[Network] = ()) -> bool:
    """Whether `address` is public or in an `allowed` network.

    IPv6 addresses that represent an IPv4 address (IPv4-mapped, NAT64) are treated like that address.
    """
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return False
        address = _embedded(address)
    return _is_public(address) or any(address in network for network in allowed)


def _embedded(address: IPv6Address) -> Address:
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    return address in _PUBLIC_6 and not any(address in network for network in _NOT_PUBLIC_6)
