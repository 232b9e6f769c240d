"""Settings of the vision encoder service."""

from pydantic import Field

from services.common.settings import ServiceSettings


class VisionEncoderSettings(ServiceSettings):
    """Vision encoder: pictures and videos to vision tokens (gRPC, lyra.v1.VisionEncoder)."""

    port: int = Field(default=50052, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    metrics_port: int = Field(
        default=9152, ge=0, le=65535, description="HTTP port of Prometheus metrics; 0 takes a free one."
    )
    max_image_bytes: int = Field(default=20 * 2**20, gt=0, description="Largest picture file, in bytes.")
    max_image_pixels: int = Field(
        default=40_000_000, gt=0, description="Most pixels a picture may have, width times height."
    )
    max_video_bytes: int = Field(default=256 * 2**20, gt=0, description="Largest video file, in bytes.")
    max_video_seconds: float = Field(default=1800.0, gt=0, description="Longest video, in seconds.")
    max_video_pixels: int = Field(
        default=4096 * 2304, gt=0, description="Most pixels a frame of a video may have, width times height."
    )
    max_frames: int = Field(default=16, ge=1, le=256, description="Most frames sampled from a video.")
    max_decoding_seconds: float = Field(default=60.0, gt=0, description="Seconds that decoding one video may take.")
    max_waiting: int = Field(default=32, ge=0, description="Calls that may wait while one is at the model.")
