"""What a caller asks the pipeline for, and the events that come back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain
from typing import Literal

from lyra.v1.common_pb2 import SpeechTokens
from model_core.engine.sampling_params import SamplingParams


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True)
class AudioPart:
    """A whole audio file (wav, mp3, flac, ogg, opus, webm, m4a). `path` names it in the caller's own request.

    With `of_video` the audio track of a video file, where it has one.
    """

    data: bytes = field(repr=False)
    path: str = "audio"
    of_video: bool = False


@dataclass(frozen=True, slots=True)
class ImagePart:
    """A whole picture file, or by its media type the frames of a video. `path` names it in the caller's own request."""

    data: bytes = field(repr=False)
    media_type: str = ""
    path: str = "image"


@dataclass(frozen=True, slots=True)
class VideoPart:
    """A whole video file (mp4, webm, mov), with or without sound. `path` names it in the caller's own request."""

    data: bytes = field(repr=False)
    media_type: str
    path: str = "video"

    @property
    def tracks(self) -> tuple[ImagePart, AudioPart]:
        """Its frames and its sound, in the order in which they stand in a prompt."""
        return ImagePart(self.data, self.media_type, self.path), AudioPart(self.data, self.path, of_video=True)


@dataclass(frozen=True, slots=True)
class SpeechTokensPart:
    """Speech that was encoded before: messages as the speech encoder sent them, clips numbered from 0."""

    tokens: tuple[SpeechTokens, ...] = field(repr=False)


Part = TextPart | AudioPart | ImagePart | VideoPart | SpeechTokensPart


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    parts: tuple[Part, ...]

    def with_tracks(self) -> "Message":
        """The same message, each video of it in its tracks."""
        tracks = (part.tracks if isinstance(part, VideoPart) else (part,) for part in self.parts)
        return Message(self.role, tuple(chain.from_iterable(tracks)))


@dataclass(frozen=True, slots=True)
class SpeechOptions:
    """How an answer is spoken. Empty voice: the service's first; speed 0.25 to 4."""

    voice: str = ""
    speed: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRequest:
    """A conversation to be answered; with `speech`, aloud as well.

    An empty `adapter` leaves the choice to the services, "base" means none. `keep_rate` and `blocks` steer the
    extractor; None leaves them to the preset.

    `paths` names the fields of the services as the caller knows them, for error messages ("max_tokens" ->
    "max_completion_tokens").
    """

    messages: tuple[Message, ...]
    tenant: str
    sampling: SamplingParams = field(default_factory=SamplingParams)
    speech: SpeechOptions | None = None
    adapter: str = ""
    keep_rate: float | None = None
    blocks: int | None = None
    paths: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request; speech and vision tokens are part of the prompt tokens.

    `adapter` is empty where the base answered; `context_tokens` are the speech and vision tokens that each block of
    layers saw.
    """

    prompt_tokens: int
    speech_tokens: int
    vision_tokens: int
    completion_tokens: int
    adapter: str
    context_tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of the answer's text, never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """The next piece of the spoken answer: 16-bit little-endian mono samples."""

    pcm: bytes = field(repr=False)
    sample_rate: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of an answer."""

    reason: Literal["stop", "length"]
    usage: Usage


AnswerEvent = TextDelta | AudioChunk | Finished


@dataclass(frozen=True, slots=True)
class Segment:
    """Some words that belong together; seconds count from the start of the recording."""

    start_seconds: float
    end_seconds: float
    text: str
    mean_log_probability: float
    no_speech_probability: float


@dataclass(frozen=True, slots=True)
class TranscriptEnd:
    """The last event of a transcript."""

    duration_seconds: float
    language: str


TranscriptEvent = Segment | TranscriptEnd
