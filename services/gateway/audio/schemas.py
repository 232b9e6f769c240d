"""OpenAI's schemas of transcriptions and speech."""

from typing import Annotated, Any, Literal

from fastapi import File, UploadFile
from pydantic import BaseModel, ConfigDict, Field, field_validator

from services.gateway.chat.schemas import VoiceId


class TranscriptionForm(BaseModel):
    """A recording to transcribe."""

    model_config = ConfigDict(extra="forbid")

    file: Annotated[UploadFile, File(description="wav, mp3, flac, ogg, opus, webm or m4a.")]
    model: str
    language: str = Field("", max_length=16, description="ISO 639-1 code; empty to detect the language.")
    response_format: Literal["json", "verbose_json", "text", "srt", "vtt"] = "json"
    stream: bool = Field(False, description="Stream text as it is transcribed; for json and text.")
    timestamp_granularities: list[Literal["segment"]] = Field(
        default_factory=list, alias="timestamp_granularities[]", description="Segments come with verbose_json."
    )
    # Supported only with the value that has no effect.
    temperature: float = Field(0.0, ge=0, le=0)
    prompt: Literal[""] = ""


class SpeechRequest(BaseModel):
    """A text to speak."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    input: str = Field(min_length=1, max_length=4096)
    voice: str | VoiceId = Field("", description="Empty for the first voice.")
    response_format: Literal["mp3", "wav", "pcm", "opus", "flac"] = Field(
        "mp3", description="pcm is 24 kHz, mono, 16-bit little-endian, without a header."
    )
    speed: float = Field(1.0, ge=0.25, le=4.0)
    # Supported only with the value that has no effect.
    stream_format: Literal["audio"] | None = None
    instructions: Literal[""] | None = None

    @field_validator("input")
    @classmethod
    def _check_not_blank(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("has to contain something other than spaces")
        return text


class DurationUsage(BaseModel):
    type: Literal["duration"] = "duration"
    seconds: float


class Transcription(BaseModel):
    text: str
    usage: DurationUsage


class TranscriptionSegment(BaseModel):
    id: int
    seek: int = Field(description="Start of the segment's clip in hundredths of a second.")
    start: float
    end: float
    text: str
    tokens: list[int] = Field(description="Always empty.")
    temperature: float = 0.0
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class VerboseTranscription(BaseModel):
    task: Literal["transcribe"] = "transcribe"
    language: str
    duration: float
    text: str
    segments: list[TranscriptionSegment]
    usage: DurationUsage


def transcript_delta(text: str) -> dict[str, Any]:
    return {"type": "transcript.text.delta", "delta": text}


def transcript_done(text: str) -> dict[str, Any]:
    return {"type": "transcript.text.done", "text": text}
