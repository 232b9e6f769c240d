"""`python -m services.gateway`: serves HTTP until SIGTERM or SIGINT, then drains."""

import asyncio
import sys

from services.gateway.app import create_app
from services.gateway.http.server import Server
from services.gateway.settings import GatewaySettings
from services.shared import telemetry
from services.shared.reloading_files import SecretFileError
from services.shared.settings import load

log = telemetry.get_logger(__name__)


def main() -> int:
    """Returns the exit code: 0 after a drain, 1 if it could not start."""
    settings = load(GatewaySettings, "python -m services.gateway")
    telemetry.configure_logging(settings.log_level, settings.log_format, "gateway")
    telemetry.configure_tracing("gateway")
    try:
        server = Server(create_app(settings), settings)
    except SecretFileError as error:
        log.error("cannot start", reason=str(error))
        return 1
    asyncio.run(server.serve())
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
