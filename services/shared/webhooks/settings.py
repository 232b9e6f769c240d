"""How callbacks are made: `LYRA_WEBHOOK_...` variables, or flags of the processes that make them."""

from math import inf
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

from services.shared.settings import CONFIG
from services.shared.webhooks.schedule import Schedule
from services.shared.webhooks.secrets import FILE_NAME


class WebhookSettings(BaseSettings):
    """Callbacks. Processes that make them inherit these beside their own."""

    model_config = CONFIG

    webhook_secrets_file: Path | None = Field(
        default=None,
        description=f"File of the secrets that callbacks are signed with; <home>/{FILE_NAME} by default. "
        "May be a mounted Secret that cannot be written.",
    )
    webhook_seconds: float = Field(default=10.0, gt=0, le=60, description="Seconds that a receiver may take to answer.")
    webhook_delays: str = Field(
        default="5,30,120,600,1800,3600,7200,14400,21600,28800",
        description="Seconds between a failed callback and the next try, with commas between; after the last it is "
        "given up. A tenth more or less is added by chance.",
    )
    webhook_window_seconds: float = Field(
        default=86400.0, gt=0, description="Seconds from the first try after which no other begins."
    )
    webhook_longest_wait_seconds: float = Field(
        default=21600.0, ge=0, description="Seconds of a receiver's Retry-After that are honoured."
    )

    @field_validator("webhook_delays")
    @classmethod
    def _are_delays(cls, text: str) -> str:
        if not all(0 <= delay < inf for delay in _delays(text)):
            raise ValueError("delays have to be numbers of at least 0")
        return text

    def secrets_path(self, home: Path) -> Path:
        """Where the secrets lie, for a process whose home is `home`."""
        return self.webhook_secrets_file or home / FILE_NAME

    def schedule(self) -> Schedule:
        """When failed callbacks are tried again."""
        return Schedule(
            delays=_delays(self.webhook_delays),
            window=self.webhook_window_seconds,
            longest_wait=self.webhook_longest_wait_seconds,
            # By then whoever has begun a try has ended it, or is gone.
            lost_after=3 * self.webhook_seconds,
        )


def _delays(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(",") if part.strip())
