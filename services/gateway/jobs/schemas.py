"""Shapes of long-audio jobs."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.shared.jobs.kinds import State
from services.shared.jobs.model import Answer, Gap, JobSpec, Segment, Webhook


class WebhookRequest(Webhook):
    """Who is called back when the job has ended, as Standard Webhooks says."""


class JobOptions(JobSpec):
    """What is to be done with a recording."""

    questions: list[str] = Field(fail_fast=True, default_factory=list, description="To be answered from the recording.")
    webhook: WebhookRequest | None = None


class JobRequest(JobOptions):
    """A job on a recording that was uploaded before."""

    media_id: str = Field(max_length=64)


class QuestionsRequest(BaseModel):
    """More to be answered from a recording that was heard."""

    model_config = ConfigDict(extra="forbid")

    questions: list[str] = Field(fail_fast=True, min_length=1)


class JobProgress(BaseModel):
    """How far a job is, in seconds of sound."""

    seconds: float | None = Field(description="Length of the recording; null until it is planned.")
    seconds_to_hear: float = Field(description="Seconds that the clips last; silence between them is not heard.")
    seconds_heard: float
    clips: int
    clips_heard: int
    remaining_seconds: float | None = Field(description="Estimate of how long hearing the rest will take.")


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
    """What a job is, and of which recording."""

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
    reason: str = Field(description="Why a job has failed; empty otherwise.")
    waits_for: str = Field("", description="Why its work rests at the moment, as for a full store; empty otherwise.")
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
    """What came of a job, and of what was asked later."""

    id: str
    object: Literal["job.result"] = "job.result"
    state: State
    media_id: str
    duration_seconds: float
    speech_seconds: float
    truncated: bool = Field(description="The file ends before it should; what is there was worked on.")
    language: str
    text: str | None
    segments: list[Segment] | None
    summary: Answer | None
    answers: list[Answer]
    gaps: list[Gap]


def progress_event(progress: JobProgress, state: State) -> dict[str, Any]:
    return {"type": "job.progress", "state": state, "progress": progress.model_dump()}


def transcript_event(start: float, end: float, segments: list[Segment]) -> dict[str, Any]:
    """Words from `start` to `end`, for good."""
    said = [segment.model_dump() for segment in segments]
    return {"type": "job.transcript.delta", "start_seconds": start, "end_seconds": end, "segments": said}


def ended_event(job: JobObject) -> dict[str, Any]:
    return {"type": f"job.{job.state}", "job": job.model_dump(mode="json")}
