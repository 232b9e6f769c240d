"""Settings of the speech encoder service."""

from pydantic import Field

from services.shared.sandbox.settings import DecoderSettings
from services.shared.settings import AdapterServiceSettings


class SpeechEncoderSettings(AdapterServiceSettings, DecoderSettings):
    """Speech encoder: recordings to speech tokens or a transcript (gRPC, lyra.v1.SpeechEncoder)."""

    port: int = Field(default=50051, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    metrics_port: int = Field(
        default=9151, ge=0, le=65535, description="HTTP port of Prometheus metrics; 0 takes a free one."
    )
    max_audio_seconds: float = Field(default=1800.0, gt=0, description="Longest recording, in seconds.")
    max_audio_bytes: int = Field(default=512 * 2**20, gt=0, description="Largest audio file, in bytes.")
    max_audio_seconds_waiting: float = Field(
        default=7200.0, gt=0, description="Seconds of audio that may wait to be encoded, over all calls."
    )
    max_batch_clips: int = Field(default=8, ge=1, description="Clips (30 s at most) that are encoded together.")
    max_hear_clips: int = Field(
        default=8,
        ge=1,
        description="Clips (30 s at most) that calls of Hear transcribe together, while the next batch is encoded. "
        "Use 32 on an accelerator.",
    )
    max_hear_seconds_waiting: float = Field(
        default=3600.0, gt=0, description="Seconds of audio that may wait in calls of Hear, over all calls."
    )
    max_transcriptions_waiting: int = Field(
        default=32, ge=0, description="Transcriptions that may wait while one runs."
    )
