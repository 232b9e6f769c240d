"""Plans a job: decodes its recording as a stream, cuts it into clips at pauses, and stores the audio of each clip.

Decoding runs in a sandboxed process; this one only sees samples.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import redis

from model_core.audio.encoding import encode_flac
from model_core.audio.planning import plan_audio
from services.shared.jobs.kinds import State
from services.shared.jobs.model import Plan, PlannedClip
from services.shared.jobs.state import Job, Unit
from services.shared.jobs.store import now
from services.shared.service_errors import InvalidInput
from services.shared.storage.store_errors import ObjectMissing
from services.worker.context import WorkerContext
from services.worker.queue_metrics import record_clips

# Clips written to the store while the next ones are decoded; more would only take memory.
_PARALLEL_WRITES = 4
# Clips between two checks whether the job was cancelled.
_CHECK_EVERY = 20


def plan(context: WorkerContext, job: Job, unit: Unit) -> None:
    """Cuts the job's recording into clips. One that cannot be decoded, or was deleted, fails the job."""
    context.store.put_new(job.id.started, b"{}")
    try:
        made = _cut(context, job)
    except InvalidInput as error:
        context.job_store.finish(job.id, State.FAILED, str(error))
    except ObjectMissing:
        context.job_store.finish(job.id, State.FAILED, "media_id: the recording was deleted before it was read")
    else:
        if made is not None:
            context.store.put_new(job.id.plan, made.to_bytes())
            _record_lengths(context, made)


def _record_lengths(context: WorkerContext, made: Plan) -> None:
    """Only feeds a metric, so planning does not fail without Redis."""
    with suppress(redis.RedisError):
        record_clips(context.redis, len(made.clips), sum(clip.end_seconds - clip.start_seconds for clip in made.clips))


def _cut(context: WorkerContext, job: Job) -> Plan | None:
    """Returns None if the job has ended meanwhile."""
    clips: list[PlannedClip] = []
    writing: list[Future[None]] = []
    with ThreadPoolExecutor(_PARALLEL_WRITES) as pool, context.store.open(job.manifest.recording.content_key) as source:
        sound = context.decoders.audio(
            source, max_seconds=context.settings.max_job_seconds, field="media_id", tenant=job.manifest.tenant
        )
        planned = plan_audio(sound)
        for cut, samples in planned:
            clips.append(
                PlannedClip(
                    index=cut.index,
                    start_seconds=cut.start_seconds,
                    end_seconds=cut.end_seconds,
                    overlap_seconds=cut.overlap_seconds,
                )
            )
            data = encode_flac(samples)
            writing.append(pool.submit(context.store.put, job.id.audio(cut.index), data, "audio/flac"))
            if len(writing) >= _PARALLEL_WRITES:
                writing.pop(0).result()
            if cut.index % _CHECK_EVERY == 0 and context.job_store.end(job.id) is not None:
                return None
        for each in writing:
            each.result()
    summary = planned.summary
    return Plan(
        planned_at=now(),
        seconds=summary.seconds,
        speech_seconds=summary.speech_seconds,
        truncated=summary.truncated,
        clips=tuple(clips),
    )
