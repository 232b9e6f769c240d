"""Limits on connections: how many in total and per address, and timeouts for each.

uvicorn closes idle connections only: a client that never completes its headers, or never reads its response, would stay
connected forever. So every connection is checked a few times per second, and closed if it has missed a deadline.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

import prometheus_client

OPEN = prometheus_client.Gauge("lyra_connections_open", "Open client connections of the gateway.")
REFUSED = prometheus_client.Counter(
    "lyra_connections_refused_total", "Connections refused when they were opened, by the limit reached.", ("reason",)
)
CUT = prometheus_client.Counter(
    "lyra_connections_cut_total", "Connections closed because the client was too slow or idle too long.", ("reason",)
)

_MAX_LINGERING = 64  # refused connections that are still sending their response


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """The settings of the same names."""

    max_connections: int
    max_connections_per_address: int  # 0 for no limit
    max_idle_connections: int
    header_seconds: float
    idle_seconds: float
    write_seconds: float

    @property
    def check_seconds(self) -> float:
        """Interval between two checks of all connections."""
        return min(0.5, self.header_seconds / 4, self.idle_seconds / 4, self.write_seconds / 4)


class Connection(Protocol):
    """A connection, as its deadlines are checked."""

    def missed_deadline(self, now: float) -> str:
        """Value of the label `reason` of lyra_connections_cut_total; empty if no deadline has been missed."""

    def close(self, reason: str) -> None:
        """Closes the connection and cancels its request."""


class Connections:
    """All connections of one server."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._open: dict[Connection, str] = {}
        self._idle: dict[Connection, None] = {}  # without a request, the longest idle first
        self._by_address: Counter[str] = Counter()
        self._lingering = 0
        self._next_check: asyncio.TimerHandle | None = None

    def admit(self, connection: Connection, address: str) -> int:
        """Registers a new connection, closing an idle one if necessary. Returns 0, or the status to refuse it with."""
        limits = self.limits
        if 0 < limits.max_connections_per_address <= self._by_address[address]:
            REFUSED.labels("address").inc()
            return 429
        if self._idle and (len(self._open) >= limits.max_connections or len(self._idle) >= limits.max_idle_connections):
            self._close(next(iter(self._idle)), "idle")
        if len(self._open) >= limits.max_connections:
            REFUSED.labels("all").inc()
            return 503
        self._open[connection] = address
        self._by_address[address] += 1
        self._idle[connection] = None
        OPEN.inc()
        if self._next_check is None:
            self._schedule_check()
        return 0

    def mark_busy(self, connection: Connection) -> None:
        """A request has started."""
        self._idle.pop(connection, None)

    def mark_idle(self, connection: Connection) -> None:
        """The last request has ended."""
        if connection in self._open:
            self._idle.pop(connection, None)
            self._idle[connection] = None

    def release(self, connection: Connection) -> None:
        """Unregisters a connection. Idempotent."""
        address = self._open.pop(connection, None)
        if address is None:
            return
        self._idle.pop(connection, None)
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]
        OPEN.dec()

    def try_linger(self) -> bool:
        """Whether another refused connection may linger until its response has been read; pair with `end_linger`."""
        if self._lingering >= _MAX_LINGERING:
            return False
        self._lingering += 1
        return True

    def end_linger(self) -> None:
        self._lingering -= 1

    def _schedule_check(self) -> None:
        self._next_check = asyncio.get_running_loop().call_later(self.limits.check_seconds, self._check)

    def _check(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in list(self._open):
            if reason := connection.missed_deadline(now):
                self._close(connection, reason)
        self._next_check = None
        if self._open:
            self._schedule_check()

    def _close(self, connection: Connection, reason: str) -> None:
        CUT.labels(reason).inc()
        self.release(connection)
        connection.close(reason)


def address_of(transport: asyncio.BaseTransport) -> str:
    """IP address of the peer: the client, or the proxy in front of it."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""
