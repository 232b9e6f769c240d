"""uvicorn's HTTP/1.1 protocol with timeouts, and with errors in OpenAI's schema for what cannot be parsed."""

import asyncio
import sys
from typing import Any, Literal

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.server import ServerState

from services.gateway.http.api_errors import ApiError
from services.gateway.http.connections import Connections, address_of

MAX_HEADER_BYTES = 16 * 2**10
_READ_BYTES = 64 * 2**10
_LINGER_SECONDS = 1.0
# Each chunk of a body costs as much to parse as some hundred bytes.
_SMALL_CHUNKS = 128  # tolerated before the minimum applies
_MIN_MEAN_CHUNK_BYTES = 256

# Values of the label `reason` of lyra_connections_cut_total.
MissedDeadline = Literal["", "head", "body", "reader", "closing"]


class HttpProtocol(H11Protocol):
    """One connection. Deadlines are times of the event loop's clock; None if nothing is awaited."""

    def __init__(
        self,
        connections: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        super().__init__(config, server_state, app_state, loop)
        self.conn = _ChunkLimitedConnection(h11.SERVER, MAX_HEADER_BYTES)
        self._connections = connections
        self._limits = connections.limits
        self.timeout_keep_alive = self._limits.idle_seconds  # type: ignore[assignment]  # floats are fine
        self._raw: asyncio.Transport | None = None  # with TLS, the TCP connection below it
        self._lingering = False
        self._headers_deadline: float | None = None
        self._rest_deadline: float | None = None  # of a request body whose response is complete
        self._paused_at: float | None = None
        self._stalled_at: float | None = None
        self._closing_at: float | None = None
        self._buffered = 0

    def tls_started(self, transport: asyncio.Transport) -> None:
        """The TLS handshake starts on `transport`; `connection_made` follows once it has succeeded."""
        self._raw = transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if self._raw is None and (status := self._connections.admit(self, address_of(transport))):
            self.transport = transport
            return self._refuse(status)
        super().connection_made(transport)
        # asyncio reads four times as much at once: with fifty senders, 16 MiB before any other gets its turn.
        if hasattr(transport, "max_size"):
            transport.max_size = _READ_BYTES
        self._headers_deadline = self.loop.time() + self._limits.header_seconds

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.release(self)
        if self.flow is not None:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses in steps, so that the limit of headers applies however much of them arrives at once."""
        start = 0
        while start < len(data) and not self._lingering and not self.transport.is_closing():
            step = MAX_HEADER_BYTES if self.conn.their_state is h11.IDLE else len(data)
            self._receive(data[start : start + step])
            start += step

    def _receive(self, data: bytes) -> None:
        if self._headers_deadline is None and self.conn.their_state is h11.IDLE:
            self._headers_deadline = self.loop.time() + self._limits.header_seconds
        super().data_received(data)
        if self._is_busy:
            self._headers_deadline = None
            self._connections.mark_busy(self)
        if self.conn.their_state is not h11.SEND_BODY:
            self._rest_deadline = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_busy:  # with the next, pipelined request
            return
        self._connections.mark_idle(self)
        deadline = self.loop.time() + self._limits.header_seconds
        if self.conn.their_state is h11.SEND_BODY:
            self._rest_deadline = deadline
        elif self.conn.trailing_data[0]:
            self._headers_deadline = deadline

    def pause_writing(self) -> None:
        super().pause_writing()
        self._paused_at = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._paused_at = None

    def missed_deadline(self, now: float) -> MissedDeadline:
        """What the client is late with; empty if nothing."""
        if self.transport is None:
            return ""  # asyncio times the TLS handshake itself
        if self._is_stuck_closing(now):
            return "closing"
        if self._headers_deadline is not None and now > self._headers_deadline:
            return "head"
        if self._rest_deadline is not None and now > self._rest_deadline:
            return "body"
        return "reader" if self._is_stalled(now) else ""

    def close(self, reason: str) -> None:
        """Closes the connection and cancels its request; incomplete headers get a response."""
        if reason == "head" and self.conn.trailing_data[0]:
            seconds = self._limits.header_seconds
            return self._respond(ApiError(408, f"The headers did not arrive within {seconds:g} s.", code="timeout"))
        transport = self.transport or self._raw
        if transport is not None:
            transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn while it handles an error that h11 has raised."""
        status = getattr(sys.exception(), "error_status_hint", 400)
        if status == 431 and b"\n" not in self.conn.trailing_data[0]:
            status = 414
        text = {
            414: f"The URL is over the limit of {MAX_HEADER_BYTES:,} bytes.",
            431: f"The headers are over the limit of {MAX_HEADER_BYTES:,} bytes.",
        }.get(status, "This is not valid HTTP/1.1.")
        self._respond(ApiError(status, text, code="invalid_http"))

    @property
    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _is_stuck_closing(self, now: float) -> bool:
        if not self.transport.is_closing():
            return False
        self._closing_at = self._closing_at or now
        return now - self._closing_at > self._limits.write_seconds

    def _is_stalled(self, now: float) -> bool:
        """Whether writing has been paused for too long, or the client has not read any of the buffered data."""
        before, self._buffered = self._buffered, self.transport.get_write_buffer_size()
        if not self._buffered:
            self._stalled_at = None
        elif self._stalled_at is None or self._buffered < before:
            self._stalled_at = now
        waits = [now - since for since in (self._paused_at, self._stalled_at) if since is not None]
        return any(seconds > self._limits.write_seconds for seconds in waits)

    def _respond(self, error: ApiError) -> None:
        """Sends the last response of this connection."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return self.transport.abort()
        if self._is_busy:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(_response(error))
        self._linger()

    def _refuse(self, status: int) -> None:
        if not self._connections.try_linger():
            return self.transport.abort()
        text = {
            429: "There are too many connections from this address. Please try again.",
            503: "There are too many connections at the moment. Please try again.",
        }[status]
        self.transport.write(_response(ApiError(status, text, code="overloaded", retry_after_seconds=5)))
        self._linger()
        self.loop.call_later(_LINGER_SECONDS, self._connections.end_linger)

    def _linger(self) -> None:
        """Ignores further input and closes a moment later (nginx's `lingering_close`).

        Closing with unread input would reset the connection and discard the response.
        """
        self._lingering = True
        self._headers_deadline = None
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()
        self.loop.call_later(_LINGER_SECONDS, self.transport.abort)


class _ChunkLimitedConnection(h11.Connection):
    """Refuses bodies in very small chunks: parsing 40,000 of one byte blocks the event loop for half a second."""

    def __init__(self, our_role: type[h11.SERVER], max_incomplete_event_size: int) -> None:
        super().__init__(our_role, max_incomplete_event_size)
        self._chunks = self._bytes = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._bytes += len(event.data)
            self._chunks += event.chunk_start
            if self._chunks > _SMALL_CHUNKS and self._bytes < self._chunks * _MIN_MEAN_CHUNK_BYTES:
                raise h11.RemoteProtocolError("chunks are too small")
        return event


def _response(error: ApiError) -> bytes:
    """A complete response, after which the connection is closed."""
    response = error.response()
    response.headers["connection"] = "close"
    lines = [b"HTTP/1.1 %d %s" % (response.status_code, STATUS_PHRASES[response.status_code])]
    lines += [b"%s: %s" % header for header in response.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(response.body)])
