"""Who is measured: something that answers questions, a preset in this process or a running gateway.

Shapes: S samples.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from model_core.audio.tensors import SAMPLE_RATE, decode_audio

MAX_AUDIO_SECONDS = 2 * 60 * 60

Samples = NDArray[np.float32]
"""A recording [S] at 16 kHz, -1 to 1."""


class Sound(Protocol):
    """A recording that is read or made when it is needed."""

    @property
    def key(self) -> str:
        """What tells it from every other recording, known without making it."""
        ...

    def samples(self) -> Samples:
        """[S] float32 at 16 kHz. Raises InvalidInput."""
        ...

    def encoded(self) -> tuple[bytes, str]:
        """An audio file's bytes and its suffix without the dot."""
        ...


@dataclass(frozen=True, slots=True)
class SoundFile:
    """A recording in a file: wav, mp3, flac, ogg, opus, webm or m4a."""

    path: Path

    @property
    def key(self) -> str:
        return file_hash(self.path)

    def samples(self) -> Samples:
        decoded: Samples = decode_audio(self.path, max_seconds=MAX_AUDIO_SECONDS, field="audio").numpy()
        return decoded

    def encoded(self) -> tuple[bytes, str]:
        return self.path.read_bytes(), self.path.suffix.lower().lstrip(".")


class MadeSound:
    """A recording that a function makes; the same key must always stand for the same samples.

    Args:
        key: What it is made of.
        make: Returns [S] float32 at 16 kHz.
    """

    def __init__(self, key: str, make: Callable[[], Samples]) -> None:
        self.key = key
        self._make = make

    def samples(self) -> Samples:
        return self._make()

    def encoded(self) -> tuple[bytes, str]:
        file = io.BytesIO()
        soundfile.write(file, self.samples(), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        return file.getvalue(), "flac"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One user message, and how it is to be answered; greedily.

    Attributes:
        name: What errors call it, for example `line 3`.
        text: The written part; may be empty.
        images: JPEG, PNG or WebP files.
        videos: MP4, WebM or MOV files.
        sounds: Recordings.
        video_sound: Whether the audio tracks of videos are heard.
        max_tokens: Most tokens of the answer; 0 for as many as there is room for.
        adapter: Empty for the one that fits, `base` for none.
        keep_rate: Share of context tokens kept after each block; None for the subject's own.
        blocks: Blocks of layers of the extractor; None for the subject's own.
        speak: Whether the answer is spoken too.
        voice: Which voice; empty for the default one.
    """

    name: str
    text: str = ""
    images: tuple[Path, ...] = ()
    videos: tuple[Path, ...] = ()
    sounds: tuple[Sound, ...] = ()
    video_sound: bool = True
    max_tokens: int = 0
    adapter: str = ""
    keep_rate: float | None = None
    blocks: int | None = None
    speak: bool = False
    voice: str = ""

    def key(self) -> dict[str, Any]:
        """All that the answer depends on, with files by their content."""
        return {
            "text": self.text,
            "images": [file_hash(path) for path in self.images],
            "videos": [file_hash(path) for path in self.videos],
            "sounds": [sound.key for sound in self.sounds],
            "video_sound": self.video_sound,
            "max_tokens": self.max_tokens,
            "adapter": self.adapter,
            "keep_rate": self.keep_rate,
            "blocks": self.blocks,
            "speak": self.speak,
            "voice": self.voice,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenAnswer:
    """How an answer was spoken.

    Attributes:
        samples: [S] int16.
        sample_rate: In Hz.
        first_audio_seconds: From the first answer token to the first sound; None where nothing was said.
        first_audio_tokens: Answer tokens that were there at the first sound.
        own_seconds: What the voice worked for all of it; None where that cannot be told apart.
        own_first_seconds: What it worked until the first sound.
    """

    samples: NDArray[np.int16]
    sample_rate: int
    first_audio_seconds: float | None = None
    first_audio_tokens: int | None = None
    own_seconds: float | None = None
    own_first_seconds: float | None = None

    @property
    def seconds(self) -> float:
        """How long it sounds."""
        return len(self.samples) / self.sample_rate

    def at_16_khz(self) -> Samples:
        """[S] float32, as Whisper hears it."""
        import soxr

        floats = self.samples.astype(np.float32) / 32768
        return np.asarray(soxr.resample(floats, self.sample_rate, SAMPLE_RATE), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer.

    Attributes:
        text: Without space around it.
        seconds: From the question to the end of the answer, in text and speech; its share of them where several were
            answered in step.
        first_token_seconds: To its first token; None where the answer is empty, or others were written with it.
        encoding_seconds: What of it encoders took; None where that cannot be told apart.
        prompt_tokens, completion_tokens: As counted by the model.
        context_tokens: Speech and vision tokens that each block saw.
        adapter: Which one answered; empty for the base.
        spoken: Where it was spoken.
    """

    text: str
    seconds: float
    first_token_seconds: float | None = None
    encoding_seconds: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    context_tokens: tuple[int, ...] = ()
    adapter: str = ""
    spoken: SpokenAnswer | None = None


class Subject(Protocol):
    """A preset in this process, or a running gateway."""

    @property
    def tags(self) -> dict[str, str]:
        """How results name it: `{"preset": "nano"}`, or `{"gateway": ADDRESS, "model": ID}`."""
        ...

    @property
    def identity(self) -> dict[str, str]:
        """What tells its predictions from another's; changes where its weights are seen to change."""
        ...

    def answer(self, ask: Ask) -> Reply:
        """Raises InvalidInput, naming the question, where something of it is not acceptable."""
        ...

    def answer_together(self, asks: Sequence[Ask]) -> Sequence[Reply]:
        """Answers to several questions that nobody speaks, perhaps written in step. Raises InvalidInput likewise."""
        ...

    def transcribe(self, sound: Sound, name: str) -> str:
        """What Whisper's own decoder hears. Raises InvalidInput, naming the recording as `name`."""
        ...


def file_hash(path: Path) -> str:
    """SHA-256 of a file; read again only where its size or time has changed."""
    state = path.stat()
    return _hash(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=65_536)
def _hash(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
