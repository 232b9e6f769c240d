"""Streaming voice activity detection: silero-vad's network over 16 kHz audio, without torch.

Shapes: S samples, F frames of 512 samples (32 ms), W = 64 + 512 samples: a frame and its context.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from model_core.audio.decoding import Mono
from model_core.audio.frames import FRAME_SAMPLES, FrameActivity

_CONTEXT_SAMPLES = 64
_FRAMES_PER_CALL = 128  # fixed, so that results do not depend on the size of the blocks
_CALL_SAMPLES = _FRAMES_PER_CALL * FRAME_SAMPLES
_MODEL = "silero_vad_16k_sequence.onnx"


class VoiceActivity:
    """Voice activity of one stream. Blocks of any size give the same frames, to the bit, as the whole recording."""

    def __init__(self) -> None:
        self._network = _network()
        self._hidden = np.zeros((1, 1, 128), np.float32)
        self._cell = np.zeros((1, 1, 128), np.float32)
        self._context_S = np.zeros(_CONTEXT_SAMPLES, np.float32)
        self._waiting_S = np.zeros(0, np.float32)

    def push(self, block_S: Mono) -> FrameActivity:
        """[S] float32 at 16 kHz -> the frames that are ready; they come in runs of 128, about 4 s of audio."""
        self._waiting_S = np.concatenate([self._waiting_S, block_S])
        ready = len(self._waiting_S) // _CALL_SAMPLES * _CALL_SAMPLES
        calls = [self._call(self._waiting_S[at : at + _CALL_SAMPLES]) for at in range(0, ready, _CALL_SAMPLES)]
        self._waiting_S = self._waiting_S[ready:]
        return _joined(calls)

    def finish(self) -> FrameActivity:
        """The last frames; the very last one is padded with silence."""
        rest_S, self._waiting_S = self._waiting_S, self._waiting_S[:0]
        if not len(rest_S):
            return _joined([])
        return self._call(np.pad(rest_S, (0, -len(rest_S) % FRAME_SAMPLES)))

    def _call(self, samples_S: Mono) -> FrameActivity:
        frames_FS = samples_S.reshape(-1, FRAME_SAMPLES)
        before_FS = np.concatenate([self._context_S[None], frames_FS[:-1, -_CONTEXT_SAMPLES:]])
        self._context_S = frames_FS[-1, -_CONTEXT_SAMPLES:].copy()
        windows_FW = np.concatenate([before_FS, frames_FS], axis=1)
        speech_F, self._hidden, self._cell = self._network.run(
            ["speech_probs", "hn", "cn"], {"input": windows_FW, "h": self._hidden, "c": self._cell}
        )
        return FrameActivity(speech_F.reshape(-1), np.sqrt(np.mean(frames_FS**2, axis=1)))


def _joined(parts: list[FrameActivity]) -> FrameActivity:
    nothing = np.zeros(0, np.float32)
    return FrameActivity(
        np.concatenate([nothing, *(part.speech_F for part in parts)]),
        np.concatenate([nothing, *(part.loudness_F for part in parts)]),
    )


@cache
def _network() -> Any:
    package = find_spec("silero_vad")  # located, not imported: importing it would load torch
    if package is None or not package.submodule_search_locations:
        raise RuntimeError("the package silero-vad is not installed")
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    path = Path(package.submodule_search_locations[0]) / "data" / _MODEL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
