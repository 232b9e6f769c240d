"""The objects of a job in the store: one class per object, each object written whole and once."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from services.shared.jobs.kinds import Priority, State, Task
from services.shared.storage.records import Stored

FORMAT = 1

Ended = Literal[State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED]


class Recording(Stored):
    """The recording of a job: where its bytes are stored, and what is known about them."""

    media_id: str
    content_key: str
    filename: str
    sha256: str
    bytes: int
    seconds: float | None


class Webhook(Stored):
    """Whom to notify once the job has ended, as specified by Standard Webhooks."""

    url: str = Field(max_length=2048, description="https address that takes a POST.")
    secret_id: str = Field(
        max_length=64, description="Id of the secret that signs it, made with `lyra webhooks secrets create`."
    )


_Metadata = dict[
    Annotated[str, StringConstraints(min_length=1, max_length=64)], Annotated[str, StringConstraints(max_length=512)]
]


class JobSpec(BaseModel):
    """What a client decides about a job: the one definition from which requests, manifest and API schemas derive.

    Stored manifests are validated by it, too, so its constraints may be loosened but not tightened.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: tuple[Task, ...] = Field(default=(Task.TRANSCRIPT,), fail_fast=True, min_length=1, max_length=3)
    language: str = Field(
        default="", max_length=16, description="ISO 639-1 code; empty where the model is to find out."
    )
    webhook: Webhook | None = None
    metadata: _Metadata = Field(default_factory=dict, max_length=16, description="Yours; given back as it came.")
    priority: Priority = Field(default=Priority.NORMAL, description="Among your own jobs.")
    allow_gaps: bool = Field(default=False, description="Whether the job succeeds even if clips cannot be transcribed.")

    @property
    def spec(self) -> dict[str, Any]:
        """These fields of a derived model, to build another one from."""
        return {name: getattr(self, name) for name in JobSpec.model_fields}


class Question(Stored):
    """A question about a job's recording. `id` is its position among the job's questions: "000", "001", ..."""

    id: str
    text: str
    asked_at: datetime


class Manifest(JobSpec, Stored):
    """What was requested. Immutable.

    Attributes:
        fingerprint: Of the request; another request with the same Idempotency-Key is rejected.
    """

    format: int = FORMAT
    id: str
    tenant: str
    created_at: datetime
    recording: Recording
    questions: tuple[Question, ...] = ()
    fingerprint: str = ""


class PlannedClip(Stored):
    """A piece of the recording of at most 30 s. The first `overlap_seconds` of it are the end of the clip before."""

    index: int
    start_seconds: float
    end_seconds: float
    overlap_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        return self.end_seconds - self.start_seconds


class Plan(Stored):
    """How the recording is divided into clips.

    Attributes:
        seconds: Duration of the whole recording, as decoded.
        speech_seconds: Duration of the speech in it.
        truncated: Whether the file ends early; the part that exists is processed.
    """

    format: int = FORMAT
    planned_at: datetime
    seconds: float
    speech_seconds: float
    truncated: bool
    clips: tuple[PlannedClip, ...]


class Segment(Stored):
    """A run of words with its time span in the recording."""

    start_seconds: float
    end_seconds: float
    text: str


class ClipSegment(Segment):
    """A segment of a clip, timed from the start of the clip."""

    mean_log_probability: float
    no_speech_probability: float


class ClipResult(Stored):
    """Transcript of a clip. Its speech tokens are an object of their own."""

    index: int
    segments: tuple[ClipSegment, ...]
    language: str
    speech_tokens: int
    adapter: str


class Failure(Stored):
    """Why a unit failed for good; `reason` is shown to the job's owner."""

    reason: str
    tries: int
    failed_at: datetime


class Windows(Stored):
    """Ranges of clips `[first, last]`, both inclusive, that fit into one prompt; a single one if all clips do.

    `context_tokens` is the context length of the language model at the time.
    """

    clips: tuple[tuple[int, int], ...]
    context_tokens: int


class WindowAnswer(Stored):
    """A question answered from one window of the recording."""

    start_seconds: float
    end_seconds: float
    text: str
    prompt_tokens: int
    completion_tokens: int


class Answer(Stored):
    """An answer, and how it was made: from all speech tokens in one pass, or window by window and then combined.

    `id` is that of its question, or "summary".
    """

    id: str
    question: str
    text: str
    mode: Literal["single_pass", "map_reduce"]
    windows: tuple[WindowAnswer, ...]
    prompt_tokens: int
    completion_tokens: int


class Gap(Stored):
    """A clip that failed, in a job that allows gaps."""

    start_seconds: float
    end_seconds: float
    reason: str


class Result(Stored):
    """Result of a job. Holds no timestamps of processing: the same recording and questions give the same bytes."""

    format: int = FORMAT
    job_id: str
    media_id: str
    duration_seconds: float
    speech_seconds: float
    truncated: bool
    language: str
    text: str | None
    segments: tuple[Segment, ...] | None
    summary: Answer | None
    answers: tuple[Answer, ...]
    gaps: tuple[Gap, ...]


class End(Stored):
    """How a job ended. The first writer wins."""

    state: Ended
    ended_at: datetime
    reason: str = ""
    retained_until: datetime
