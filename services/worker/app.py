"""The workers' Celery application: the task that uses a ticket, and the periodic ones."""

import logging
from collections.abc import Callable

from celery import Celery
from celery.app.task import Task

from services.shared import telemetry
from services.shared.jobs.tickets import WORK_TASK, Queue, make_celery
from services.shared.service_errors import Unavailable
from services.worker import housekeeping
from services.worker.context import WorkerContext
from services.worker.settings import WorkerSettings
from services.worker.units import use_ticket

log = telemetry.get_logger(__name__)

RECONCILE, SWEEP = "lyra.reconcile", "lyra.sweep"


def make_app(settings: WorkerSettings) -> Celery:
    """Celery with this platform's tasks and their schedule."""
    app = make_celery(settings)
    context = WorkerContext(settings, app)

    def work(queue: str) -> None:
        use_ticket(context, Queue(queue))

    _register(app, WORK_TASK, work)
    _register(app, RECONCILE, lambda: housekeeping.reconcile(context))
    _register(app, SWEEP, lambda: housekeeping.sweep(context))
    app.conf.beat_schedule = {
        RECONCILE: _every(settings.reconcile_seconds, RECONCILE),
        SWEEP: _every(settings.sweep_seconds, SWEEP),
    }
    return app


def keep_logging(**_: object) -> None:
    """For the signal `setup_logging`: Celery configures no logging if it has a receiver."""
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)  # a unit has its own line


def _every(seconds: float, task: str) -> dict[str, object]:
    # Dropped if it has not started when the next one is due, which does the same.
    options = {"queue": Queue.HOUSEKEEPING.value, "expires": max(seconds, 10.0)}
    return {"task": task, "schedule": seconds, "options": options}


def _register(app: Celery, name: str, body: Callable[..., object]) -> Task:
    def run(*arguments: str) -> None:
        try:
            body(*arguments)
        except Unavailable as error:
            log.warning("a task needs something that is unavailable", task=name, reason=error.message)

    task: Task = app.task(name=name)(run)
    return task
