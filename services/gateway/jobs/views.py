"""Jobs in the API's schemas, from the objects in the store. Everything here blocks."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Literal

from services.gateway.jobs.schemas import (
    ClipFailure,
    JobObject,
    JobProgress,
    JobQuestion,
    JobResult,
    JobWebhook,
)
from services.shared.jobs.kinds import State
from services.shared.jobs.layout import WEBHOOK
from services.shared.jobs.model import Question, Segment
from services.shared.jobs.state import Job
from services.shared.jobs.store import JobStore
from services.shared.jobs.transcript import join_clips
from services.shared.webhooks.deliveries import Webhooks
from services.shared.webhooks.records import Ended


@dataclass(frozen=True, slots=True)
class Span:
    """A span of consecutive clips whose transcript is final."""

    number: int
    start_seconds: float
    end_seconds: float
    segments: list[Segment]


def show(store: JobStore, webhooks: Webhooks, job: Job, waits_for: str = "") -> JobObject:
    """A job with its progress, failures, questions and webhook."""
    manifest, end = job.manifest, job.end
    return JobObject(
        id=manifest.id,
        state=job.state,
        created_at=manifest.created_at,
        media_id=manifest.recording.media_id,
        filename=manifest.recording.filename,
        progress=progress(job),
        failures=[_failure(store, job, index) for index in sorted(job.contents.failed_clips)],
        questions=[question(job, each) for each in _questions(store, job)],
        ended_at=end.ended_at if end else None,
        reason=end.reason if end else "",
        waits_for=waits_for,
        retained_until=end.retained_until if end else None,
        **manifest.spec | {"webhook": _webhook(webhooks, job)},
    )


def progress(job: Job) -> JobProgress:
    """Progress of a job. The remaining time is extrapolated from the pace since it was planned."""
    done = [clip for clip in job.clips if clip.index in job.contents.clips]
    done_seconds, all_seconds = sum(clip.seconds for clip in done), sum(clip.seconds for clip in job.clips)
    remaining = None
    if job.plan is not None and job.state is State.RUNNING and done_seconds:
        elapsed = (datetime.now(UTC) - job.plan.planned_at).total_seconds()
        remaining = round(elapsed * (all_seconds - done_seconds) / done_seconds, 1)
    return JobProgress(
        seconds=job.plan.seconds if job.plan else job.manifest.recording.seconds,
        seconds_to_hear=round(all_seconds, 3),
        seconds_heard=round(done_seconds, 3),
        clips=len(job.clips),
        clips_heard=len(done),
        remaining_seconds=remaining,
    )


def question(job: Job, asked: Question) -> JobQuestion:
    contents = job.contents
    state: Literal["open", "answered", "failed"] = "open"
    if asked.id in contents.answers:
        state = "answered"
    elif asked.id in contents.failed_answers:
        state = "failed"
    return JobQuestion(id=asked.id, text=asked.text, asked_at=asked.asked_at, state=state)


def result(store: JobStore, job: Job) -> JobResult | None:
    """Result of a job that has ended; None if it has none."""
    found = store.result(job.id)
    if found is None:
        return None
    later = [answer for each in job.contents.questions if (answer := store.answer(job.id, each)) is not None]
    return JobResult(
        id=found.job_id,
        state=job.state,
        media_id=found.media_id,
        duration_seconds=found.duration_seconds,
        speech_seconds=found.speech_seconds,
        truncated=found.truncated,
        language=found.language,
        text=found.text,
        segments=list(found.segments) if found.segments is not None else None,
        summary=found.summary,
        answers=[*found.answers, *later],
        gaps=list(found.gaps),
    )


def final_spans(store: JobStore, job: Job, first: int) -> Iterator[Span]:
    """The spans from number `first` on whose clips, and all clips before them, are done or have failed."""
    assert job.plan is not None
    closed = job.contents.clips | job.contents.failed_clips
    for number, clips in list(enumerate(_spans(job)))[first:]:
        if any(index not in closed for index in clips):
            return
        done = {index: store.clip(job.id, index) for index in clips if index in job.contents.clips}
        start, end = job.clips[clips[0]].start_seconds, job.clips[clips[-1]].end_seconds
        yield Span(number, start, end, list(join_clips(job.plan, done)))


def _spans(job: Job) -> list[range]:
    """Runs of clips whose transcript depends on no clip outside: clips of different spans do not overlap."""
    starts = [0] + [clip.index for _, clip in pairwise(job.clips) if not clip.overlap_seconds]
    return [range(start, end) for start, end in pairwise([*starts, len(job.clips)])] if job.clips else []


def _failure(store: JobStore, job: Job, index: int) -> ClipFailure:
    clip = job.clips[index]
    return ClipFailure(
        clip=index,
        start_seconds=clip.start_seconds,
        end_seconds=clip.end_seconds,
        reason=store.clip_failure(job.id, index).reason,
    )


def _questions(store: JobStore, job: Job) -> list[Question]:
    return [*job.manifest.questions, *(store.question(job.id, each) for each in job.contents.questions)]


def _webhook(webhooks: Webhooks, job: Job) -> JobWebhook | None:
    webhook = job.manifest.webhook
    if webhook is None:
        return None
    found = webhooks.log(job.id.key(WEBHOOK)) if job.end else None
    state = found.next.outcome.value if found and isinstance(found.next, Ended) else "waiting"
    tries = len(found.attempts) if found else 0
    return JobWebhook.model_validate(webhook.model_dump() | {"state": state, "tries": tries})
