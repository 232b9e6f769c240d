"""A job's state, progress and next units of work, as pure functions of the objects that exist.

No process holds a job's state. Whatever crashed, or ran twice, what is left to do follows from the objects.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from services.shared.jobs.kinds import State, Task
from services.shared.jobs.layout import SUMMARY, WEBHOOK_DONE, Contents, JobId
from services.shared.jobs.model import End, Manifest, Plan, PlannedClip, Windows

SUMMARY_PROMPT = "Summarize what is said in a few sentences."


class Work(StrEnum):
    """Kinds of units of work."""

    PLAN = "plan"
    CLIP = "clip"
    WINDOWS = "windows"
    WINDOW = "window"
    ANSWER = "answer"
    FINISH = "finish"
    CALL_BACK = "call-back"


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of work: idempotent, and short enough to be repeated.

    Attributes:
        index: Of a clip or of a window.
        answer: Id of the question, or "summary".
    """

    work: Work
    index: int = 0
    answer: str = ""

    def __str__(self) -> str:
        return f"{self.work}:{self.index}:{self.answer}"

    @classmethod
    def parse(cls, text: str) -> "Unit":
        """The inverse of `str`. Raises ValueError."""
        work, index, answer = text.split(":")
        return cls(Work(work), int(index), answer)


@dataclass(frozen=True, slots=True)
class Job:
    """A job as loaded from its objects; None stands for an object that does not exist yet."""

    id: JobId
    manifest: Manifest
    contents: Contents
    plan: Plan | None = None
    windows: Windows | None = None
    end: End | None = None

    @property
    def state(self) -> State:
        if self.end is not None:
            return self.end.state
        if self.plan is None:
            return State.PLANNING if "started.json" in self.contents.names else State.QUEUED
        return State.RUNNING if self.open_clips else State.ANSWERING

    @property
    def clips(self) -> tuple[PlannedClip, ...]:
        return self.plan.clips if self.plan else ()

    @property
    def open_clips(self) -> tuple[PlannedClip, ...]:
        """Neither done nor failed."""
        closed = self.contents.clips | self.contents.failed_clips
        return tuple(clip for clip in self.clips if clip.index not in closed)

    @property
    def has_fatal_gap(self) -> bool:
        """Whether a clip has failed in a job that does not allow gaps."""
        return bool(self.contents.failed_clips) and not self.manifest.allow_gaps

    @property
    def wanted_answers(self) -> tuple[str, ...]:
        """Ids of the answers to produce: those requested at submission and, once the job has succeeded, later ones."""
        wanted: tuple[str, ...] = (SUMMARY,) if Task.SUMMARY in self.manifest.tasks else ()
        wanted += tuple(question.id for question in self.manifest.questions)
        succeeded = self.end is not None and self.end.state is State.SUCCEEDED
        return wanted + (self.contents.questions if succeeded else ())

    @property
    def open_answers(self) -> tuple[str, ...]:
        closed = self.contents.answers | self.contents.failed_answers
        return tuple(answer for answer in self.wanted_answers if answer not in closed)


def next_units(job: Job) -> tuple[Unit, ...]:
    """The units that can run now, in order of preference; none if the job is complete.

    The units of one call are independent of each other. A unit is done once its own object exists, so it may run
    again.
    """
    return _processing_units(job) + _webhook_units(job)


def _processing_units(job: Job) -> tuple[Unit, ...]:
    if job.end is not None and job.end.state is not State.SUCCEEDED:
        return ()
    if job.plan is None:
        return (Unit(Work.PLAN),)
    if job.end is None and job.open_clips:
        return tuple(Unit(Work.CLIP, clip.index) for clip in job.open_clips)
    if job.clips and not job.has_fatal_gap and job.open_answers:
        return tuple(_answer_units(job))
    return (Unit(Work.FINISH),) if job.end is None else ()


def _webhook_units(job: Job) -> tuple[Unit, ...]:
    """The webhook of a job that has ended, until its delivery has ended too."""
    wanted = job.end is not None and job.manifest.webhook is not None
    return (Unit(Work.CALL_BACK),) if wanted and WEBHOOK_DONE not in job.contents.names else ()


def _answer_units(job: Job) -> Iterator[Unit]:
    if job.windows is None:
        yield Unit(Work.WINDOWS)
        return
    count = len(job.windows.clips)
    for answer in job.open_answers:
        done = job.contents.windows.get(answer, frozenset())
        missing = [index for index in range(count) if index not in done] if count > 1 else []
        if missing:
            yield from (Unit(Work.WINDOW, index, answer) for index in missing)
        else:
            yield Unit(Work.ANSWER, answer=answer)
