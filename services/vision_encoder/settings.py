"""Settings of the vision encoder service."""

from pydantic import Field

from services.shared.sandbox.settings import VisionLimits
from services.shared.settings import EncoderSettings, ServiceSettings


class VisionEncoderSettings(ServiceSettings, EncoderSettings, VisionLimits):
    """Vision encoder: images and videos to vision tokens (gRPC, lyra.v1.VisionEncoder)."""

    port: int = Field(default=50052, ge=0, le=65535, description="gRPC port; 0 selects a free one.")
    metrics_port: int = Field(
        default=9152, ge=0, le=65535, description="HTTP port of Prometheus metrics; 0 selects a free one."
    )
    max_batch_images: int = Field(
        default=8,
        ge=1,
        description="Images that are encoded together on an accelerator; a CPU encodes them one by one.",
    )
    max_frames: int = Field(default=16, ge=1, le=256, description="Maximum frames sampled from a video.")
    max_decoding_seconds: float = Field(default=60.0, gt=0, description="Seconds that decoding a video may take.")
    max_waiting: int = Field(default=32, ge=0, description="Calls that may wait for their turn.")
