"""`python -m services.worker`: processes its queues until SIGTERM, then finishes running units."""

import os
import sys
import threading
from typing import Any

from celery import signals
from celery.worker import WorkController
from kombu.transport.redis import Channel

from services.shared import telemetry
from services.shared.jobs.dispatch import Queue
from services.shared.parents import exit_with_parent
from services.shared.reloading_files import SecretFileError
from services.shared.rpc.credentials import ClientCredentials
from services.shared.rpc.server import write_port_file
from services.shared.settings import load
from services.shared.telemetry import MetricsServer
from services.worker.app import keep_logging, make_app
from services.worker.reconnecting import ProcessPool, ReconnectingQoS
from services.worker.settings import WorkerSettings

log = telemetry.get_logger(__name__)

PROGRAM = "python -m services.worker"


def main() -> int:
    """Returns the exit code: 0 once the running units are done, 1 if it could not start."""
    settings = load(WorkerSettings, PROGRAM)
    try:
        queues = [queue.value for queue in settings.served]
    except ValueError as error:
        print(f"{PROGRAM}: --queues (LYRA_QUEUES): {error}", file=sys.stderr)
        return 2
    telemetry.configure_logging(settings.log_level, settings.log_format, "worker")
    telemetry.configure_tracing("worker")
    try:
        ClientCredentials.from_settings(settings)  # each pool process reads its own; here a mistake is reported once
    except SecretFileError as error:
        log.error("cannot call the services", reason=str(error))
        return 1

    parent = os.getpid()
    # Clips wait for the speech encoder, many at a time; all else wants processes.
    clips_only = settings.served == (Queue.CLIPS,)

    def report_ready(**_: Any) -> None:
        # After the fork, so that children do not inherit the server's socket and thread.
        metrics = MetricsServer(settings.host, settings.metrics_port or settings.port)
        if settings.port_file is not None:
            write_port_file(settings.port_file, port=metrics.port, metrics_port=metrics.port)
        log.info("working", queues=queues, concurrency=settings.concurrency)

    def follow_parent(**_: Any) -> None:
        exit_with_parent(parent)

    signals.setup_logging.connect(keep_logging, weak=False)
    signals.worker_ready.connect(report_ready, weak=False)
    signals.worker_process_init.connect(follow_parent, weak=False)
    signals.worker_shutting_down.connect(lambda **_: _exit_after(settings.grace_seconds), weak=False)
    Channel.QoS = ReconnectingQoS
    worker: WorkController = make_app(settings).Worker(
        queues=queues,
        concurrency=settings.concurrency * (settings.clips_at_once if clips_only else 1),
        pool="threads" if clips_only else ProcessPool,
        hostname=f"worker-{os.getpid()}@%h",
        loglevel=settings.log_level.upper(),
        without_gossip=True,
        without_mingle=True,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _exit_after(seconds: float) -> None:
    """Exits after so long; units that are still running are left to other workers."""

    def end() -> None:
        log.warning("grace period over; running units are left to other workers", seconds=seconds)
        os._exit(0)  # and the children with it

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    sys.exit(main())
