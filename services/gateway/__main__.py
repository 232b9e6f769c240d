"""`python -m services.gateway`: serves HTTP until SIGTERM or SIGINT, then lets running requests finish."""

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from services.common import telemetry
from services.common.server import write_port_file
from services.common.settings import load
from services.common.tokens import SecretUnusable
from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings

log = telemetry.get_logger(__name__)


class _Server(uvicorn.Server):
    """uvicorn, with our way to stop: the process ends with code 0 after it has drained."""

    def __init__(self, config: uvicorn.Config, settings: GatewaySettings) -> None:
        super().__init__(config)
        self._settings = settings

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.started:
            return
        port = self.servers[0].sockets[0].getsockname()[1]
        if self._settings.port_file is not None:
            write_port_file(self._settings.port_file, port=port)
        log.info("listening", url=f"http://{self._settings.host}:{port}", model=self._settings.model)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def main() -> int:
    """Returns the exit code: 0 after a drain, 1 if it could not start."""
    settings = load(GatewaySettings, "python -m services.gateway")
    telemetry.configure_logging(settings.log_level, settings.log_format, "gateway")
    telemetry.configure_tracing("gateway")
    try:
        app = create_app(settings)
    except SecretUnusable as error:
        log.error("cannot call the services", reason=str(error))
        return 1
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the application decides whom it believes, see addresses
        timeout_graceful_shutdown=int(settings.grace_seconds),
    )
    server = _Server(config, settings)
    asyncio.run(server.serve())
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
