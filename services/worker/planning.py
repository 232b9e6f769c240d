"""Planning: a recording is decoded as a stream, cut into clips where nobody talks, and each clip kept as sound.

It is decoded in a process of its own; what is cut here are samples.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import redis

from model_core.audio.encoding import encode_flac
from model_core.audio.planning import plan_sound
from services.shared.jobs.kinds import State
from services.shared.jobs.model import Plan, PlannedClip
from services.shared.jobs.state import Job, Unit
from services.shared.jobs.store import now
from services.shared.service_errors import InvalidInput
from services.shared.storage.store_errors import ObjectMissing
from services.worker.context import WorkerContext
from services.worker.queue_metrics import note_clips

# Clips that are written to the store while the next are decoded; more would only take memory.
_WRITING = 4
# Clips between two looks whether the job was cancelled.
_LOOK_EVERY = 20


def plan(place: WorkerContext, job: Job, unit: Unit) -> None:
    """Cuts the job's recording. What is no recording ends the job, and so does one that was deleted."""
    place.store.put_new(job.id.started, b"{}")
    try:
        made = _cut(place, job)
    except InvalidInput as error:
        place.book.finish(job.id, State.FAILED, str(error))
    except ObjectMissing:
        place.book.finish(job.id, State.FAILED, "media_id: the recording was deleted before it was read")
    else:
        if made is not None:
            place.store.put_new(job.id.plan, made.to_bytes())
            _tell_lengths(place, made)


def _tell_lengths(place: WorkerContext, made: Plan) -> None:
    """For a metric alone: planning does not fail where Redis is away."""
    with suppress(redis.RedisError):
        note_clips(place.redis, len(made.clips), sum(clip.end_seconds - clip.start_seconds for clip in made.clips))


def _cut(place: WorkerContext, job: Job) -> Plan | None:
    """None where the job has ended meanwhile."""
    clips: list[PlannedClip] = []
    writing: list[Future[None]] = []
    with ThreadPoolExecutor(_WRITING) as pool, place.store.open(job.manifest.recording.content_key) as source:
        sound = place.decoders.sound(
            source, max_seconds=place.settings.max_job_seconds, field="media_id", tenant=job.manifest.tenant
        )
        planned = plan_sound(sound)
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
            writing.append(pool.submit(place.store.put, job.id.sound(cut.index), data, "audio/flac"))
            if len(writing) >= _WRITING:
                writing.pop(0).result()
            if cut.index % _LOOK_EVERY == 0 and place.book.end(job.id) is not None:
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
