"""Recordings as torch tensors: 16 kHz mono samples, and clips of 30 s.

Shapes: S samples. The only module of `model_core.audio` that imports torch.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model_core.audio.decoding import SAMPLE_RATE, check_duration, open_audio, resample
from model_core.audio.encoding import encode_wav
from model_core.audio.opening import MIN_AUDIO_SECONDS, check_format, has_audio, too_long, too_short
from model_core.errors import InvalidInput

__all__ = [
    "CLIP_SECONDS",
    "SAMPLE_RATE",
    "Clip",
    "decode_audio",
    "decode_audio_track",
    "decode_pcm16",
    "encode_wav",
    "is_silent",
    "split_clips",
]

CLIP_SECONDS = 30

_SILENCE_PEAK = 1e-3  # -60 dB of full scale


def decode_audio(
    data: bytes | Path, *, max_seconds: float, field: str = "audio", min_seconds: float = MIN_AUDIO_SECONDS
) -> Tensor:
    """Decodes a recording to [S] float32 at 16 kHz, -1 to 1, channels averaged.

    Reads no further than `max_seconds`. Silent recordings are valid (see `is_silent`), and so are truncated ones: the
    part that is there is returned.

    Args:
        data: The file's bytes or its path: wav, mp3, flac, ogg, opus, webm or m4a.
        max_seconds: Longest recording that is accepted.
        field: Field that errors name.
        min_seconds: Shortest recording that is accepted.

    Raises:
        InvalidInput: not decodable, too long, too short, more than 8 channels, sample rate outside 4 to 384 kHz, or
            samples that are not finite.
    """
    check_duration(data, max_seconds, field)
    with open_audio(data, max_seconds=max_seconds, field=field, min_seconds=min_seconds) as audio:
        return torch.from_numpy(np.concatenate([*audio, np.zeros(0, np.float32)]))


def decode_audio_track(data: bytes | Path, *, max_seconds: float, field: str = "video") -> Tensor:
    """The audio track of a video as [S], as `decode_audio` gives it; [0] without one, or with one under 0.1 s.

    Raises:
        InvalidInput: as for `decode_audio`.
    """
    if not has_audio(data, field):
        return torch.zeros(0)
    samples_S = decode_audio(data, max_seconds=max_seconds, field=field, min_seconds=0.0)
    return samples_S if len(samples_S) >= MIN_AUDIO_SECONDS * SAMPLE_RATE else samples_S[:0]


def decode_pcm16(data: bytes, *, sample_rate: int, channels: int, max_seconds: float, field: str = "audio") -> Tensor:
    """Raw little-endian 16-bit samples, channels interleaved, to [S] float32 at 16 kHz; raises as `decode_audio`."""
    check_format(sample_rate, channels, field)
    if not data:
        raise InvalidInput(field, "is empty: 0 bytes")
    if len(data) % (2 * channels):
        raise InvalidInput(field, f"{len(data)} bytes are not whole 16-bit frames of {channels} channels")
    if len(data) / (2 * channels * sample_rate) > max_seconds:
        raise too_long(max_seconds, field)
    mono_S = np.frombuffer(data, "<i2").reshape(-1, channels).mean(axis=1, dtype=np.float32) / np.float32(32768)
    samples_S = resample(mono_S, sample_rate)
    if len(samples_S) < MIN_AUDIO_SECONDS * SAMPLE_RATE:
        raise too_short(len(samples_S) / SAMPLE_RATE, MIN_AUDIO_SECONDS, field)
    return torch.from_numpy(samples_S).clamp_(-1.0, 1.0)


def is_silent(samples_S: Tensor) -> bool:
    """Whether nothing in [S] rises above -60 dB of full scale."""
    return samples_S.numel() == 0 or float(samples_S.abs().max()) < _SILENCE_PEAK


@dataclass(frozen=True, slots=True)
class Clip:
    """At most 30 s of a recording: [S] float32 at 16 kHz, and its position in the recording."""

    index: int
    start_seconds: float
    end_seconds: float
    samples: Tensor


def split_clips(samples_S: Tensor) -> list[Clip]:
    """[S] at 16 kHz -> clips of 30 s, the last one with the rest; none is empty."""
    length = CLIP_SECONDS * SAMPLE_RATE
    return [
        Clip(index, start / SAMPLE_RATE, (start + len(part)) / SAMPLE_RATE, part)
        for index, start in enumerate(range(0, len(samples_S), length))
        for part in [samples_S[start : start + length]]
    ]
