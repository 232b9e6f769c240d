"""Schemas of long-audio jobs."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.shared.jobs.kinds import State
from services.shared.jobs.model import Answer, Gap, JobSpec, Segment, Webhook


class WebhookRequest(Webhook):
    """Callback for when the job has ended, according to Standard Webhooks."""


class JobOptions(JobSpec):
    """Options of a job."""

    questions: list[str] = Field(fail_fast=True, default_factory=list, description="Questions about the recording.")
    webhook: WebhookRequest | None = None


class JobRequest(JobOptions):
    """A job on an uploaded recording."""

    media_id: str = Field(max_length=64)


class QuestionsRequest(BaseModel):
    """More questions about the recording of a job."""

    model_config = ConfigDict(extra="forbid")

    questions: list[str] = Field(fail_fast=True, min_length=1)


class JobProgress(BaseModel):
    """Progress of a job in seconds of audio."""

    seconds: float | None = Field(description="Duration of the recording; null if unknown until it has been decoded.")
    seconds_to_hear: float = Field(description="Total duration of the clips; silence between them is skipped.")
    seconds_heard: float
    clips: int
    clips_heard: int
    remaining_seconds: float | None = Field(description="Estimated time to transcribe the rest.")


class ClipFailure(BaseModel):
    clip: int
    start_seconds: float
    end_seconds: float
    reason: str


class JobQuestion(BaseModel):
    id: str
    text: str
    asked_at: datetime
    state: Literal["open", "answered", "failed"]


class JobWebhook(Webhook):
    model_config = ConfigDict(extra="ignore")

    state: Literal["waiting", "delivered", "stopped", "given_up"]
    tries: int


class JobSource(BaseModel):
    """Identity of a job and its recording."""

    id: str
    object: Literal["job"] = "job"
    state: State
    created_at: datetime
    media_id: str
    filename: str


class JobObject(JobSpec, JobSource):
    """A job."""

    model_config = ConfigDict(extra="ignore", json_schema_serialization_defaults_required=True)

    webhook: JobWebhook | None
    progress: JobProgress
    failures: list[ClipFailure]
    questions: list[JobQuestion]
    ended_at: datetime | None
    reason: str = Field(description="Why the job failed; empty otherwise.")
    waits_for: str = Field("", description="Why the job is paused, such as a full store; empty otherwise.")
    retained_until: datetime | None


class JobList(BaseModel):
    object: Literal["list"] = "list"
    data: list[JobObject]
    has_more: bool
    next: str | None = Field(description="Value of `after` for the next page.")


class QuestionList(BaseModel):
    object: Literal["list"] = "list"
    data: list[JobQuestion]


class DeletedJob(BaseModel):
    id: str
    object: Literal["job"] = "job"
    deleted: Literal[True] = True


class JobResult(BaseModel):
    """Result of a job, including answers to questions asked later."""

    id: str
    object: Literal["job.result"] = "job.result"
    state: State
    media_id: str
    duration_seconds: float
    speech_seconds: float
    truncated: bool = Field(description="Whether the file ends early; the part that exists was processed.")
    language: str
    text: str | None
    segments: list[Segment] | None
    summary: Answer | None
    answers: list[Answer]
    gaps: list[Gap]


def progress_event(progress: JobProgress, state: State) -> dict[str, Any]:
    return {"type": "job.progress", "state": state, "progress": progress.model_dump()}


def transcript_event(start: float, end: float, segments: list[Segment]) -> dict[str, Any]:
    """Final segments from `start` to `end`."""
    dumped = [segment.model_dump() for segment in segments]
    return {"type": "job.transcript.delta", "start_seconds": start, "end_seconds": end, "segments": dumped}


def ended_event(job: JobObject) -> dict[str, Any]:
    return {"type": f"job.{job.state}", "job": job.model_dump(mode="json")}
