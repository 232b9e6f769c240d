"""Calling back whoever submitted a job, once it has ended: tried again over a day, always with the same id."""

from datetime import UTC, datetime

import redis

from services.shared.jobs.layout import CALLED_BACK, WEBHOOK
from services.shared.jobs.state import Job, Unit
from services.shared.webhooks.records import Ended
from services.worker.context import WorkerContext

# A callback that waits is looked at so often at least, for Redis to forget nothing that matters.
_LONGEST_REST_SECONDS = 60


def call_back(place: WorkerContext, job: Job, unit: Unit) -> None:
    """Makes the next try where one is due."""
    webhook, end, at = job.manifest.webhook, job.end, datetime.now(UTC)
    assert webhook is not None
    assert end is not None
    folder = job.id.key(WEBHOOK)
    place.webhooks.ask(
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
    due = place.webhooks.deliver_once(folder, at)
    if isinstance(due, Ended):
        place.store.put(job.id.key(CALLED_BACK), b"{}")
    elif due is not None:
        _rest_until(place, job, (due - at).total_seconds())


def _rest_until(place: WorkerContext, job: Job, seconds: float) -> None:
    """The reconciler passes this job over until then."""
    try:
        place.redis.set(place.seen_key(job.id), 1, ex=max(1, min(int(seconds), _LONGEST_REST_SECONDS)))
    except redis.RedisError:
        return  # then it comes too early, which does no harm
