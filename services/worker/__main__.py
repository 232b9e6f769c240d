"""`python -m services.worker`: works off its queues until SIGTERM, then finishes what runs."""

import os
import sys
import threading
from typing import Any

from celery import signals
from celery.worker import WorkController

from services.shared import telemetry
from services.shared.parents import end_with_parent
from services.shared.reloading_files import SecretFileError
from services.shared.rpc.credentials import ClientCredentials
from services.shared.rpc.server import write_port_file
from services.shared.settings import load
from services.shared.telemetry import MetricsServer
from services.worker.app import keep_logging, make_app
from services.worker.settings import WorkerSettings

log = telemetry.get_logger(__name__)

PROGRAM = "python -m services.worker"


def main() -> int:
    """Returns the exit code: 0 after the units that ran are done, 1 if it could not start."""
    settings = load(WorkerSettings, PROGRAM)
    try:
        queues = [queue.value for queue in settings.served]
    except ValueError as error:
        print(f"{PROGRAM}: --queues (LYRA_QUEUES): {error}", file=sys.stderr)
        return 2
    telemetry.configure_logging(settings.log_level, settings.log_format, "worker")
    telemetry.configure_tracing("worker")
    try:
        ClientCredentials.from_settings(settings)  # each process of the pool reads its own; here a mistake is one line
    except SecretFileError as error:
        log.error("cannot call the services", reason=str(error))
        return 1

    parent = os.getpid()

    def tell(**_: Any) -> None:
        # After the fork: children must not inherit the server's socket and thread.
        metrics = MetricsServer(settings.host, settings.metrics_port or settings.port)
        if settings.port_file is not None:
            write_port_file(settings.port_file, port=metrics.port, metrics_port=metrics.port)
        log.info("working", queues=queues, concurrency=settings.concurrency)

    def tie(**_: Any) -> None:
        end_with_parent(parent)

    signals.setup_logging.connect(keep_logging, weak=False)
    signals.worker_ready.connect(tell, weak=False)
    signals.worker_process_init.connect(tie, weak=False)
    signals.worker_shutting_down.connect(lambda **_: _end_after(settings.grace_seconds), weak=False)
    worker: WorkController = make_app(settings).Worker(
        queues=queues,
        concurrency=settings.concurrency,
        pool="prefork",
        hostname=f"worker-{os.getpid()}@%h",
        loglevel=settings.log_level.upper(),
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _end_after(seconds: float) -> None:
    """A unit that is not done by then is left to another worker."""

    def end() -> None:
        log.warning("units were not done in time and are left to other workers", seconds=seconds)
        os._exit(0)  # and the children with it

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    sys.exit(main())
