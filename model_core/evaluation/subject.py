"""What benchmarks evaluate: a subject that answers questions, either a preset in this process or a running gateway.

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


class AudioSource(Protocol):
    """A recording that is read or synthesized on demand."""

    @property
    def key(self) -> str:
        """A key that identifies the recording, known without producing it."""
        ...

    def samples(self) -> Samples:
        """[S] float32 at 16 kHz. Raises InvalidInput."""
        ...

    def encoded(self) -> tuple[bytes, str]:
        """An audio file's bytes and its suffix without the dot."""
        ...


@dataclass(frozen=True, slots=True)
class AudioFile:
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


class GeneratedAudio:
    """A recording produced by a function; equal keys must mean equal samples.

    Args:
        key: What it is made from.
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
class Question:
    """One user message and how to answer it; decoding is greedy.

    Attributes:
        name: Its name in errors, for example `line 3`.
        text: Written part; may be empty.
        images: JPEG, PNG or WebP files.
        videos: MP4, WebM or MOV files.
        audio: Recordings.
        video_sound: Whether the audio tracks of videos are used.
        max_tokens: Maximum tokens of the answer; 0 for as many as fit.
        adapter: Adapter name; empty for the one that fits, `base` for none.
        keep_rate: Share of context tokens kept after each block; None for the subject's default.
        blocks: Blocks of layers of the extractor; None for the subject's default.
        speak: Whether the answer is also spoken.
        voice: Name of the voice; empty for the default.
    """

    name: str
    text: str = ""
    images: tuple[Path, ...] = ()
    videos: tuple[Path, ...] = ()
    audio: tuple[AudioSource, ...] = ()
    video_sound: bool = True
    max_tokens: int = 0
    adapter: str = ""
    keep_rate: float | None = None
    blocks: int | None = None
    speak: bool = False
    voice: str = ""

    def key(self) -> dict[str, Any]:
        """Everything that the answer depends on, with files by content hash."""
        return {
            "text": self.text,
            "images": [file_hash(path) for path in self.images],
            "videos": [file_hash(path) for path in self.videos],
            "sounds": [audio.key for audio in self.audio],
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
    """The speech of an answer.

    Attributes:
        samples: [S] int16.
        sample_rate: In Hz.
        first_audio_seconds: From the first answer token to the first audio; None if there was none.
        first_audio_tokens: Answer tokens generated before the first audio.
        own_seconds: The voice's own compute time; None if it is not known.
        own_first_seconds: Its compute time until the first audio.
    """

    samples: NDArray[np.int16]
    sample_rate: int
    first_audio_seconds: float | None = None
    first_audio_tokens: int | None = None
    own_seconds: float | None = None
    own_first_seconds: float | None = None

    @property
    def seconds(self) -> float:
        """Duration of the audio."""
        return len(self.samples) / self.sample_rate

    def at_16_khz(self) -> Samples:
        """[S] float32 at 16 kHz, Whisper's input."""
        import soxr

        floats = self.samples.astype(np.float32) / 32768
        return np.asarray(soxr.resample(floats, self.sample_rate, SAMPLE_RATE), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer.

    Attributes:
        text: Stripped of surrounding whitespace.
        seconds: From the question to the end of the answer, text and speech; for a batch, the time per answer.
        first_token_seconds: Until the first token; None if the answer is empty or was part of a batch.
        encoding_seconds: Time of the encoders; None if it is not known.
        prompt_tokens, completion_tokens: As counted by the model.
        context_tokens: Speech and vision tokens in each block.
        adapter: Adapter that was used; empty for the base model.
        spoken: Its speech, if it was spoken.
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
        """Its name in results: `{"preset": "nano"}`, or `{"gateway": ADDRESS, "model": ID}`."""
        ...

    @property
    def identity(self) -> dict[str, str]:
        """Identifies its predictions among those of other subjects; changes if its weights are known to change."""
        ...

    def answer(self, question: Question) -> Reply:
        """Raises InvalidInput, naming the question, if a part of it is not acceptable."""
        ...

    def answer_batch(self, batch: Sequence[Question]) -> Sequence[Reply]:
        """Answers several questions, possibly as one batch if none is to be spoken. Raises InvalidInput likewise."""
        ...

    def transcribe(self, audio: AudioSource, name: str) -> str:
        """The transcript by Whisper's own decoder. Raises InvalidInput, naming the recording as `name`."""
        ...


def file_hash(path: Path) -> str:
    """SHA-256 of a file, cached until its size or modification time changes."""
    state = path.stat()
    return _hash(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=65_536)
def _hash(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
