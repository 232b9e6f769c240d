"""Texts read aloud by a voice, for benchmarks that come without recordings."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from model_core.evaluation.subject import MadeSound, Samples, Sound
from model_core.presets import lyra_home
from model_core.speech.voice import TinyVoice

DEFAULT_READER, TINY_READER = "joe", "tiny"

Reading = Callable[[str], Samples]
"""Reads a text aloud: [S] float32 at 16 kHz, always the same for the same text."""


@cache
def reading(name: str, home: Path | None = None) -> Reading:
    """The voice of a name: one of those that read training data, as it is, or `tiny` (random sounds, for tests).

    Raises:
        InvalidInput: there is no such voice.
        SpeakerMissing, WeightsMissing: it is not on this machine.
    """
    if name == TINY_READER:
        tiny = TinyVoice()  # speaks at 16 kHz
        return lambda text: tiny.speak_clause(text).astype(np.float32) / np.float32(32768)
    from model_core.data.voices import readers

    reader = readers(home or lyra_home(), (name,))[name]
    return lambda text: reader.read(text, 0, vary=False)


def read_aloud(text: str, name: str, home: Path | None = None) -> Sound:
    """A recording of a text, made when it is needed."""
    return MadeSound(f"read by {name}: {text}", lambda: reading(name, home)(text))
