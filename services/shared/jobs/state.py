"""What a job's objects mean: its state, how far it is, and what there is to do next. Pure functions of what is there.

No worker keeps a job's state. Whatever died, and whatever was done twice, the objects tell what is left.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from services.shared.jobs.kinds import State, Task
from services.shared.jobs.layout import CALLED_BACK, SUMMARY, Contents, JobId
from services.shared.jobs.model import End, Manifest, Plan, PlannedClip, Windows

SUMMARY_PROMPT = "Summarize what is said in a few sentences."


class Work(StrEnum):
    """Kinds of units, each with a queue that its workers read."""

    PLAN = "plan"
    CLIP = "clip"
    WINDOWS = "windows"
    WINDOW = "window"
    ANSWER = "answer"
    FINISH = "finish"
    CALL_BACK = "call-back"


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work, short enough to be done again.

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
        """Back from `str`. Raises ValueError."""
        work, index, answer = text.split(":")
        return cls(Work(work), int(index), answer)


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its objects tell; None where the object is not there yet."""

    id: JobId
    manifest: Manifest
    contents: Contents
    plan: Plan | None
    windows: Windows | None
    end: End | None

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
        """Neither done nor given up."""
        closed = self.contents.clips | self.contents.failed_clips
        return tuple(clip for clip in self.clips if clip.index not in closed)

    @property
    def seconds_heard(self) -> float:
        """Up to where all clips are done or given up, in seconds of the recording."""
        return self.open_clips[0].start_seconds if self.open_clips else (self.plan.seconds if self.plan else 0.0)

    @property
    def broken(self) -> bool:
        """A clip was given up, and the job does not allow gaps."""
        return bool(self.contents.failed_clips) and not self.manifest.allow_gaps

    @property
    def wanted_answers(self) -> tuple[str, ...]:
        """Ids of what is to be answered: what was asked with the job and, once it succeeded, later."""
        wanted: tuple[str, ...] = (SUMMARY,) if Task.SUMMARY in self.manifest.tasks else ()
        wanted += tuple(question.id for question in self.manifest.questions)
        succeeded = self.end is not None and self.end.state is State.SUCCEEDED
        return wanted + (self.contents.questions if succeeded else ())

    @property
    def open_answers(self) -> tuple[str, ...]:
        closed = self.contents.answers | self.contents.failed_answers
        return tuple(answer for answer in self.wanted_answers if answer not in closed)


def next_units(job: Job) -> tuple[Unit, ...]:
    """What can be done now, in the order in which it should be; nothing where all is done.

    Units of one call do not need each other. Each is done when its own object is there, so that it may be done again.
    """
    return _working(job) + _calling_back(job)


def _working(job: Job) -> tuple[Unit, ...]:
    if job.end is not None and job.end.state is not State.SUCCEEDED:
        return ()
    if job.plan is None:
        return (Unit(Work.PLAN),)
    if job.end is None and job.open_clips:
        return tuple(Unit(Work.CLIP, clip.index) for clip in job.open_clips)
    if job.clips and not job.broken and job.open_answers:
        return tuple(_answering(job))
    return (Unit(Work.FINISH),) if job.end is None else ()


def _calling_back(job: Job) -> tuple[Unit, ...]:
    """Once the job has ended, whoever wanted to be called back is, until that has ended too."""
    wanted = job.end is not None and job.manifest.webhook is not None
    return (Unit(Work.CALL_BACK),) if wanted and CALLED_BACK not in job.contents.names else ()


def _answering(job: Job) -> Iterator[Unit]:
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
