"""Settings of the speech encoder service."""

from pydantic import Field

from services.shared.sandbox.settings import DecoderSettings
from services.shared.settings import AdapterServiceSettings, EncoderSettings


class SpeechEncoderSettings(AdapterServiceSettings, EncoderSettings, DecoderSettings):
    """Speech encoder: recordings to speech tokens or a transcript (gRPC, lyra.v1.SpeechEncoder)."""

    port: int = Field(default=50051, ge=0, le=65535, description="gRPC port; 0 selects a free one.")
    metrics_port: int = Field(
        default=9151, ge=0, le=65535, description="HTTP port of Prometheus metrics; 0 selects a free one."
    )
    max_audio_seconds: float = Field(default=1800.0, gt=0, description="Maximum duration of a recording in seconds.")
    max_audio_bytes: int = Field(default=512 * 2**20, gt=0, description="Maximum size of an audio file in bytes.")
    max_audio_seconds_waiting: float = Field(
        default=7200.0, gt=0, description="Maximum seconds of audio waiting to be encoded, of all calls."
    )
    max_batch_clips: int = Field(default=8, ge=1, description="Maximum clips (of up to 30 s) in a batch.")
    max_hear_clips: int = Field(
        default=8,
        ge=1,
        description="Maximum clips (of up to 30 s) in a batch of calls to Hear, which both encode and transcribe. "
        "Use 32 on an accelerator.",
    )
    max_hear_seconds_waiting: float = Field(
        default=3600.0, gt=0, description="Maximum seconds of audio waiting in calls to Hear, of all calls."
    )
    max_transcriptions_waiting: int = Field(
        default=32, ge=0, description="Maximum transcriptions waiting while one runs."
    )
