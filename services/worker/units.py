"""Runs one unit, the body of every Celery task of a job: under a lease, followed by what can be done next."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NoReturn, TypeVar

import redis
from celery.app.task import Task
from celery.exceptions import Ignore

from services.shared import telemetry
from services.shared.jobs.backlog import QueuedUnit
from services.shared.jobs.dispatch import raising_queue_down
from services.shared.jobs.kinds import State
from services.shared.jobs.layout import JobId
from services.shared.jobs.model import Failure
from services.shared.jobs.state import Job, Unit, Work, next_units
from services.shared.jobs.store import UnknownJob, now
from services.shared.service_errors import DeadlineExceeded, InvalidInput, Overloaded, Unavailable
from services.shared.storage.store_errors import StoreFull
from services.worker.answers import answer, answer_window, cut_windows
from services.worker.callbacks import call_back
from services.worker.clips import transcribe_clip
from services.worker.context import WorkerContext
from services.worker.finish import finish
from services.worker.planning import plan

log = telemetry.get_logger(__name__)

T = TypeVar("T")

_DO: Mapping[Work, Callable[[WorkerContext, Job, Unit], None]] = {
    Work.PLAN: plan,
    Work.CLIP: transcribe_clip,
    Work.WINDOWS: cut_windows,
    Work.WINDOW: answer_window,
    Work.ANSWER: answer,
    Work.FINISH: finish,
    Work.CALL_BACK: call_back,
}
_OPEN_CLIPS = "lyra:open-clips:"
_OPEN_CLIPS_SECONDS = 86_400
_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.2, 2.0


class UnitFailed(Exception):
    """A unit failed for good, for a reason that the job's owner may read."""


@raising_queue_down()
def run_unit(context: WorkerContext, task: Task, queued: QueuedUnit) -> None:
    """Does a unit if it is still to be done.

    Raises:
        celery.exceptions.Retry: it is done later.
        celery.exceptions.Ignore: another worker is doing it.
        UnitFailed: it has failed too often.
        QueueDown: Redis was unavailable before the unit was started; the reconciler queues it again.
    """
    with context.leases.hold(queued) as held:
        context.dispatcher.start(queued)
        if not held:
            raise Ignore
        _try(context, task, queued, context.leases.count_try(queued))


@raising_queue_down()
def advance(context: WorkerContext, job: JobId) -> int:
    """Queues what can be done next for a job; returns how many units were not queued before.

    Raises StoreUnavailable, QueueDown.
    """
    try:
        view = context.job_store.read(job)
        if not (units := next_units(view)):
            context.job_store.mark_idle(job)
            # A question may have been asked between reading and marking.
            if not (units := next_units(view := context.job_store.read(job))):
                return 0
            context.job_store.mark_active(job)
    except UnknownJob:
        context.job_store.mark_idle(job)
        return 0
    if clips := sum(unit.work is Work.CLIP for unit in units):
        context.redis.set(_OPEN_CLIPS + job.prefix, clips, ex=_OPEN_CLIPS_SECONDS)
    held = context.leases.held(QueuedUnit(job, unit) for unit in units)
    idle = [unit for unit in units if QueuedUnit(job, unit) not in held]
    return context.dispatcher.push(job, idle, view.manifest.priority)


def _try(context: WorkerContext, task: Task, queued: QueuedUnit, tries: int) -> None:
    job, unit = queued.job, queued.unit
    bound = log.bind(tenant=job.tenant, job=job.job, unit=str(unit))
    reason = ""
    try:
        if tries > context.settings.max_tries:
            reason, tries = "its workers died while processing it", tries - 1
        else:
            _do(context, queued)
            bound.info("unit done", tries=tries)
    except UnknownJob:
        return
    except (Unavailable, Overloaded) as error:
        # A service, the store or Redis is unavailable: the unit waits, which is no failure of its own.
        bound.warning("unit has to wait", reason=error.message)
        context.leases.forget_try(queued)
        context.wait_reasons.record(job, error)
        context.store_was_full |= isinstance(error, StoreFull)
        _retry(context, task, queued, error.retry_after_seconds, error)
    except Exception as error:
        known = isinstance(error, InvalidInput | DeadlineExceeded)
        reason = error.message if isinstance(error, InvalidInput | DeadlineExceeded) else "it failed inside a service"
        bound.warning("unit failed", tries=tries, reason=str(error), exc_info=None if known else error)
        if tries < context.settings.max_tries:
            _retry(context, task, queued, 2.0 ** (tries - 1), error)
    if reason:
        _give_up(context, job, unit, reason, tries)
    _follow(context, job, unit)
    if reason:
        raise UnitFailed(reason)


def _retry(context: WorkerContext, task: Task, queued: QueuedUnit, seconds: float, error: Exception) -> NoReturn:
    """Raises Retry. The unit counts as queued from here on, before its lease is released."""
    _until_available(lambda: context.dispatcher.postpone(queued, seconds))
    raise task.retry(countdown=seconds, exc=error)


def _do(context: WorkerContext, queued: QueuedUnit) -> None:
    job, unit = queued.job, queued.unit
    view = context.job_store.read_clip(job, unit.index) if unit.work is Work.CLIP else context.job_store.read(job)
    if unit in next_units(view):
        context.check_room(job)
        _DO[unit.work](context, view, unit)
        context.leases.forget_tries(queued)
        context.wait_reasons.clear(job)


def _follow(context: WorkerContext, job: JobId, unit: Unit) -> None:
    """Queues what follows from a unit: for clips nothing until the job's last one."""
    if unit.work is Work.CALL_BACK:
        return  # the reconciler queues it again when it is due
    if unit.work is Work.CLIP and _until_available(lambda: context.redis.decr(_OPEN_CLIPS + job.prefix)) > 0:
        return
    _until_available(lambda: advance(context, job))


def _until_available(call: Callable[[], T]) -> T:
    """What `call` returns; repeated while Redis or the store is unavailable, or refuses writes as on a full disk.

    The unit's lease is held meanwhile. Giving up would leave the job to the reconciler, which takes longer.
    """
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return call()
        except (Unavailable, redis.RedisError) as error:
            log.warning("waiting for the queue or the store", reason=str(error)[:200], seconds=pause)
        time.sleep(pause)
        pause = min(2 * pause, _MAX_PAUSE_SECONDS)


def _give_up(context: WorkerContext, job: JobId, unit: Unit, reason: str, tries: int) -> None:
    """Stores why a unit failed for good. A plan that cannot be made ends its job."""
    failure = Failure(reason=reason, tries=tries, failed_at=now()).to_bytes()
    with suppress(UnknownJob):
        match unit.work:
            case Work.CLIP:
                context.store.put_new(job.clip_failure(unit.index), failure)
            case Work.WINDOW | Work.ANSWER:
                context.store.put_new(job.answer_failure(unit.answer), failure)
            case _:
                context.job_store.finish(job, State.FAILED, f"{unit.work}: {reason}")
