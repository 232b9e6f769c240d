"""What the object store holds of a job: one class an object, each written whole and once."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from services.shared.jobs.kinds import Priority, State, Task
from services.shared.storage.records import Stored

FORMAT = 1


Ended = Literal[State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED]


class Recording(Stored):
    """The recording of a job: where its bytes lie, and what is known of them."""

    media_id: str
    content_key: str
    filename: str
    sha256: str
    bytes: int
    seconds: float | None


class Webhook(Stored):
    """Who is called back: an address, and the id of the secret that signs the call."""

    url: str
    secret_id: str


class Question(Stored):
    """One question about a job's recording. `id` is its place among them: "000", "001", ..."""

    id: str
    text: str
    asked_at: datetime


class Manifest(Stored):
    """What was asked for. It never changes.

    Attributes:
        fingerprint: Of the request; the same Idempotency-Key with another one is refused.
    """

    format: int = FORMAT
    id: str
    tenant: str
    created_at: datetime
    recording: Recording
    tasks: tuple[Task, ...]
    questions: tuple[Question, ...] = ()
    language: str = ""
    webhook: Webhook | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    priority: Priority = Priority.NORMAL
    allow_gaps: bool = False
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
    """How the recording is cut.

    Attributes:
        seconds: Of the whole recording, as decoded.
        speech_seconds: Of it, somebody talks.
        truncated: The file ends before it should; what is there is worked on.
    """

    format: int = FORMAT
    planned_at: datetime
    seconds: float
    speech_seconds: float
    truncated: bool
    clips: tuple[PlannedClip, ...]


class Segment(Stored):
    """Some words that belong together, and where they are said in the recording."""

    start_seconds: float
    end_seconds: float
    text: str


class ClipSegment(Segment):
    """Words of a clip, timed from its own beginning."""

    mean_log_probability: float
    no_speech_probability: float


class ClipResult(Stored):
    """What was heard in a clip. Its speech tokens lie beside it."""

    index: int
    segments: tuple[ClipSegment, ...]
    language: str
    speech_tokens: int
    adapter: str


class Failure(Stored):
    """Why a piece of work was given up, in words that its owner may read."""

    reason: str
    tries: int
    failed_at: datetime


class Windows(Stored):
    """Stretches of clips that are answered from at once: `[first, last]`, both included; one where all of them fit.

    `context_tokens` is what the language model could read when they were made.
    """

    clips: tuple[tuple[int, int], ...]
    context_tokens: int


class WindowAnswer(Stored):
    """What the part of the recording between two moments says to a question."""

    start_seconds: float
    end_seconds: float
    text: str
    prompt_tokens: int
    completion_tokens: int


class Answer(Stored):
    """An answer, and how it came about: all speech tokens at once, or window by window and then joined.

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
    """A clip that could not be heard, in a job that allows gaps."""

    start_seconds: float
    end_seconds: float
    reason: str


class Result(Stored):
    """What came of a job. Holds no time of processing: the same recording and questions give the same bytes."""

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
    """How a job ended. The first to write it decides."""

    state: Ended
    ended_at: datetime
    reason: str = ""
    retained_until: datetime
