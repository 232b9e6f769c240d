"""Ends a job: builds its result from the transcripts and answers."""

from services.shared.jobs.kinds import State, Task
from services.shared.jobs.layout import SUMMARY
from services.shared.jobs.model import Answer, Gap, Result
from services.shared.jobs.state import Job, Unit
from services.shared.jobs.transcript import join_clips
from services.shared.pipeline.transcripts import plain_text, to_srt, to_vtt
from services.worker.context import WorkerContext


def finish(context: WorkerContext, job: Job, unit: Unit) -> None:
    """Writes the result, then the end. Built from stored objects alone, so repeating it gives the same bytes."""
    assert job.plan is not None
    transcripts = {index: context.job_store.clip(job.id, index) for index in sorted(job.contents.clips)}
    segments = join_clips(job.plan, transcripts)
    answers = {each: context.job_store.answer(job.id, each) for each in job.wanted_answers}
    result = Result(
        job_id=job.id.job,
        media_id=job.manifest.recording.media_id,
        duration_seconds=job.plan.seconds,
        speech_seconds=job.plan.speech_seconds,
        truncated=job.plan.truncated,
        language=job.manifest.language or next((clip.language for clip in transcripts.values()), ""),
        text=plain_text(segments) if Task.TRANSCRIPT in job.manifest.tasks else None,
        segments=segments if Task.TRANSCRIPT in job.manifest.tasks else None,
        summary=answers.get(SUMMARY),
        answers=tuple(answer for each, answer in answers.items() if answer and each != SUMMARY),
        gaps=_gaps(context, job),
    )
    if Task.TRANSCRIPT in job.manifest.tasks:
        context.store.put(job.id.subtitles("srt"), to_srt(segments).encode(), "application/x-subrip")
        context.store.put(job.id.subtitles("vtt"), to_vtt(segments).encode(), "text/vtt")
    context.store.put(job.id.result, result.to_bytes())
    reason = _failure(context, job, answers)
    context.job_store.finish(job.id, State.FAILED if reason else State.SUCCEEDED, reason)


def _gaps(context: WorkerContext, job: Job) -> tuple[Gap, ...]:
    return tuple(
        Gap(
            start_seconds=clip.start_seconds,
            end_seconds=clip.end_seconds,
            reason=context.job_store.clip_failure(job.id, clip.index).reason,
        )
        for clip in job.clips
        if clip.index in job.contents.failed_clips
    )


def _failure(context: WorkerContext, job: Job, answers: dict[str, Answer | None]) -> str:
    """Why the job has failed; empty if it has not."""
    if job.has_fatal_gap:
        failed = [job.clips[index] for index in sorted(job.contents.failed_clips)]
        named = ", ".join(
            f"clip {clip.index} ({clip.start_seconds:.1f} to {clip.end_seconds:.1f} s): "
            + context.job_store.clip_failure(job.id, clip.index).reason
            for clip in failed[:3]
        )
        more = f", and {len(failed) - 3} more" if len(failed) > 3 else ""
        return f"{len(failed)} of {len(job.clips)} clips could not be transcribed: {named}{more}"
    if job.wanted_answers and not job.contents.clips:
        return "the recording contains no speech, so there is nothing to answer from"
    for each, answer in answers.items():
        if answer is None:
            failure = context.job_store.answer_failure(job.id, each)
            what = "the summary" if each == SUMMARY else f"question {each}"
            return f"{what} could not be answered: {failure.reason if failure else 'unknown reason'}"
    return ""
