"""Limits of media, for every process that stores or sweeps them."""

from pydantic import Field

from services.shared.sandbox.settings import VisionLimits
from services.shared.storage.settings import StoreSettings

MIB = 2**20


class MediaSettings(StoreSettings, VisionLimits):
    """Size, duration and retention of media; inherited by the settings of processes that use them."""

    max_media_bytes: int = Field(
        default=4_096 * MIB, ge=1_024, description="Maximum size of a recording, video or picture in bytes."
    )
    max_media_seconds: float = Field(
        default=36_000.0,
        gt=0,
        description="Maximum duration of a recording or video in seconds, if known.",
    )
    media_days: float = Field(
        default=30.0, gt=0, description="Days that media are retained; uploading them again starts over."
    )
    upload_seconds: float = Field(
        default=21_600.0,
        ge=60,
        le=604_800,
        description="Seconds that a whole upload may take; incomplete ones are then discarded.",
    )
