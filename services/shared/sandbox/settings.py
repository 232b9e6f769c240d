"""Settings of sandboxed decoders, and limits of pictures and videos."""

from pydantic import Field
from pydantic_settings import BaseSettings

from services.shared.settings import CONFIG

MIB = 2**20


class DecoderSettings(BaseSettings):
    """Sandboxed decoders; inherited by the settings of processes that decode users' media."""

    model_config = CONFIG

    decoder_processes: int = Field(
        default=2, ge=1, le=64, description="Files decoded at the same time, each in its own process."
    )
    decoder_memory_mib: int = Field(
        default=1_024,
        ge=64,
        description="Memory limit for decoding one file, in MiB; a picture of 40 million pixels takes up to 700.",
    )
    decoder_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Seconds that decoding one file may take; recordings get a hundredth of their maximum length more.",
    )
    decoder_waiting: int = Field(
        default=64, ge=0, description="Files that may wait for a decoder; more are refused with 429."
    )


class VisionLimits(DecoderSettings):
    """Limits of pictures and videos, both uploaded and in chats."""

    max_image_bytes: int = Field(default=20 * MIB, gt=0, description="Maximum size of a picture file in bytes.")
    max_image_pixels: int = Field(
        default=40_000_000, gt=0, description="Maximum number of pixels of a picture, width times height."
    )
    max_video_bytes: int = Field(default=256 * MIB, gt=0, description="Maximum size of a video file in bytes.")
    max_video_seconds: float = Field(default=1800.0, gt=0, description="Maximum duration of a video in seconds.")
    max_video_pixels: int = Field(
        default=4096 * 2304, gt=0, description="Maximum number of pixels of a video frame, width times height."
    )
