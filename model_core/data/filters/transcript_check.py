"""ASR round trip: the word error rate of what a recogniser transcribes, measured against the sample's transcript."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from model_core.errors import InvalidInput
from model_core.metrics.word_errors import word_errors

Transcribe = Callable[[Tensor], str]
"""[samples] float32 at 16 kHz -> the transcript."""


def whisper_transcriber(preset: str, home: Path | None = None) -> Transcribe:
    """The Whisper decoder of a preset.

    Raises:
        UnknownPreset, WeightsMissing: as when the preset is built.
        InvalidInput: the preset's Whisper has no decoder.
    """
    from model_core.audio.tensors import split_clips
    from model_core.presets import build_speech_encoder

    transcriber = build_speech_encoder(preset, home).transcriber
    if transcriber is None:
        raise InvalidInput("preset", f"the Whisper of {preset} has no decoder, so it cannot transcribe; use nano")

    def transcribe(samples_S: Tensor) -> str:
        return " ".join(segment.text for segment in transcriber.transcribe(split_clips(samples_S)))

    return transcribe


def transcript_error_rate(transcript: str, recognised: str) -> float:
    """Word error rate of the recogniser's text; 0 if the transcript has no comparable word."""
    errors = word_errors(transcript, recognised)
    return errors.rate if errors.words else 0.0
