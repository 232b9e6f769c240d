"""Latents of nano's voice before its decoder, aligned with phone units and their durations.

Shapes: T frames of the voice (86 a second), C latents, N units.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx.utils import Extractor

from model_core.speech.phone_units import units_with_durations
from model_core.speech.voice import PiperVoice, session_options, voice_model

_INPUTS = ("input", "input_lengths", "scales")
_LATENTS, _FRAMES = "/Mul_7_output_0", "/Ceil_output_0"
# The voice speaks this much earlier than the frames of its symbols say.
_EARLY_FRAMES = 3


@dataclass(frozen=True, slots=True)
class Utterance:
    """Latents [T, C] float32 of an utterance, its units [N], and the duration [N] of each in frames."""

    latents: NDArray[np.float32]
    units: tuple[int, ...]
    durations: tuple[int, ...]


class LatentReader:
    """A Piper voice without its decoder; the same phonemes always give the same latents."""

    def __init__(self, folder: Path) -> None:
        model = onnx.load(voice_model(folder))
        part = Extractor(model).extract_model(list(_INPUTS), [_LATENTS, _FRAMES])
        self._session = onnxruntime.InferenceSession(
            part.SerializeToString(), session_options(threads=1), providers=["CPUExecutionProvider"]
        )
        self._voice = PiperVoice.load(folder)

    def read(self, phonemes: str) -> Utterance:
        """The utterance of a line of phonemes, 220 at most."""
        symbols, ids = self._voice.symbols(phonemes)
        inputs = np.array([ids], np.int64), np.array([len(ids)], np.int64), np.array([0.0, 1.0, 0.0], np.float32)
        latents_1CT, frames = self._session.run(None, dict(zip(_INPUTS, inputs, strict=True)))
        found = units_with_durations(symbols, frames.reshape(-1).astype(int).tolist())
        ends = np.maximum(np.cumsum([length for _, length in found]) - _EARLY_FRAMES, 0)
        ends[-1] += _EARLY_FRAMES
        durations = np.diff(ends, prepend=0)
        units = tuple(unit for unit, _ in found)
        return Utterance(np.ascontiguousarray(latents_1CT[0].T), units, tuple(durations.tolist()))
