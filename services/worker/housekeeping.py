"""Periodic tasks: the reconciler, which resumes stalled jobs, and the sweep of what is past its retention."""

from datetime import UTC, datetime

from services.shared import telemetry
from services.shared.jobs.dispatch import QueueDown, raising_queue_down
from services.shared.jobs.layout import JobId
from services.shared.media.library import MediaLibrary
from services.shared.media.sweeping import sweep as sweep_media
from services.shared.service_errors import Unavailable
from services.worker.context import WorkerContext
from services.worker.units import advance

log = telemetry.get_logger(__name__)

# A job is checked again after so many intervals.
_INTERVALS = 3


def reconcile(context: WorkerContext) -> int:
    """Queues what is not done according to the store, not queued, and not being worked on; returns how many units.

    It depends only on the store, so it restores the queues of a Redis that has lost all its data.
    """
    context.dispatcher.forget_lost(context.settings.lease_seconds)
    found = 0
    for job in context.job_store.active():
        if not _is_due(context, job):
            continue
        try:
            found += advance(context, job)
        except QueueDown:
            raise
        except Unavailable as error:
            log.warning("cannot check a job", job=job.job, reason=error.message)
    context.dispatcher.fill()
    if found:
        log.info("stalled units queued", units=found)
    return found


def sweep(context: WorkerContext) -> None:
    """Deletes what is past its retention, and uploads that were never completed."""
    jobs = context.job_store.expire(datetime.now(UTC))
    swept = sweep_media(MediaLibrary(context.store, context.settings))
    if jobs or swept.media or swept.uploads:
        log.info("swept", jobs=jobs, media=swept.media, uploads=swept.uploads)


@raising_queue_down()
def _is_due(context: WorkerContext, job: JobId) -> bool:
    """Whether to check the job: every few rounds, so that many jobs cost little, and at once if Redis lost its data."""
    seconds = int(_INTERVALS * context.settings.reconcile_seconds)
    return bool(context.redis.set(context.seen_key(job), 1, nx=True, ex=max(seconds, 1)))
