"""Connections: how many there may be, from whom, and how long they may take for what they do.

uvicorn closes idle connections, and no others: a client that never finishes its headers, or never reads its answer,
stays for ever. So each connection is looked at a few times a second, and what is late is closed.
"""

import asyncio
import ssl
from asyncio import sslproto
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import prometheus_client
from uvicorn.config import Config
from uvicorn.server import ServerState

from services.gateway.http.protocol import HttpProtocol

OPEN = prometheus_client.Gauge("lyra_connections_open", "Connections of clients to the gateway.")
REFUSED = prometheus_client.Counter(
    "lyra_connections_refused_total", "Connections closed as they came, by the limit that was reached.", ("reason",)
)
CUT = prometheus_client.Counter(
    "lyra_connections_cut_total",
    "Connections closed as their clients were too slow, or idle for too long.",
    ("reason",),
)

_MAX_LINGERING = 64  # refused connections that are being told so
_TLS_SHUTDOWN_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What the settings of the same names say."""

    max_connections: int
    max_connections_per_address: int  # 0 for no limit
    max_idle_connections: int
    header_seconds: float
    idle_seconds: float
    write_seconds: float

    @property
    def step_seconds(self) -> float:
        """Between two looks at all connections."""
        return min(0.5, self.header_seconds / 4, self.idle_seconds / 4, self.write_seconds / 4)


class Connections:
    """All connections of one server. `protocol` is what uvicorn makes its protocols with."""

    def __init__(self, limits: ConnectionLimits, context: Callable[[], ssl.SSLContext | None] = lambda: None) -> None:
        """`context`: asked for at every connection, so that a new certificate counts from the next one on."""
        self.limits = limits
        self._context = context
        self._open: dict[HttpProtocol, str] = {}
        self._idle: dict[HttpProtocol, None] = {}  # that do no request, the longest idle first
        self._by_address: Counter[str] = Counter()
        self._lingering = 0
        self._next_look: asyncio.TimerHandle | None = None

    def protocol(
        self,
        *,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> asyncio.Protocol:
        http = HttpProtocol(self, config, server_state, app_state, _loop)
        context = self._context()
        return http if context is None else _TlsDoor(self, http, context)

    def admit(self, connection: HttpProtocol, address: str) -> int:
        """Takes a connection in, if need be in the place of one that is idle. Returns 0, or the status that says no."""
        limits = self.limits
        if 0 < limits.max_connections_per_address <= self._by_address[address]:
            REFUSED.labels("address").inc()
            return 429
        if self._idle and (len(self._open) >= limits.max_connections or len(self._idle) >= limits.max_idle_connections):
            self._end(next(iter(self._idle)), "idle")
        if len(self._open) >= limits.max_connections:
            REFUSED.labels("all").inc()
            return 503
        self._open[connection] = address
        self._by_address[address] += 1
        self._idle[connection] = None
        OPEN.inc()
        if self._next_look is None:
            self._look_later()
        return 0

    def busy(self, connection: HttpProtocol) -> None:
        """A request has begun."""
        self._idle.pop(connection, None)

    def idle(self, connection: HttpProtocol) -> None:
        """No request is left."""
        if connection in self._open:
            self._idle.pop(connection, None)
            self._idle[connection] = None

    def release(self, connection: HttpProtocol) -> None:
        """A connection has ended; more than once does no harm."""
        address = self._open.pop(connection, None)
        if address is None:
            return
        self._idle.pop(connection, None)
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]
        OPEN.dec()

    def may_linger(self) -> bool:
        """Whether one more refused connection may stay for the moment that its answer takes."""
        if self._lingering >= _MAX_LINGERING:
            return False
        self._lingering += 1
        return True

    def lingered(self) -> None:
        self._lingering -= 1

    def _look_later(self) -> None:
        self._next_look = asyncio.get_running_loop().call_later(self.limits.step_seconds, self._look)

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in list(self._open):
            if reason := connection.late(now):
                self._end(connection, reason)
        self._next_look = None
        if self._open:
            self._look_later()

    def _end(self, connection: HttpProtocol, reason: str) -> None:
        CUT.labels(reason).inc()
        self.release(connection)
        connection.end(reason)


class _TlsDoor(asyncio.Protocol):
    """Counts a connection before it shakes hands: that takes time and can be left half done, too."""

    def __init__(self, connections: Connections, http: HttpProtocol, context: ssl.SSLContext) -> None:
        self._connections = connections
        self._http = http
        self._context = context

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        # Not even a refusal could be read before hands are shaken.
        if self._connections.admit(self._http, address_of(transport)):
            return transport.abort()
        self._http.admitted(transport)
        tls = _Tls(self._connections, self._http, self._context)
        transport.set_protocol(tls)
        tls.connection_made(transport)


class _Tls(sslproto.SSLProtocol):
    """asyncio's TLS, as its servers use it. A connection that ends before the handshake is given free, too."""

    def __init__(self, connections: Connections, http: HttpProtocol, context: ssl.SSLContext) -> None:
        super().__init__(
            asyncio.get_running_loop(),
            http,
            context,
            None,  # type: ignore[arg-type]  # nobody waits for the handshake
            server_side=True,
            ssl_handshake_timeout=connections.limits.header_seconds,  # type: ignore[arg-type]  # any number does
            ssl_shutdown_timeout=_TLS_SHUTDOWN_SECONDS,
        )
        self._connections = connections
        self._http = http

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._connections.release(self._http)


def address_of(transport: asyncio.BaseTransport) -> str:
    """Of the client; of the proxy where there is one."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""
