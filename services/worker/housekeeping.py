"""What happens again and again: stalled jobs go on, callbacks go out, and what is past its time goes away."""

from datetime import UTC, datetime

import redis

from services.shared import telemetry
from services.shared.jobs.layout import JobId
from services.shared.jobs.tickets import QueueDown
from services.shared.media.library import MediaLibrary
from services.shared.media.sweeping import sweep as sweep_media
from services.shared.service_errors import Unavailable
from services.worker.context import WorkerContext
from services.worker.units import advance

log = telemetry.get_logger(__name__)

# Jobs that went on by themselves are looked at again after so many times the interval.
_LOOK_AGAIN = 3
# Tickets given out at once where units wait without.
_MOST_TICKETS = 64


def reconcile(context: WorkerContext) -> int:
    """Puts into the queues what the store says is not done and nobody works on; returns how many units that were.

    Nothing but the store is needed for it, so it mends a Redis that has lost everything.
    """
    found = 0
    for job in context.job_store.active():
        if not _is_due(context, job):
            continue
        try:
            found += advance(context, job)
        except QueueDown:
            raise
        except Unavailable as error:
            log.warning("a job could not be looked at", job=job.job, reason=error.message)
    try:
        for queue, units in context.dispatcher.queues.items():
            waiting = len(units)
            if waiting and not context.dispatcher.tickets(queue):
                context.dispatcher.give_tickets(queue, min(waiting, _MOST_TICKETS))
    except redis.RedisError as error:
        raise QueueDown from error
    if found:
        log.info("stalled units were found", units=found)
    return found


def sweep(context: WorkerContext) -> None:
    """Takes away what is past its retention, and uploads that were never completed."""
    jobs = context.job_store.expire(datetime.now(UTC))
    swept = sweep_media(MediaLibrary(context.store, context.settings))
    if jobs or swept.media or swept.uploads:
        log.info("swept", jobs=jobs, media=swept.media, uploads=swept.uploads)


def _is_due(context: WorkerContext, job: JobId) -> bool:
    """Once in a few rounds for each job, so that many running jobs cost little; at once where Redis has forgotten."""
    seconds = int(_LOOK_AGAIN * context.settings.reconcile_seconds)
    try:
        return bool(context.redis.set(context.seen_key(job), 1, nx=True, ex=max(seconds, 1)))
    except redis.RedisError as error:
        raise QueueDown from error
