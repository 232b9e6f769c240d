"""Synthesized speech for benchmarks that come without recordings."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from model_core.evaluation.subject import AudioSource, GeneratedAudio, Samples
from model_core.presets import lyra_home
from model_core.speech.voice import TinyVoice

DEFAULT_VOICE, TINY_VOICE = "joe", "tiny"

Synthesizer = Callable[[str], Samples]
"""Text -> [S] float32 at 16 kHz; deterministic."""


@cache
def synthesizer(name: str, home: Path | None = None) -> Synthesizer:
    """A voice by name: one of the training data's voices, unmodified, or `tiny` (random audio, for tests).

    Raises:
        InvalidInput: the voice does not exist.
        VoiceMissing, WeightsMissing: it is not installed on this machine.
    """
    if name == TINY_VOICE:
        tiny = TinyVoice()  # its sample rate is 16 kHz
        return lambda text: tiny.speak_clause(text).astype(np.float32) / np.float32(32768)
    from model_core.data.voices import load_voices

    reader = load_voices(home or lyra_home(), (name,))[name]
    return lambda text: reader.synthesize(text, 0, vary=False)


def synthesized(text: str, name: str, home: Path | None = None) -> AudioSource:
    """A text spoken by a voice, synthesized on first use."""
    return GeneratedAudio(f"read by {name}: {text}", lambda: synthesizer(name, home)(text))
