"""Creates the protocol of each connection for uvicorn: HTTP, or HTTP over TLS."""

import asyncio
import ssl
from asyncio import sslproto
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from services.gateway.http.connections import Connections, address_of
from services.gateway.http.protocol import HttpProtocol

_TLS_SHUTDOWN_SECONDS = 5.0


class ProtocolFactory:
    """Called by uvicorn for each connection, like the class of a protocol.

    Args:
        connections: The connections of the server.
        context: Returns the TLS context of the next connection; None for plain HTTP.
    """

    def __init__(self, connections: Connections, context: Callable[[], ssl.SSLContext | None] = lambda: None) -> None:
        self._connections = connections
        self._context = context

    def __call__(
        self,
        *,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> asyncio.Protocol:
        http = HttpProtocol(self._connections, config, server_state, app_state, _loop)
        context = self._context()
        return http if context is None else _TlsAdmission(self._connections, http, context)


class _TlsAdmission(asyncio.Protocol):
    """Admits a connection before its TLS handshake, which takes resources and may never complete."""

    def __init__(self, connections: Connections, http: HttpProtocol, context: ssl.SSLContext) -> None:
        self._connections = connections
        self._http = http
        self._context = context

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        # Before the handshake there is no way to send a response.
        if self._connections.admit(self._http, address_of(transport)):
            return transport.abort()
        self._http.tls_started(transport)
        tls = _TlsProtocol(self._connections, self._http, self._context)
        transport.set_protocol(tls)
        tls.connection_made(transport)


class _TlsProtocol(sslproto.SSLProtocol):
    """asyncio's TLS protocol, which also releases connections that end during the handshake."""

    def __init__(self, connections: Connections, http: HttpProtocol, context: ssl.SSLContext) -> None:
        super().__init__(
            asyncio.get_running_loop(),
            http,
            context,
            None,  # type: ignore[arg-type]  # nothing awaits the handshake
            server_side=True,
            ssl_handshake_timeout=connections.limits.header_seconds,  # type: ignore[arg-type]  # floats are fine
            ssl_shutdown_timeout=_TLS_SHUTDOWN_SECONDS,
        )
        self._connections = connections
        self._http = http

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._connections.release(self._http)
