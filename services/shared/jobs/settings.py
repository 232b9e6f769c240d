"""What gateway and workers both have to know of jobs."""

from datetime import timedelta

from pydantic import Field

from services.shared.storage.settings import StoreSettings


class JobSettings(StoreSettings):
    """Where the queue is, and what a job may be."""

    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0", description="Redis that holds queues and leases; it may lose all of them."
    )
    redis_seconds: float = Field(default=5.0, gt=0, description="Seconds that one request to Redis may take.")
    job_retention_days: float = Field(
        default=30.0, gt=0, description="Days that a job's transcript, tokens and answers are kept once it has ended."
    )
    max_job_seconds: float = Field(
        default=36_000.0, gt=0, description="Longest recording of a job, in seconds; 36,000 are ten hours."
    )

    max_questions: int = Field(
        default=64, ge=1, description="Most questions of a job, those that are asked later among them."
    )
    max_question_characters: int = Field(default=1000, ge=1, description="Most characters of a question.")

    @property
    def job_retention(self) -> timedelta:
        return timedelta(days=self.job_retention_days)
