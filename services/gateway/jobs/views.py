"""Jobs as the API shows them, from what the book holds. Everything here blocks."""

from collections.abc import Iterator
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


def show(book: JobStore, webhooks: Webhooks, job: Job, waits_for: str = "") -> JobObject:
    """A job, with all that is known of it."""
    manifest, end = job.manifest, job.end
    return JobObject(
        id=manifest.id,
        state=job.state,
        created_at=manifest.created_at,
        media_id=manifest.recording.media_id,
        filename=manifest.recording.filename,
        progress=progress(job),
        failures=[_failure(book, job, index) for index in sorted(job.contents.failed_clips)],
        questions=[question(job, each) for each in _questions(book, job)],
        ended_at=end.ended_at if end else None,
        reason=end.reason if end else "",
        waits_for=waits_for,
        retained_until=end.retained_until if end else None,
        **manifest.spec | {"webhook": _webhook(webhooks, job)},
    )


def progress(job: Job) -> JobProgress:
    """How far a job is. What is left is reckoned from the pace since it was planned."""
    done = [clip for clip in job.clips if clip.index in job.contents.clips]
    heard, all_seconds = sum(clip.seconds for clip in done), sum(clip.seconds for clip in job.clips)
    remaining = None
    if job.plan is not None and job.state is State.RUNNING and heard:
        since = (datetime.now(UTC) - job.plan.planned_at).total_seconds()
        remaining = round(since * (all_seconds - heard) / heard, 1)
    return JobProgress(
        seconds=job.plan.seconds if job.plan else job.manifest.recording.seconds,
        seconds_to_hear=round(all_seconds, 3),
        seconds_heard=round(heard, 3),
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


def result(book: JobStore, job: Job) -> JobResult | None:
    """What came of a job that has ended; None where nothing did."""
    found = book.result(job.id)
    if found is None:
        return None
    later = [answer for each in job.contents.questions if (answer := book.answer(job.id, each)) is not None]
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


def stretches(job: Job) -> list[tuple[int, int]]:
    """First and last clip of each stretch whose transcript depends on no clip outside: no overlap leads out of it."""
    starts = [0] + [clip.index for _, clip in pairwise(job.clips) if not clip.overlap_seconds]
    return [(start, end - 1) for start, end in pairwise([*starts, len(job.clips)])] if job.clips else []


def heard_stretches(book: JobStore, job: Job, begin: int) -> Iterator[tuple[int, float, float, list[Segment]]]:
    """From stretch `begin` on, those before which everything has been heard: number, start, end, what is said."""
    assert job.plan is not None
    closed = job.contents.clips | job.contents.failed_clips
    for number, (first, last) in list(enumerate(stretches(job)))[begin:]:
        if any(index not in closed for index in range(first, last + 1)):
            return
        heard = {i: book.clip(job.id, i) for i in range(first, last + 1) if i in job.contents.clips}
        yield number, job.clips[first].start_seconds, job.clips[last].end_seconds, list(join_clips(job.plan, heard))


def _failure(book: JobStore, job: Job, index: int) -> ClipFailure:
    clip = job.clips[index]
    return ClipFailure(
        clip=index,
        start_seconds=clip.start_seconds,
        end_seconds=clip.end_seconds,
        reason=book.clip_failure(job.id, index).reason,
    )


def _questions(book: JobStore, job: Job) -> list[Question]:
    return [*job.manifest.questions, *(book.question(job.id, each) for each in job.contents.questions)]


def _webhook(webhooks: Webhooks, job: Job) -> JobWebhook | None:
    asked = job.manifest.webhook
    if asked is None:
        return None
    found = webhooks.log(job.id.key(WEBHOOK)) if job.end else None
    state = found.next.outcome.value if found and isinstance(found.next, Ended) else "waiting"
    tries = len(found.tries) if found else 0
    return JobWebhook.model_validate(asked.model_dump() | {"state": state, "tries": tries})
