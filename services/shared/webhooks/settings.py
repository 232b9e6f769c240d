"""Settings of callbacks: `LYRA_WEBHOOK_...` variables, or flags of the processes that make them."""

from math import inf
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

from services.shared.settings import CONFIG
from services.shared.webhooks.schedule import Schedule
from services.shared.webhooks.secrets import FILE_NAME


class WebhookSettings(BaseSettings):
    """Callbacks; inherited by the settings of processes that make them."""

    model_config = CONFIG

    webhook_secrets_file: Path | None = Field(
        default=None,
        description=f"File of the secrets that sign callbacks; <home>/{FILE_NAME} by default. May be a mounted Secret "
        "that is read-only.",
    )
    webhook_seconds: float = Field(default=10.0, gt=0, le=60, description="Seconds that a receiver has to answer.")
    webhook_delays: str = Field(
        default="5,30,120,600,1800,3600,7200,14400,21600,28800",
        description="Comma-separated seconds between a failed attempt and the next; after the last one the callback is "
        "given up. Jitter of up to a tenth is added.",
    )
    webhook_window_seconds: float = Field(
        default=86400.0, gt=0, description="Seconds after the first attempt within which all others start."
    )
    webhook_longest_wait_seconds: float = Field(
        default=21600.0, ge=0, description="Maximum seconds of a receiver's Retry-After to honour."
    )

    @field_validator("webhook_delays")
    @classmethod
    def _are_delays(cls, text: str) -> str:
        if not all(0 <= delay < inf for delay in _delays(text)):
            raise ValueError("delays have to be finite numbers of at least 0")
        return text

    def secrets_path(self, home: Path) -> Path:
        """Path of the secrets for a process whose home is `home`."""
        return self.webhook_secrets_file or home / FILE_NAME

    def schedule(self) -> Schedule:
        """The retry policy."""
        return Schedule(
            delays=_delays(self.webhook_delays),
            window=self.webhook_window_seconds,
            max_retry_after=self.webhook_longest_wait_seconds,
            # By then a running attempt has ended, or its worker is gone.
            lost_after=3 * self.webhook_seconds,
        )


def _delays(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(",") if part.strip())
