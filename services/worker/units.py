"""One unit: a ticket is taken, its unit done under a lease, and what follows from it put into the queues."""

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
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 2.0


def use_ticket(context: WorkerContext, queue: Queue) -> None:
    """Does the unit whose turn it is, if there is one; of clips so many that the speech encoder fills its batches.

    Raises QueueDown where Redis is gone before anything was begun.
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
                # Nobody lived to say why.
                _give_up(context, unit, "its workers ended while they were at it", tries - 1)
                _follow(context, unit)
    except redis.RedisError as error:
        raise QueueDown from error


def advance(context: WorkerContext, job: JobId) -> int:
    """Puts what can be done next for a job into the queues; returns how many units were not there before.

    Raises StoreUnavailable, QueueDown.
    """
    try:
        view = context.job_store.read(job)
        if not (units := next_units(view)):
            context.job_store.mark_idle(job)
            # A question may have come between reading and resting.
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
            context.leases.forget_tries(waiting)  # a callback comes again, and only what failed counts
            context.wait_reasons.clear(job)
            bound.info("unit done", tries=tries)
    except UnknownJob:
        return
    except (Unavailable, Overloaded) as error:
        # A service, the store or Redis is away: that is not the unit's fault, and it waits for them.
        bound.warning("unit has to wait", reason=error.message)
        context.leases.forget_try(waiting)
        context.wait_reasons.record(job, error)
        context.store_was_full |= isinstance(error, StoreFull)
        _again(context, waiting, error.retry_after_seconds)
        return
    except Exception as error:
        reason = error.message if isinstance(error, InvalidInput | DeadlineExceeded) else "it failed inside a service"
        known = isinstance(error, InvalidInput | DeadlineExceeded)
        bound.warning("unit failed", tries=tries, reason=str(error), exc_info=None if known else error)
        if tries < context.settings.max_tries:
            _again(context, waiting, 1.0)
            return
        _give_up(context, waiting, reason, tries)
    _follow(context, waiting)


def _follow(context: WorkerContext, waiting: Waiting) -> None:
    """What comes after a unit. Between clips of a job nothing does, so only the last one looks."""
    if waiting.unit.work is Work.CALL_BACK:
        return  # the reconciler comes back to it when it is due
    if waiting.unit.work is Work.CLIP and _when_back(lambda: _count_clip(context, waiting.job)) > 0:
        return
    _when_back(lambda: advance(context, waiting.job))


def _count_clip(context: WorkerContext, job: JobId) -> int:
    """How many clips of the job are left, now that one more is done."""
    return int(context.redis.decr(_OPEN_CLIPS + job.prefix))


def _when_back(call: Callable[[], int]) -> int:
    """What `call` returns; tried for as long as Redis or the store is away, or says no as on a full disk.

    The unit's lease is held meanwhile. Whoever gave up here would leave the unit until its lease has run out.
    """
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return call()
        except (Unavailable, redis.RedisError) as error:
            log.warning("the queue or the store is waited for", reason=str(error)[:200], seconds=pause)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _again(context: WorkerContext, waiting: Waiting, after_seconds: float) -> None:
    queue = QUEUE_OF[waiting.unit.work]

    def put_back() -> int:
        priority = context.job_store.manifest(waiting.job).priority
        new = context.dispatcher.queues[queue].push(waiting.job, [waiting.unit], priority)
        context.dispatcher.give_tickets(queue, 1, after_seconds)  # one too many is torn up
        return new

    with suppress(UnknownJob):  # deleted meanwhile
        _when_back(put_back)


def _give_up(context: WorkerContext, waiting: Waiting, reason: str, tries: int) -> None:
    """Keeps why a unit could not be done. A plan that cannot be made ends its job."""
    job, unit = waiting.job, waiting.unit
    failure = Failure(reason=reason, tries=tries, failed_at=now()).to_bytes()
    match unit.work:
        case Work.CLIP:
            context.store.put_new(job.clip_failure(unit.index), failure)
        case Work.WINDOW | Work.ANSWER:
            context.store.put_new(job.answer_failure(unit.answer), failure)
        case _:
            context.job_store.finish(job, State.FAILED, f"{unit.work}: {reason}")
