"""Speech synthesis for data builds: choice of voice and prosody, augmentation, FLAC encoding.

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
from model_core.data.augment import augment
from model_core.data.build.work import rng_of
from model_core.data.conversation import Speech
from model_core.data.voices import HELD_OUT_VOICE, TrainingVoice, load_voices
from model_core.errors import InvalidInput

Samples = NDArray[np.float32]

NOT_SPEAKABLE = "not-speakable"
# On libsndfile's scale from 0 to 1; higher levels take longer and save almost nothing for speech.
_FLAC_LEVEL = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Voices and augmentation.

    Args:
        voices: Names with relative frequencies.
        vary: Vary pace and pitch from utterance to utterance.
        noise: Add noise to some utterances.
        room: Add reverberation to some utterances.
    """

    voices: tuple[tuple[str, float], ...]
    vary: bool = True
    noise: bool = True
    room: bool = True

    def __post_init__(self) -> None:
        names = [name for name, _ in self.voices]
        if not names:
            raise InvalidInput("voices", "at least one is required")
        if HELD_OUT_VOICE in names:
            raise InvalidInput("voices", f"{HELD_OUT_VOICE} is held out of all training for the tests")
        if len(set(names)) < len(names):
            raise InvalidInput("voices", f"one is named twice: {', '.join(names)}")
        if any(weight <= 0 for _, weight in self.voices):
            raise InvalidInput("voices", "a weight is not greater than 0")

    @staticmethod
    def parse_voices(text: str) -> tuple[tuple[str, float], ...]:
        """Reads `slt,awb,joe=0.3`. Raises InvalidInput."""
        voices = []
        for piece in filter(None, (piece.strip() for piece in text.split(","))):
            name, _, weight = piece.partition("=")
            try:
                voices.append((name, float(weight) if weight else 1.0))
            except ValueError as error:
                raise InvalidInput("voices", f"{piece!r}: {weight!r} is not a weight") from error
        return tuple(voices)


@dataclass(frozen=True, slots=True)
class Utterance:
    """A text to synthesize, its voice, and the seed of all its random choices."""

    text: str
    voice: str
    seed: str


class UtteranceSynthesizer:
    """Synthesizes texts in a style.

    Args:
        style: Voices and augmentation.
        home: Root of the cache, with the voices' weights.

    Raises:
        VoiceMissing: a voice is not installed. InvalidInput: a voice does not exist.
    """

    def __init__(self, style: Style, home: Path) -> None:
        self.style = style
        self._names = [name for name, _ in style.voices]
        self._weights = [weight for _, weight in style.voices]
        self._readers = {name: _reader(home, name) for name in self._names}

    def utterance(self, text: str, seed: str) -> Utterance:
        """An utterance with a random voice."""
        return Utterance(text, rng_of(seed, "voice").choices(self._names, self._weights)[0], seed)

    def voice(self, seed: str, other_than: Sequence[str] = ()) -> str:
        """A random voice, other than the given ones if possible."""
        left = [(name, weight) for name, weight in self.style.voices if name not in other_than] or self.style.voices
        names, weights = zip(*left, strict=True)
        drawn: str = rng_of(seed, "voice").choices(names, weights)[0]
        return drawn

    def synthesize_clean(self, readings: Sequence[Utterance]) -> list[Samples]:
        """[S] of each utterance without augmentation, in order; empty for a text without speech."""
        by_voice: dict[str, list[int]] = defaultdict(list)
        for position, reading in enumerate(readings):
            by_voice[reading.voice].append(position)
        read: dict[int, Samples] = {}
        for voice, positions in by_voice.items():
            texts = [readings[position].text for position in positions]
            seeds = [rng_of(readings[position].seed, "pace").getrandbits(32) for position in positions]
            sounds = self._readers[voice].synthesize_batch(texts, seeds, vary=self.style.vary)
            read |= dict(zip(positions, sounds, strict=True))
        return [read[position] for position in range(len(readings))]

    def augmented(self, samples: Samples, seed: str) -> Samples:
        """[S] with noise, reverberation and loudness according to the style."""
        if not self.style.vary and not self.style.noise and not self.style.room:
            return samples
        style = self.style
        return augment(samples, rng_of(seed, "noise"), noise=style.noise, room=style.room, loudness=style.vary)

    def synthesize(self, readings: Sequence[Utterance]) -> list[Speech | None]:
        """A recording of each utterance, in order; None for a text without speech."""
        sounds = self.synthesize_clean(readings)
        return [
            recording(self.augmented(samples, reading.seed), reading.text, reading.voice) if len(samples) else None
            for samples, reading in zip(sounds, readings, strict=True)
        ]


@cache
def _reader(home: Path, name: str) -> TrainingVoice:
    """Cached: a voice takes seconds to load, and several sources share voices."""
    return load_voices(home, [name])[name]


def recording(samples: Samples, transcript: str, voice: str) -> Speech:
    """A FLAC file of [S] samples."""
    file = io.BytesIO()
    whole = (np.clip(samples, -1, 1) * 32767).round().astype(np.int16)
    soundfile.write(file, whole, SAMPLE_RATE, format="FLAC", subtype="PCM_16", compression_level=_FLAC_LEVEL)
    return Speech(data=file.getvalue(), seconds=len(whole) / SAMPLE_RATE, transcript=transcript, voice=voice)
