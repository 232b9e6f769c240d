"""The client's address: the peer of the connection, or what trusted proxies forward."""

from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, cast

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from services.shared import telemetry

log = telemetry.get_logger(__name__)

UNKNOWN = "-"
# A client usually controls the whole network that its provider assigns.
_IPV6_PREFIX = 64
_MAPPED_BITS = 96


def trusted_networks(text: str) -> list[IPv4Network | IPv6Network]:
    """Parses comma-separated addresses and networks. Raises ValueError."""
    networks = []
    for name in (each.strip() for each in text.split(",")):
        if not name:
            continue
        try:
            network = ip_network(name)
        except ValueError as error:
            raise ValueError(f"{name[:60]!r} is not an address or network such as 10.0.0.0/8: {error}") from None
        if network.prefixlen == 0:
            raise ValueError(f"{name!r} covers every address: then any client could claim any address")
        networks.append(network)
    return networks


class ClientAddressMiddleware:
    """ASGI middleware: sets `scope["client"]` to the client's address, from X-Forwarded-For behind trusted proxies.

    The header is read from the right, skipping trusted proxies, so that entries forged by a client have no effect.
    Addresses are normalized: an IPv4-mapped IPv6 address (`::ffff:1.2.3.4`) becomes IPv4.
    """

    def __init__(self, app: ASGIApp, trusted: Collection[IPv4Network | IPv6Network]) -> None:
        self._app = app
        names = [str(network) for network in trusted]
        # Some proxies and dual-stack sockets report IPv4 addresses as IPv6.
        names += [
            f"::ffff:{network.network_address}/{_MAPPED_BITS + network.prefixlen}"
            for network in trusted
            if isinstance(network, IPv4Network)
        ]
        # Starlette and uvicorn define different types for the same three callables.
        middleware = ProxyHeadersMiddleware(cast(Any, self._normalized), names)
        self._trusted = middleware.trusted_hosts
        self._proxied = cast(ASGIApp, middleware)
        self._warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        peer = scope.get("client")
        scope.setdefault("state", {})["peer"] = peer
        self._warn_of_unknown_proxy(scope, peer[0] if peer else UNKNOWN)
        await self._proxied(scope, receive, send)

    async def _normalized(self, scope: Scope, receive: Receive, send: Send) -> None:
        forwarded, peer = scope.get("client"), scope["state"].pop("peer")
        scope["client"] = _normalize(forwarded) or _normalize(peer)
        await self._app(scope, receive, send)

    def _warn_of_unknown_proxy(self, scope: Scope, peer: str) -> None:
        """Logs once: without the setting, all clients of a proxy share one address."""
        if self._warned or peer in self._trusted:
            return
        if any(name == b"x-forwarded-for" for name, _ in scope["headers"]):
            self._warned = True
            text = "X-Forwarded-For is ignored; if this is your proxy, add it to LYRA_TRUSTED_PROXIES"
            log.warning(text, address=peer)


def client_address(scope: Scope) -> str:
    """IP address of the client, or "-" for a connection without one (a Unix socket)."""
    client = scope.get("client")
    return str(client[0]) if client else UNKNOWN


def rate_limited_address(address: str) -> str:
    """What rate limits count as one client: an IPv4 address, or the /64 network of an IPv6 address."""
    if address == UNKNOWN or not isinstance(parsed := ip_address(address), IPv6Address):
        return address
    return str(IPv6Network((parsed.packed, _IPV6_PREFIX), strict=False))


def _normalize(client: tuple[str, int] | None) -> tuple[str, int] | None:
    """None if it is not an address, such as the `unknown` of some proxies."""
    try:
        address = ip_address(client[0]) if client else None
    except ValueError:
        return None
    if address is None or client is None:
        return None
    if isinstance(address, IPv6Address):
        # Drops the zone of fe80::1%eth0, which is local to this machine.
        address = address.ipv4_mapped or IPv6Address(address.packed)
    return str(address), client[1]
