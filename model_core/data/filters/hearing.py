"""ASR round trip: what a preset's Whisper hears in a recording, against its transcript."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from model_core.errors import InvalidInput

Hear = Callable[[Tensor], str]
"""[samples] float32 at 16 kHz -> the words."""


def whisper_hearing(preset: str, home: Path | None = None) -> Hear:
    """Whisper's own decoder of a preset.

    Raises:
        UnknownPreset, WeightsMissing: as when the preset is built.
        InvalidInput: the preset's Whisper has no decoder.
    """
    from model_core.audio.tensors import split_clips
    from model_core.presets import build_speech_encoder

    transcriber = build_speech_encoder(preset, home).transcriber
    if transcriber is None:
        raise InvalidInput("preset", f"the Whisper of {preset} has no decoder and writes nothing down; take nano")

    def hear(samples_S: Tensor) -> str:
        return " ".join(segment.text for segment in transcriber.transcribe(split_clips(samples_S)))

    return hear


def round_trip_errors(transcript: str, heard: str) -> float:
    """Word error rate of what was heard; 0 where the transcript has no word that could be compared."""
    from model_core.evaluation.metrics import word_errors

    errors = word_errors(transcript, heard)
    return errors.rate if errors.words else 0.0
