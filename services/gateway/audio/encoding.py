"""Encodes spoken answers into the requested format, incrementally."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import av
import numpy as np

AudioFormat = Literal["wav", "mp3", "opus", "flac", "pcm"]

# The rate that OpenAI's clients expect of headerless samples.
PCM_RATE = 24_000
# Samples per step: each step blocks the event loop for a few milliseconds only.
SLICE_SAMPLES = 8_192


@dataclass(frozen=True, slots=True)
class _Codec:
    """A container and codec of PyAV; `rate` 0 keeps the voice's own sample rate."""

    media_type: str
    container: str
    codec: str
    rate: int = 0
    options: tuple[tuple[str, str], ...] = ()


CODECS: dict[AudioFormat, _Codec] = {
    "wav": _Codec("audio/wav", "wav", "pcm_s16le", options=(("fflags", "+bitexact"),)),
    "mp3": _Codec("audio/mpeg", "mp3", "libmp3lame", options=(("write_xing", "0"),)),
    # Opus does not support 22.05 kHz. With the default pages of 1 s, players would wait a second for each.
    "opus": _Codec("audio/ogg", "ogg", "libopus", 48_000, options=(("page_duration", "100000"),)),
    "flac": _Codec("audio/flac", "flac", "flac"),
    "pcm": _Codec("audio/pcm", "s16le", "pcm_s16le", PCM_RATE),
}


class _Pipe:
    """A write-only file, like a network stream."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._written.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._written)
        self._written.clear()
        return taken


class AudioEncoder:
    """Encodes 16-bit mono samples into a file, emitting bytes as early as the format allows."""

    def __init__(self, audio_format: AudioFormat, *, file: io.BytesIO | None = None) -> None:
        """With a seekable `file`, the header gets the final lengths, and push() and finish() return nothing."""
        self._codec = CODECS[audio_format]
        self._pipe = _Pipe()
        self._container = av.open(
            file or self._pipe, "w", format=self._codec.container, options=dict(self._codec.options)
        )
        self._stream: Any = None
        self._resampler: Any = None
        self._samples = 0
        self._sample_rate = 0

    def push(self, pcm: bytes, sample_rate: int) -> Iterator[bytes]:
        """Encodes signed 16-bit little-endian samples; the rate must not change between calls."""
        if self._stream is None:
            self._open(sample_rate)
        elif sample_rate != self._sample_rate:
            raise ValueError(f"sample rate changed from {self._sample_rate} to {sample_rate}")
        samples = np.frombuffer(pcm, dtype="<i2")
        for start in range(0, len(samples), SLICE_SAMPLES):
            piece = np.ascontiguousarray(samples[np.newaxis, start : start + SLICE_SAMPLES])
            frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = sample_rate, self._samples, Fraction(1, sample_rate)
            self._samples += piece.shape[1]
            self._encode(frame)
            if data := self._pipe.take():
                yield data

    def finish(self) -> bytes:
        """Finishes the file. Without any samples, it is an empty file if the format allows that."""
        if self._stream is None:
            self._open(PCM_RATE)
            self._container.start_encoding()
        self._encode(None)
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._pipe.take()

    def _open(self, sample_rate: int) -> None:
        rate = self._codec.rate or sample_rate
        self._stream = self._container.add_stream(self._codec.codec, rate=rate, layout="mono")
        self._resampler = av.AudioResampler(format=self._stream.codec_context.format, layout="mono", rate=rate)
        self._sample_rate = sample_rate

    def _encode(self, frame: av.AudioFrame | None) -> None:
        if frame is None and not self._samples:
            return  # a resampler without input cannot be flushed
        for resampled in self._resampler.resample(frame):
            self._container.mux(self._stream.encode(resampled))


def encode_file(audio_format: AudioFormat, pcm: bytes, sample_rate: int) -> bytes:
    """Encodes a complete file, with the lengths in its header if the format has them."""
    file = io.BytesIO()
    encoder = AudioEncoder(audio_format, file=file)
    for _ in encoder.push(pcm, sample_rate):
        pass
    encoder.finish()
    return file.getvalue()
