"""Limits of media, for every process that keeps or sweeps them."""

from pydantic import Field

from services.shared.sandbox.settings import VisionLimits
from services.shared.storage.settings import StoreSettings

MIB = 2**20


class MediaSettings(StoreSettings, VisionLimits):
    """What is kept, how large, how long. Processes that use media inherit these beside their own."""

    max_media_bytes: int = Field(
        default=4_096 * MIB, ge=1_024, description="Largest recording, video or picture that is kept, in bytes."
    )
    max_media_seconds: float = Field(
        default=36_000.0, gt=0, description="Longest recording or video in seconds, where its file tells the length."
    )
    media_days: float = Field(
        default=30.0, gt=0, description="Days that media are kept; uploading them again begins anew."
    )
    upload_seconds: float = Field(
        default=21_600.0,
        ge=60,
        le=604_800,
        description="Seconds that an upload may take as a whole; what is not complete by then is thrown away.",
    )
