"""OpenAI's shapes of transcriptions and speech."""

from typing import Annotated, Any, Literal

from fastapi import File, UploadFile
from pydantic import BaseModel, ConfigDict, Field, field_validator

from services.gateway.chat.schemas import VoiceId


class TranscriptionForm(BaseModel):
    """A recording to write down."""

    model_config = ConfigDict(extra="forbid")

    file: Annotated[UploadFile, File(description="wav, mp3, flac, ogg, opus, webm or m4a.")]
    model: str
    language: str = Field("", max_length=16, description="ISO 639-1 code; empty where the model is to find out.")
    response_format: Literal["json", "verbose_json", "text", "srt", "vtt"] = "json"
    stream: bool = Field(False, description="Send text as it is understood; for json and text.")
    timestamp_granularities: list[Literal["segment"]] = Field(
        default_factory=list, alias="timestamp_granularities[]", description="Segments come with verbose_json."
    )
    # Only the value that changes nothing.
    temperature: float = Field(0.0, ge=0, le=0)
    prompt: Literal[""] = ""


class SpeechRequest(BaseModel):
    """A text to speak."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    input: str = Field(min_length=1, max_length=4096)
    voice: str | VoiceId = Field("", description="Empty for the first voice there is.")
    response_format: Literal["mp3", "wav", "pcm", "opus", "flac"] = Field(
        "mp3", description="pcm is 24 kHz, mono, 16-bit little-endian, without a header."
    )
    speed: float = Field(1.0, ge=0.25, le=4.0)
    # Only the value that changes nothing.
    stream_format: Literal["audio"] | None = None
    instructions: Literal[""] | None = None

    @field_validator("input")
    @classmethod
    def _says_something(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("holds nothing to say")
        return text


class DurationUsage(BaseModel):
    type: Literal["duration"] = "duration"
    seconds: float


class Transcription(BaseModel):
    text: str
    usage: DurationUsage


class TranscriptionSegment(BaseModel):
    id: int
    seek: int = Field(description="Hundredths of a second at which the segment's clip begins.")
    start: float
    end: float
    text: str
    tokens: list[int] = Field(description="Always empty: the service does not tell them.")
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
