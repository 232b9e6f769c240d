"""Where a request comes from: the connection's other end, or what trusted proxies in front of it say."""

from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, cast

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from services.shared import telemetry

log = telemetry.get_logger(__name__)

UNKNOWN = "-"
# Whoever has one IPv6 address has the whole network that providers hand out.
_IPV6_PREFIX = 64
_MAPPED_BITS = 96


def trusted_networks(text: str) -> list[IPv4Network | IPv6Network]:
    """The addresses and networks in `text`, with commas between. Raises ValueError."""
    networks = []
    for name in (each.strip() for each in text.split(",")):
        if not name:
            continue
        try:
            network = ip_network(name)
        except ValueError as error:
            raise ValueError(f"{name[:60]!r} is no address and no network, such as 10.0.0.0/8: {error}") from None
        if network.prefixlen == 0:
            raise ValueError(f"{name!r} is everybody: then anybody could claim any address")
        networks.append(network)
    return networks


class ClientAddress:
    """ASGI middleware: `scope["client"]` becomes the client's address, which X-Forwarded-For names for trusted proxies.

    The header is read from the right, past the trusted ones, so that what a client wrote into it counts for nothing.
    Addresses are written in one way only: an IPv4 address that arrives as IPv6 (`::ffff:1.2.3.4`) is one of IPv4.
    """

    def __init__(self, app: ASGIApp, trusted: Collection[IPv4Network | IPv6Network]) -> None:
        self._app = app
        names = [str(network) for network in trusted]
        # Proxies that write, and sockets that give, IPv4 addresses as IPv6.
        names += [
            f"::ffff:{network.network_address}/{_MAPPED_BITS + network.prefixlen}"
            for network in trusted
            if isinstance(network, IPv4Network)
        ]
        # Starlette and uvicorn have types of their own for the same three callables.
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
        told, peer = scope.get("client"), scope["state"].pop("peer")
        scope["client"] = _normalize(told) or _normalize(peer)
        await self._app(scope, receive, send)

    def _warn_of_unknown_proxy(self, scope: Scope, peer: str) -> None:
        """Once: without the setting, all clients of a proxy share one address."""
        if self._warned or peer in self._trusted:
            return
        if any(name == b"x-forwarded-for" for name, _ in scope["headers"]):
            self._warned = True
            text = "X-Forwarded-For is not believed; if this is your proxy, name it in LYRA_TRUSTED_PROXIES"
            log.warning(text, address=peer)


def client_address(scope: Scope) -> str:
    """Of a request's client, or "-" where the connection has none (a Unix socket)."""
    client = scope.get("client")
    return str(client[0]) if client else UNKNOWN


def limited_as(address: str) -> str:
    """What is counted as one: an IPv4 address, or the /64 network of an IPv6 address."""
    if address == UNKNOWN or not isinstance(parsed := ip_address(address), IPv6Address):
        return address
    return str(IPv6Network((parsed.packed, _IPV6_PREFIX), strict=False))


def _normalize(client: tuple[str, int] | None) -> tuple[str, int] | None:
    """None where it is no address, as `unknown` of some proxies."""
    try:
        address = ip_address(client[0]) if client else None
    except ValueError:
        return None
    if address is None or client is None:
        return None
    if isinstance(address, IPv6Address):
        # A zone, as in fe80::1%eth0, is this machine's own word.
        address = address.ipv4_mapped or IPv6Address(address.packed)
    return str(address), client[1]
