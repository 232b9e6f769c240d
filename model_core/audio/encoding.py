"""Encoding 16-bit samples as WAV and FLAC.

Shapes: S samples.
"""

import io
import wave

import numpy as np
import soundfile
from numpy.typing import NDArray

from model_core.audio.decoding import SAMPLE_RATE


def encode_wav(samples: NDArray[np.int16], sample_rate: int) -> bytes:
    """[S] int16 -> a mono 16-bit WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sample_rate)
        writer.writeframes(samples.astype("<i2", copy=False).tobytes())
    return file.getvalue()


def encode_flac(samples: NDArray[np.int16]) -> bytes:
    """[S] int16 at 16 kHz -> a mono FLAC file, lossless, about half as large as WAV.

    The same samples give the same bytes with the same version of libsndfile.
    """
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()
