"""The workers' Celery application: a task for each kind of unit, and the periodic ones."""

import logging
from collections.abc import Callable

from celery import Celery
from celery.app.task import Task

from services.shared.jobs.backlog import QueuedUnit
from services.shared.jobs.dispatch import QUEUE_OF, Queue, make_celery, task_name
from services.shared.jobs.kinds import Priority
from services.shared.jobs.layout import JobId
from services.shared.jobs.state import Unit, Work
from services.shared.service_errors import Unavailable
from services.worker import housekeeping
from services.worker.context import WorkerContext
from services.worker.settings import WorkerSettings
from services.worker.units import UnitFailed, run_unit

RECONCILE, SWEEP = "lyra.reconcile", "lyra.sweep"
_PLAN_SECONDS = 3600.0
# On top of what a pass of the language model may take, for reading tokens and writing the answer.
_ANSWER_MARGIN_SECONDS = 60.0


def make_app(settings: WorkerSettings) -> Celery:
    """Celery with this platform's tasks and their schedule."""
    app = make_celery(settings)
    # A unit is done when its retry or its successors are published, so workers wait for Redis however long it takes.
    app.conf.task_publish_retry = True
    app.conf.task_publish_retry_policy = {"max_retries": None, "interval_step": 0.2, "interval_max": 2.0}
    context = WorkerContext(settings, app)
    for work in Work:
        _register_unit(app, context, work)
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


def _register_unit(app: Celery, context: WorkerContext, work: Work) -> None:
    def run(task: Task, tenant: str, job: str, *, index: int, answer: str, priority: str) -> None:
        context.open()
        run_unit(context, task, QueuedUnit(JobId(tenant, job), Unit(work, index, answer), Priority(priority)))

    answers = QUEUE_OF[work] is Queue.ANSWERS
    seconds = context.settings.answer_seconds + _ANSWER_MARGIN_SECONDS if answers else _PLAN_SECONDS
    # Retries are unlimited here since tries are counted in Redis; UnitFailed is logged without a traceback.
    # Not shared: another app of this process, as in tests, has tasks of its own.
    options = {"shared": False, "bind": True, "max_retries": None, "throws": (UnitFailed, Unavailable)}
    app.task(name=task_name(work), time_limit=seconds, **options)(run)


def _register(app: Celery, name: str, body: Callable[[], object]) -> None:
    def run() -> None:
        body()

    app.task(name=name, shared=False, throws=(Unavailable,))(run)
