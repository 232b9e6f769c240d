"""uvicorn's HTTP/1.1 protocol, which keeps time and answers in our shape what it cannot understand."""

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Literal

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.server import ServerState

from services.gateway.http.api_errors import ApiError

if TYPE_CHECKING:
    from services.gateway.http.connections import Connections

MAX_HEAD_BYTES = 16 * 2**10
_READ_BYTES = 64 * 2**10
_LINGER_SECONDS = 1.0
# Each chunk of a body costs as much as some hundred bytes.
_MANY_CHUNKS = 128
_LEAST_MEAN_CHUNK_BYTES = 256

Late = Literal["", "head", "body", "reader", "closing"]


class HttpProtocol(H11Protocol):
    """One connection. Deadlines are times of the event loop's clock; None where nothing is waited for."""

    def __init__(
        self,
        connections: "Connections",
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        super().__init__(config, server_state, app_state, loop)
        self.conn = _FewChunks(h11.SERVER, MAX_HEAD_BYTES)
        self._all = connections
        self._limits = connections.limits
        self.timeout_keep_alive = self._limits.idle_seconds  # type: ignore[assignment]  # any number does
        self._raw: asyncio.Transport | None = None  # under TLS, the TCP connection
        self._deaf = False
        self._head_due: float | None = None
        self._rest_due: float | None = None  # for the body of a request that is answered already
        self._paused_at: float | None = None
        self._stalled_at: float | None = None
        self._closing_at: float | None = None
        self._buffered = 0

    def admitted(self, transport: asyncio.Transport) -> None:
        """TLS begins on `transport`; `connection_made` will bring what it makes of it."""
        self._raw = transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if self._raw is None:
            peer = transport.get_extra_info("peername")
            if status := self._all.admit(self, str(peer[0]) if peer else ""):
                self.transport = transport
                return self._refuse(status)
        super().connection_made(transport)
        # asyncio reads four times as much at once: with fifty senders that is 16 MiB between two looks at others.
        if hasattr(transport, "max_size"):
            transport.max_size = _READ_BYTES
        self._head_due = self.loop.time() + self._limits.header_seconds

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.release(self)
        if self.flow is not None:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """In steps, so that the limit of a head holds however much of it comes at once."""
        start = 0
        while start < len(data) and not self._deaf and not self.transport.is_closing():
            step = MAX_HEAD_BYTES if self.conn.their_state is h11.IDLE else len(data)
            self._receive(data[start : start + step])
            start += step

    def _receive(self, data: bytes) -> None:
        if self._head_due is None and self.conn.their_state is h11.IDLE:
            self._head_due = self.loop.time() + self._limits.header_seconds
        super().data_received(data)
        if self._is_busy:
            self._head_due = None
            self._all.busy(self)
        if self.conn.their_state is not h11.SEND_BODY:
            self._rest_due = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_busy:  # with the next request, which had come already
            return
        self._all.idle(self)
        due = self.loop.time() + self._limits.header_seconds
        if self.conn.their_state is h11.SEND_BODY:
            self._rest_due = due
        elif self.conn.trailing_data[0]:
            self._head_due = due

    def pause_writing(self) -> None:
        super().pause_writing()
        self._paused_at = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._paused_at = None

    def late(self, now: float) -> Late:
        """What this connection is late with; empty where all is well."""
        if self.transport is None:
            return ""  # TLS keeps its own time until hands are shaken
        if self._closes_too_long(now):
            return "closing"
        if self._head_due is not None and now > self._head_due:
            return "head"
        if self._rest_due is not None and now > self._rest_due:
            return "body"
        return "reader" if self._reads_too_slowly(now) else ""

    def end(self, reason: str) -> None:
        """Ends the connection, and what runs for it; half a head gets an answer."""
        if reason == "head" and self.conn.trailing_data[0]:
            seconds = self._limits.header_seconds
            return self._answer(ApiError(408, f"The headers did not arrive within {seconds:g} s.", code="timeout"))
        transport = self.transport or self._raw
        if transport is not None:
            transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Called where h11 has raised an error about what came."""
        status = getattr(sys.exception(), "error_status_hint", 400)
        if status == 431 and b"\n" not in self.conn.trailing_data[0]:
            status = 414
        text = {
            414: f"The address is over the limit of {MAX_HEAD_BYTES:,} bytes.",
            431: f"The headers are over the limit of {MAX_HEAD_BYTES:,} bytes.",
        }.get(status, "This is not valid HTTP/1.1.")
        self._answer(ApiError(status, text, code="invalid_http"))

    @property
    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _closes_too_long(self, now: float) -> bool:
        if not self.transport.is_closing():
            return False
        self._closing_at = self._closing_at or now
        return now - self._closing_at > self._limits.write_seconds

    def _reads_too_slowly(self, now: float) -> bool:
        """Whether too much waits for the client for too long, or anything while the client takes nothing at all."""
        before, self._buffered = self._buffered, self.transport.get_write_buffer_size()
        if not self._buffered:
            self._stalled_at = None
        elif self._stalled_at is None or self._buffered < before:
            self._stalled_at = now
        waits = [now - since for since in (self._paused_at, self._stalled_at) if since is not None]
        return any(seconds > self._limits.write_seconds for seconds in waits)

    def _answer(self, error: ApiError) -> None:
        """The last answer on this connection."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return self.transport.abort()
        if self._is_busy:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(_response(error))
        self._linger()

    def _refuse(self, status: int) -> None:
        if not self._all.may_linger():
            return self.transport.abort()
        text = {
            429: "There are too many connections from this address. Please try again.",
            503: "There are too many connections at the moment. Please try again.",
        }[status]
        self.transport.write(_response(ApiError(status, text, code="overloaded", retry_after_seconds=5)))
        self._linger()
        self.loop.call_later(_LINGER_SECONDS, self._all.lingered)

    def _linger(self) -> None:
        """Closes once the client has had time to read: closing with something unread would throw the answer away."""
        self._deaf = True
        self._head_due = None
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()
        self.loop.call_later(_LINGER_SECONDS, self.transport.abort)


class _FewChunks(h11.Connection):
    """Refuses bodies in very small chunks: parsing 40,000 of one byte keeps the event loop for half a second."""

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
            if self._chunks > _MANY_CHUNKS and self._bytes < self._chunks * _LEAST_MEAN_CHUNK_BYTES:
                raise h11.RemoteProtocolError("chunks are too small")
        return event


def _response(error: ApiError) -> bytes:
    """A whole response in bytes, after which the connection ends."""
    response = error.response()
    response.headers["connection"] = "close"
    lines = [b"HTTP/1.1 %d %s" % (response.status_code, STATUS_PHRASES[response.status_code])]
    lines += [b"%s: %s" % header for header in response.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(response.body)])
