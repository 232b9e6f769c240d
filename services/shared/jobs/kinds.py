"""Enumerations of the job API. The command line imports them, so this module imports nothing else of the package."""

from enum import StrEnum


class Task(StrEnum):
    """What a job produces from its recording."""

    TRANSCRIPT = "transcript"
    SUMMARY = "summary"
    QUESTIONS = "questions"


class Priority(StrEnum):
    """Order among the jobs of one tenant."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class State(StrEnum):
    """State of a job. The last four are terminal."""

    QUEUED = "queued"
    PLANNING = "planning"
    RUNNING = "running"
    ANSWERING = "answering"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
