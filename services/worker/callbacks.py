"""Delivers the webhook of a job that has ended: retried over a day, always with the same id."""

from datetime import UTC, datetime

import redis

from services.shared.jobs.layout import WEBHOOK, WEBHOOK_DONE
from services.shared.jobs.state import Job, Unit
from services.shared.webhooks.records import Ended
from services.worker.context import WorkerContext

# A delivery that is not due yet is checked at least this often.
_MAX_WAIT_SECONDS = 60


def call_back(context: WorkerContext, job: Job, unit: Unit) -> None:
    """Makes the next attempt if one is due."""
    webhook, end, at = job.manifest.webhook, job.end, datetime.now(UTC)
    assert webhook is not None
    assert end is not None
    folder = job.id.key(WEBHOOK)
    context.webhooks.request(
        folder,
        tenant=job.manifest.tenant,
        url=webhook.url,
        secret_id=webhook.secret_id,
        event=f"job.{end.state}",
        data={
            "id": job.manifest.id,
            "object": "job",
            "state": end.state.value,
            "reason": end.reason,
            "media_id": job.manifest.recording.media_id,
            "metadata": job.manifest.metadata,
        },
        now=end.ended_at,
    )
    due = context.webhooks.deliver_once(folder, at)
    if isinstance(due, Ended):
        context.store.put(job.id.key(WEBHOOK_DONE), b"{}")
    elif due is not None:
        _wait(context, job, (due - at).total_seconds())


def _wait(context: WorkerContext, job: Job, seconds: float) -> None:
    """Makes the reconciler skip this job for a while."""
    try:
        context.redis.set(context.seen_key(job.id), 1, ex=max(1, min(int(seconds), _MAX_WAIT_SECONDS)))
    except redis.RedisError:
        return  # it is then checked too early, which is harmless
