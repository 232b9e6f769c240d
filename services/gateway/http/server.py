"""The HTTP server: uvicorn, with our limits of connections, our TLS and our way to stop."""

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

from services.gateway.http.certificates import Certificates
from services.gateway.http.connections import ConnectionLimits, Connections
from services.gateway.settings import GatewaySettings
from services.shared import telemetry
from services.shared.rpc.server import write_port_file

log = telemetry.get_logger(__name__)

_OTHER_FILES = 512  # connections to services and stores, uploads on their way, logs
_CERTIFICATE_SECONDS = 1.0


def make_config(
    app: FastAPI, settings: GatewaySettings, context: Callable[[], ssl.SSLContext | None] = lambda: None
) -> uvicorn.Config:
    """How uvicorn serves the gateway.

    Args:
        context: Gives the TLS context of the next connection; None for plain HTTP.
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
        http=cast(Any, Connections(limits, context).protocol),  # called as the class would be
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the application decides whom it believes, see addresses
        timeout_graceful_shutdown=int(settings.grace_seconds),
    )


class Server(uvicorn.Server):
    """uvicorn, with our way to stop: the process ends with code 0 after it has drained."""

    def __init__(self, app: FastAPI, settings: GatewaySettings) -> None:
        """Raises OSError for a certificate or a key that cannot be used."""
        self._settings = settings
        self._certificates: Certificates | None = None
        if settings.gateway_tls_cert_file is not None and settings.gateway_tls_key_file is not None:
            self._certificates = Certificates(settings.gateway_tls_cert_file, settings.gateway_tls_key_file)
        super().__init__(make_config(app, settings, self._context))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        raise_file_limit(self._settings.max_connections + _OTHER_FILES)
        # What is there from the start stays; walking through it again and again would slow down every large request.
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

    async def main_loop(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            if self._certificates is not None:
                watching = asyncio.create_task(self._certificates.watch(_CERTIFICATE_SECONDS))
                stack.callback(watching.cancel)
            await super().main_loop()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    def _context(self) -> ssl.SSLContext | None:
        return None if self._certificates is None else self._certificates.context()


def raise_file_limit(needed: int) -> None:
    """Lets this process have `needed` open files, as far as it may; every connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < needed:
        log.warning("fewer files may be open than LYRA_MAX_CONNECTIONS needs", may=most, needed=needed)
