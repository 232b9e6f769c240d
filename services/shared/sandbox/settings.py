"""Settings of the processes that decode users' media, and of what a picture may be."""

from pydantic import Field
from pydantic_settings import BaseSettings

from services.shared.settings import CONFIG

MIB = 2**20


class DecoderSettings(BaseSettings):
    """How users' media are decoded. Processes that do so inherit these beside their own."""

    model_config = CONFIG

    decoder_processes: int = Field(
        default=2, ge=1, le=64, description="Files that are decoded at the same time, each in a process of its own."
    )
    decoder_memory_mib: int = Field(
        default=1_024,
        ge=64,
        description="MiB of memory that decoding one file may take; a picture of 40 million pixels takes up to 700.",
    )
    decoder_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Seconds that decoding one file may take; recordings get a hundredth of their longest length more.",
    )
    decoder_waiting: int = Field(
        default=64, ge=0, description="Files that may wait to be decoded; more are refused with 429."
    )


class VisionLimits(DecoderSettings):
    """What a picture or video may be: the same where it is uploaded and where a chat uses it."""

    max_image_bytes: int = Field(default=20 * MIB, gt=0, description="Largest picture file, in bytes.")
    max_image_pixels: int = Field(
        default=40_000_000, gt=0, description="Most pixels a picture may have, width times height."
    )
    max_video_bytes: int = Field(default=256 * MIB, gt=0, description="Largest video file, in bytes.")
    max_video_seconds: float = Field(default=1800.0, gt=0, description="Longest video, in seconds.")
    max_video_pixels: int = Field(
        default=4096 * 2304, gt=0, description="Most pixels a frame of a video may have, width times height."
    )
