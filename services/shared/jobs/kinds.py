"""The words of jobs that everybody uses, the command line among them, which imports nothing else of them."""

from enum import StrEnum


class Task(StrEnum):
    """What is done with a recording."""

    TRANSCRIPT = "transcript"
    SUMMARY = "summary"
    QUESTIONS = "questions"


class Priority(StrEnum):
    """Which of one's own jobs goes first."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class State(StrEnum):
    """Where a job is; the last four are for good."""

    QUEUED = "queued"
    PLANNING = "planning"
    RUNNING = "running"
    ANSWERING = "answering"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
