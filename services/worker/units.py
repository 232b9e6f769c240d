"""Runs one unit: takes it from its queue, does it under a lease, and queues what can be done next."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice

import redis

from services.shared import telemetry
from services.shared.jobs.kinds import State
from services.shared.jobs.layout import JobId
from services.shared.jobs.model import Failure
from services.shared.jobs.queue import Waiting
from services.shared.jobs.state import Job, Unit, Work, next_units
from services.shared.jobs.store import UnknownJob, now
from services.shared.jobs.tickets import QUEUE_OF, Queue, QueueDown
from services.shared.service_errors import DeadlineExceeded, InvalidInput, Overloaded, Unavailable
from services.shared.storage.store_errors import StoreFull
from services.worker.answers import answer, answer_window, cut_windows
from services.worker.callbacks import call_back
from services.worker.clips import transcribe_clip
from services.worker.context import WorkerContext
from services.worker.finish import finish
from services.worker.planning import plan

log = telemetry.get_logger(__name__)

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


def use_ticket(context: WorkerContext, queue: Queue) -> None:
    """Does the unit whose turn it is, if any; several clips at once, so that the speech encoder can fill its batches.

    Raises QueueDown if Redis is unavailable before a unit has started.
    """
    wanted = context.settings.clips_at_once if queue is Queue.CLIPS else 1
    units = list(islice(iter(lambda: context.dispatcher.pop(queue), None), wanted))
    if len(units) == 1:
        _hold_and_work(context, units[0])
    elif units:
        context.open()
        with ThreadPoolExecutor(len(units), thread_name_prefix="unit") as pool:
            for done in [pool.submit(_hold_and_work, context, unit) for unit in units]:
                done.result()


def _hold_and_work(context: WorkerContext, unit: Waiting) -> None:
    try:
        with context.leases.hold(unit) as held:
            if held and (tries := context.leases.count_try(unit)) <= context.settings.max_tries:
                _work(context, unit, tries)
            elif held:
                _give_up(context, unit, "its workers died while processing it", tries - 1)
                _follow(context, unit)
    except redis.RedisError as error:
        raise QueueDown from error


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
    try:
        if clips := sum(unit.work is Work.CLIP for unit in units):
            context.redis.set(_OPEN_CLIPS + job.prefix, clips, ex=_OPEN_CLIPS_SECONDS)
        waiting = [Waiting(job, unit) for unit in units]
        held = context.leases.held(waiting)
        open_units = [unit.unit for unit in waiting if unit not in held]
        return context.dispatcher.push(job, open_units, view.manifest.priority)
    except redis.RedisError as error:
        raise QueueDown from error


def _work(context: WorkerContext, waiting: Waiting, tries: int) -> None:
    job, unit = waiting.job, waiting.unit
    bound = log.bind(tenant=job.tenant, job=job.job, unit=str(unit))
    try:
        view = context.job_store.read_clip(job, unit.index) if unit.work is Work.CLIP else context.job_store.read(job)
        if unit in next_units(view):
            context.check_room(job)
            _DO[unit.work](context, view, unit)
            context.leases.forget_tries(waiting)  # earlier failures do not count once the unit succeeds
            context.wait_reasons.clear(job)
            bound.info("unit done", tries=tries)
    except UnknownJob:
        return
    except (Unavailable, Overloaded) as error:
        # A service, the store or Redis is unavailable: the unit waits, which is no failure of its own.
        bound.warning("unit has to wait", reason=error.message)
        context.leases.forget_try(waiting)
        context.wait_reasons.record(job, error)
        context.store_was_full |= isinstance(error, StoreFull)
        _requeue(context, waiting, error.retry_after_seconds)
        return
    except Exception as error:
        reason = error.message if isinstance(error, InvalidInput | DeadlineExceeded) else "it failed inside a service"
        known = isinstance(error, InvalidInput | DeadlineExceeded)
        bound.warning("unit failed", tries=tries, reason=str(error), exc_info=None if known else error)
        if tries < context.settings.max_tries:
            _requeue(context, waiting, 1.0)
            return
        _give_up(context, waiting, reason, tries)
    _follow(context, waiting)


def _follow(context: WorkerContext, waiting: Waiting) -> None:
    """Queues what follows from a unit: for clips nothing until the job's last one."""
    if waiting.unit.work is Work.CALL_BACK:
        return  # the reconciler queues it again when it is due
    if waiting.unit.work is Work.CLIP and _until_available(lambda: _count_clip(context, waiting.job)) > 0:
        return
    _until_available(lambda: advance(context, waiting.job))


def _count_clip(context: WorkerContext, job: JobId) -> int:
    """Counts a finished clip; returns how many of the job are left."""
    return int(context.redis.decr(_OPEN_CLIPS + job.prefix))


def _until_available(call: Callable[[], int]) -> int:
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


def _requeue(context: WorkerContext, waiting: Waiting, after_seconds: float) -> None:
    queue = QUEUE_OF[waiting.unit.work]

    def put_back() -> int:
        priority = context.job_store.manifest(waiting.job).priority
        new = context.dispatcher.queues[queue].push(waiting.job, [waiting.unit], priority)
        context.dispatcher.issue_tickets(queue, 1, after_seconds)  # a surplus ticket does nothing
        return new

    with suppress(UnknownJob):  # deleted in the meantime
        _until_available(put_back)


def _give_up(context: WorkerContext, waiting: Waiting, reason: str, tries: int) -> None:
    """Stores why a unit failed for good. A plan that cannot be made ends its job."""
    job, unit = waiting.job, waiting.unit
    failure = Failure(reason=reason, tries=tries, failed_at=now()).to_bytes()
    match unit.work:
        case Work.CLIP:
            context.store.put_new(job.clip_failure(unit.index), failure)
        case Work.WINDOW | Work.ANSWER:
            context.store.put_new(job.answer_failure(unit.answer), failure)
        case _:
            context.job_store.finish(job, State.FAILED, f"{unit.work}: {reason}")
