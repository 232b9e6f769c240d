"""Texts read aloud for a build: by which voice, how fast, in what room, and the file that comes of it.

Shapes: S samples at 16 kHz, float32.
"""

import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from model_core.audio.tensors import SAMPLE_RATE
from model_core.data.augment import disturb
from model_core.data.build.work import rng_of
from model_core.data.conversation import Speech
from model_core.data.voices import HELD_OUT_VOICE, Reader, readers
from model_core.errors import InvalidInput

Samples = NDArray[np.float32]

NOT_SPEAKABLE = "not-speakable"
# libsndfile's 0 to 1: a stronger level takes longer and saves next to nothing on a voice.
_FLAC_LEVEL = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Who reads, and how.

    Args:
        voices: Names, each with its weight: how often it reads in proportion to the others.
        vary: Whether pace and pitch change from reading to reading.
        noise: Whether noise is laid under some readings.
        room: Whether some sound as in a room.
    """

    voices: tuple[tuple[str, float], ...]
    vary: bool = True
    noise: bool = True
    room: bool = True

    def __post_init__(self) -> None:
        names = [name for name, _ in self.voices]
        if not names:
            raise InvalidInput("voices", "none is named")
        if HELD_OUT_VOICE in names:
            raise InvalidInput("voices", f"{HELD_OUT_VOICE} is kept out of all training, so that tests can use it")
        if len(set(names)) < len(names):
            raise InvalidInput("voices", f"one is named twice: {', '.join(names)}")
        if any(weight <= 0 for _, weight in self.voices):
            raise InvalidInput("voices", "a weight is not above 0")

    @staticmethod
    def parse_voices(text: str) -> tuple[tuple[str, float], ...]:
        """Reads `slt,awb,joe=0.3`. Raises InvalidInput."""
        voices = []
        for piece in filter(None, (piece.strip() for piece in text.split(","))):
            name, _, weight = piece.partition("=")
            try:
                voices.append((name, float(weight) if weight else 1.0))
            except ValueError as error:
                raise InvalidInput("voices", f"{piece!r}: {weight!r} is no weight") from error
        return tuple(voices)


@dataclass(frozen=True, slots=True)
class Reading:
    """A text to be read: by whom, and the words that everything random about it is drawn from."""

    text: str
    voice: str
    seed: str


class ReadingRoom:
    """Reads texts in a style.

    Args:
        style: Who reads, and how.
        home: Root of the cache, with the voices' weights.

    Raises:
        SpeakerMissing: a voice is not on this machine. InvalidInput: there is no such voice.
    """

    def __init__(self, style: Style, home: Path) -> None:
        self.style = style
        self._names = [name for name, _ in style.voices]
        self._weights = [weight for _, weight in style.voices]
        self._readers = {name: _reader(home, name) for name in self._names}

    def reading(self, text: str, seed: str) -> Reading:
        """Draws who reads."""
        return Reading(text, rng_of(seed, "voice").choices(self._names, self._weights)[0], seed)

    def voice(self, seed: str, other_than: Sequence[str] = ()) -> str:
        """Draws a voice, another one than these where there is one."""
        left = [(name, weight) for name, weight in self.style.voices if name not in other_than] or self.style.voices
        names, weights = zip(*left, strict=True)
        drawn: str = rng_of(seed, "voice").choices(names, weights)[0]
        return drawn

    def plain(self, readings: Sequence[Reading]) -> list[Samples]:
        """[S] of each, without noise and room, in order; a text without anything to say has no samples."""
        by_voice: dict[str, list[int]] = defaultdict(list)
        for position, reading in enumerate(readings):
            by_voice[reading.voice].append(position)
        read: dict[int, Samples] = {}
        for voice, positions in by_voice.items():
            texts = [readings[position].text for position in positions]
            seeds = [rng_of(readings[position].seed, "pace").getrandbits(32) for position in positions]
            sounds = self._readers[voice].read_many(texts, seeds, vary=self.style.vary)
            read |= dict(zip(positions, sounds, strict=True))
        return [read[position] for position in range(len(readings))]

    def disturbed(self, samples: Samples, seed: str) -> Samples:
        """[S] in another loudness, with noise and room as the style has it."""
        if not self.style.vary and not self.style.noise and not self.style.room:
            return samples
        style = self.style
        return disturb(samples, rng_of(seed, "noise"), noise=style.noise, room=style.room, loudness=style.vary)

    def read(self, readings: Sequence[Reading]) -> list[Speech | None]:
        """A recording of each, in order; None for a text without anything to say."""
        sounds = self.plain(readings)
        return [
            recording(self.disturbed(samples, reading.seed), reading.text, reading.voice) if len(samples) else None
            for samples, reading in zip(sounds, readings, strict=True)
        ]


@cache
def _reader(home: Path, name: str) -> Reader:
    """A voice takes seconds to load, and several sources read with the same ones."""
    return readers(home, [name])[name]


def recording(samples: Samples, transcript: str, voice: str) -> Speech:
    """A FLAC file of [S] samples."""
    file = io.BytesIO()
    whole = (np.clip(samples, -1, 1) * 32767).round().astype(np.int16)
    soundfile.write(file, whole, SAMPLE_RATE, format="FLAC", subtype="PCM_16", compression_level=_FLAC_LEVEL)
    return Speech(data=file.getvalue(), seconds=len(whole) / SAMPLE_RATE, transcript=transcript, voice=voice)
