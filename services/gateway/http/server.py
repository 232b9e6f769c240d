"""The HTTP server: uvicorn with connection limits, reloading TLS certificates and a graceful shutdown."""

import asyncio
import contextlib
import gc
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from services.gateway.http.certificates import ServerCertificate
from services.gateway.http.connections import ConnectionLimits, Connections
from services.gateway.http.protocol_factory import ProtocolFactory
from services.gateway.settings import GatewaySettings
from services.shared import telemetry
from services.shared.rpc.server import write_port_file

log = telemetry.get_logger(__name__)

_OTHER_FILES = 512  # connections to services and stores, uploads in progress, logs


def make_config(
    app: FastAPI, settings: GatewaySettings, context: Callable[[], ssl.SSLContext | None] = lambda: None
) -> uvicorn.Config:
    """uvicorn's configuration for the gateway.

    Args:
        context: Returns the TLS context of the next connection; None for plain HTTP.
    """
    limits = ConnectionLimits(
        max_connections=settings.max_connections,
        max_connections_per_address=settings.max_connections_per_address,
        max_idle_connections=settings.max_idle_connections,
        header_seconds=settings.header_seconds,
        idle_seconds=settings.idle_seconds,
        write_seconds=settings.write_seconds,
    )
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=cast(Any, ProtocolFactory(Connections(limits), context)),  # uvicorn calls it like the class
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # see client_addresses
        timeout_graceful_shutdown=int(settings.grace_seconds),
    )


class Server(uvicorn.Server):
    """uvicorn's server, except that after a drain the process exits with code 0 instead of re-raising the signal."""

    def __init__(self, app: FastAPI, settings: GatewaySettings) -> None:
        """Raises SecretFileError for a certificate or key that cannot be used."""
        self._settings = settings
        self._certificate: ServerCertificate | None = None
        if settings.gateway_tls_cert_file is not None and settings.gateway_tls_key_file is not None:
            self._certificate = ServerCertificate(settings.gateway_tls_cert_file, settings.gateway_tls_key_file)
        super().__init__(make_config(app, settings, self._context))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        raise_file_limit(self._settings.max_connections + _OTHER_FILES)
        # Objects from startup live as long as the process; scanning them at each collection slows large requests down.
        gc.collect()
        gc.freeze()
        await super().startup(sockets)
        if not self.started:
            return
        port = self.servers[0].sockets[0].getsockname()[1]
        if self._settings.port_file is not None:
            write_port_file(self._settings.port_file, port=port)
        url = f"{self._settings.scheme}://{self._settings.host}:{port}"
        log.info("listening", url=url, model=self._settings.model)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    def _context(self) -> ssl.SSLContext | None:
        return None if self._certificate is None else self._certificate.context()


def raise_file_limit(needed: int) -> None:
    """Raises the soft limit of open files to `needed`, as far as the hard limit allows. Every connection is a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < needed:
        log.warning("the limit of open files is too low for LYRA_MAX_CONNECTIONS", limit=limit, needed=needed)
