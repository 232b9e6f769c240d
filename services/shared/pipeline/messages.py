"""Requests to the pipeline, and the events that it yields."""

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
    """An audio file (wav, mp3, flac, ogg, opus, webm, m4a). `path` is its field in the caller's request, for errors.

    With `of_video`, the audio track of a video file, if it has one.
    """

    data: bytes = field(repr=False)
    path: str = "audio"
    of_video: bool = False


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image file, or by its media type the frames of a video. `path` is its field in the caller's request."""

    data: bytes = field(repr=False)
    media_type: str = ""
    path: str = "image"


@dataclass(frozen=True, slots=True)
class VideoPart:
    """A video file (mp4, webm, mov), with or without audio. `path` is its field in the caller's request."""

    data: bytes = field(repr=False)
    media_type: str
    path: str = "video"

    @property
    def tracks(self) -> tuple[ImagePart, AudioPart]:
        """Its frames and its audio, in the order of the prompt."""
        return ImagePart(self.data, self.media_type, self.path), AudioPart(self.data, self.path, of_video=True)


@dataclass(frozen=True, slots=True)
class SpeechTokensPart:
    """Speech tokens that were made before: messages of the speech encoder, clips numbered from 0."""

    tokens: tuple[SpeechTokens, ...] = field(repr=False)


Part = TextPart | AudioPart | ImagePart | VideoPart | SpeechTokensPart


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    parts: tuple[Part, ...]

    def with_tracks(self) -> "Message":
        """The same message with each video split into its tracks."""
        tracks = (part.tracks if isinstance(part, VideoPart) else (part,) for part in self.parts)
        return Message(self.role, tuple(chain.from_iterable(tracks)))


@dataclass(frozen=True, slots=True)
class SpeechOptions:
    """How to speak an answer. An empty voice is the service's first; speed is 0.25 to 4."""

    voice: str = ""
    speed: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRequest:
    """A conversation to answer; with `speech`, as audio too.

    An empty `adapter` leaves the choice to the services, "base" means none. `keep_rate` and `blocks` configure the
    extractor; None for the preset's values. What runs `in_background` gives way to what somebody waits for.

    `paths` maps fields of the services to those of the caller, for error messages ("max_tokens" ->
    "max_completion_tokens").
    """

    messages: tuple[Message, ...]
    tenant: str
    sampling: SamplingParams = field(default_factory=SamplingParams)
    speech: SpeechOptions | None = None
    adapter: str = ""
    keep_rate: float | None = None
    blocks: int | None = None
    in_background: bool = False
    paths: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request; speech and vision tokens are part of the prompt tokens.

    `adapter` is empty for the base model; `context_tokens` are the speech and vision tokens in each block of layers;
    `cached_tokens` are the prompt tokens that the prefix cache had.
    """

    prompt_tokens: int
    speech_tokens: int
    vision_tokens: int
    completion_tokens: int
    adapter: str
    context_tokens: tuple[int, ...] = ()
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely a token was, and the most likely tokens in its place, in descending order."""

    token: str
    token_bytes: bytes
    logprob: float
    top_logprobs: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next text of the answer; empty only if it comes with log-probabilities, one for each token."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """The next audio of the spoken answer: 16-bit little-endian mono samples."""

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
    """A timed phrase; seconds from the start of the recording."""

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
