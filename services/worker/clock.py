"""`python -m services.worker.clock`: Celery beat, which schedules the periodic tasks. A second one is harmless."""

import sys
from typing import Any

from celery import signals

from services.shared import telemetry
from services.shared.jobs.dispatch import Dispatcher, open_redis
from services.shared.rpc.server import write_port_file
from services.shared.settings import load
from services.shared.telemetry import MetricsServer
from services.worker.app import keep_logging, make_app
from services.worker.queue_metrics import QueueMetrics
from services.worker.settings import WorkerSettings


def main() -> int:
    """Returns the exit code."""
    settings = load(WorkerSettings, "python -m services.worker.clock")
    telemetry.configure_logging(settings.log_level, settings.log_format, "clock")

    app, client = make_app(settings), open_redis(settings)
    QueueMetrics(client, Dispatcher(client, app)).register()

    def report_ready(**_: Any) -> None:
        metrics = MetricsServer(settings.host, settings.metrics_port or settings.port)
        if settings.port_file is not None:
            write_port_file(settings.port_file, port=metrics.port, metrics_port=metrics.port)

    signals.setup_logging.connect(keep_logging, weak=False)
    signals.beat_init.connect(report_ready, weak=False)
    # The schedule is kept in memory: after a restart everything is due at once, as it should be.
    beat = app.Beat(scheduler="celery.beat:Scheduler", loglevel=settings.log_level.upper(), max_interval=1, quiet=True)
    beat.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
