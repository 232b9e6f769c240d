"""Sound in and out of files: encoded audio to 16 kHz mono samples, 30-second clips, WAV.

Shapes: S samples, C channels. Everything that comes from outside is bounded: containers, rates, channels, seconds.
"""

import io
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soxr
import torch
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray
from torch import Tensor

from model_core.errors import InvalidInput

SAMPLE_RATE = 16_000
CLIP_SECONDS = 30

SHORTEST_SECONDS = 0.1
LOWEST_RATE, HIGHEST_RATE = 4_000, 384_000
MOST_CHANNELS = 8

# Only these containers are probed: playlists and the like could make FFmpeg open other files or addresses.
_CONTAINERS = "wav,w64,mp3,flac,ogg,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,aac"
# FFmpeg looks into a video track or a cover too, to learn its format; nothing larger is decoded for that.
_PROBING = {"max_pixels": "40000000"}
_KINDS = "wav, mp3, flac, ogg, opus, webm, m4a"
_SILENCE_PEAK = 1e-3  # -60 dB of full scale
_BLOCK_SECONDS = 1.0  # decoded frames are joined to blocks of this length before they are resampled
_MOST_DAMAGE = 0.1  # share of packets that may fail to decode
_DURATION_SLACK_SECONDS = 0.25  # encoders pad: a packet count may be that much over the sound it holds

Mono = NDArray[np.float32]


def decode_audio(
    data: bytes | Path, *, max_seconds: float, field: str = "audio", min_seconds: float = SHORTEST_SECONDS
) -> Tensor:
    """Decodes a recording to [S] float32 at 16 kHz, -1 to 1, channels averaged.

    Reads no further than `max_seconds`. A silent recording is a valid one (`is_silent` tells).

    Args:
        data: The file's bytes, or where it lies: wav, mp3, flac, ogg, opus, webm or m4a.
        max_seconds: Longest recording that is accepted.
        field: What errors call the value.
        min_seconds: Shortest recording that is accepted.

    Raises:
        InvalidInput: nothing that decodes, too long, too short, more than 8 channels, sample rate outside
            4 to 384 kHz, or samples that are not finite.
    """
    if not isinstance(data, Path) and not data:
        raise InvalidInput(field, "is empty: 0 bytes")
    try:
        _check_duration(data, max_seconds, field)
        with _opened(data) as container:
            stream = _audio_stream(container, field)
            blocks = _resampled(_mono_blocks(container, stream, field), stream.rate)
            return _collected(blocks, max_seconds, field, min_seconds)
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(field, f"does not decode as audio ({_KINDS})") from error


def decode_audio_track(data: bytes | Path, *, max_seconds: float, field: str = "video") -> Tensor:
    """The sound of a video as `decode_audio` has it; [0] where it has no audio track, or one under 0.1 s.

    Raises:
        InvalidInput: as for `decode_audio`.
    """
    if not isinstance(data, Path) and not data:
        raise InvalidInput(field, "is empty: 0 bytes")
    try:
        with _opened(data) as container:
            if not container.streams.audio:
                return torch.zeros(0)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InvalidInput(field, "does not decode as video") from error
    samples_S = decode_audio(data, max_seconds=max_seconds, field=field, min_seconds=0.0)
    return samples_S if len(samples_S) >= SHORTEST_SECONDS * SAMPLE_RATE else samples_S[:0]


def decode_pcm16(data: bytes, *, sample_rate: int, channels: int, max_seconds: float, field: str = "audio") -> Tensor:
    """Raw little-endian 16-bit samples, channels interleaved, to [S] float32 at 16 kHz; raises as `decode_audio`."""
    _check_format(sample_rate, channels, field)
    if not data:
        raise InvalidInput(field, "is empty: 0 bytes")
    if len(data) % (2 * channels):
        raise InvalidInput(field, f"{len(data)} bytes are not whole 16-bit frames of {channels} channels")
    if len(data) / (2 * channels * sample_rate) > max_seconds:
        raise _too_long(max_seconds, field)
    mono = np.frombuffer(data, "<i2").reshape(-1, channels).mean(axis=1, dtype=np.float32) / np.float32(32768)
    return _collected(iter([_to_sample_rate(mono, sample_rate)]), max_seconds, field)


def is_silent(samples_S: Tensor) -> bool:
    """Whether nothing in [S] rises above -60 dB of full scale."""
    return samples_S.numel() == 0 or float(samples_S.abs().max()) < _SILENCE_PEAK


def encode_wav(samples: NDArray[np.int16], sample_rate: int) -> bytes:
    """[S] int16 -> a mono 16-bit WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sample_rate)
        writer.writeframes(samples.astype("<i2", copy=False).tobytes())
    return file.getvalue()


@dataclass(frozen=True, slots=True)
class Clip:
    """At most 30 s of a recording: [S] float32 at 16 kHz, and where it lies in the recording."""

    index: int
    start_seconds: float
    end_seconds: float
    samples: Tensor


def split_clips(samples_S: Tensor) -> list[Clip]:
    """[S] at 16 kHz -> clips of 30 s, the last one shorter unless S is a whole multiple; none of them is empty."""
    length = CLIP_SECONDS * SAMPLE_RATE
    return [
        Clip(index, start / SAMPLE_RATE, (start + len(part)) / SAMPLE_RATE, part)
        for index, start in enumerate(range(0, len(samples_S), length))
        for part in [samples_S[start : start + length]]
    ]


def _opened(data: bytes | Path) -> InputContainer:
    source = str(data) if isinstance(data, Path) else io.BytesIO(data)
    only = {"format_whitelist": _CONTAINERS}
    return av.open(source, "r", options=_PROBING, container_options=only, metadata_errors="replace")


def _audio_stream(container: InputContainer, field: str) -> AudioStream:
    if not container.streams.audio:
        raise InvalidInput(field, "holds no audio stream")
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise InvalidInput(field, f"is in a codec that is not known ({_KINDS})")
    _check_format(stream.rate or 0, stream.channels, field)
    return stream


def _check_format(sample_rate: int, channels: int, field: str) -> None:
    if not LOWEST_RATE <= sample_rate <= HIGHEST_RATE:
        raise InvalidInput(field, f"sample rate {sample_rate} Hz is outside {LOWEST_RATE} to {HIGHEST_RATE} Hz")
    if not 1 <= channels <= MOST_CHANNELS:
        raise InvalidInput(field, f"{channels} channels are outside 1 to {MOST_CHANNELS}")


def _check_duration(data: bytes | Path, max_seconds: float, field: str) -> None:
    """Adds up what the packets say, without decoding: hours too many are refused within a fraction of a second."""
    with _opened(data) as container:
        stream = _audio_stream(container, field)
        if stream.time_base is None:
            return
        longest = (max_seconds + _DURATION_SLACK_SECONDS) / stream.time_base
        ticks = 0
        for packet in container.demux(stream):
            ticks += packet.duration or 0
            if ticks > longest:
                raise _too_long(max_seconds, field)


def _mono_blocks(container: InputContainer, stream: AudioStream, field: str) -> Iterator[Mono]:
    """Decoded sound at the recording's own rate, channels averaged, in blocks of about a second."""
    to_floats = av.AudioResampler(format="fltp")
    waiting: list[Mono] = []
    waiting_samples = 0
    for frame in _frames(container, stream, field):
        if frame.sample_rate != stream.rate:
            raise InvalidInput(field, f"sample rate changes from {stream.rate} to {frame.sample_rate} Hz midway")
        for floats in to_floats.resample(frame):
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused at the end
                waiting.append(floats.to_ndarray().mean(axis=0, dtype=np.float32))
            waiting_samples += floats.samples
        if waiting_samples >= _BLOCK_SECONDS * stream.rate:
            yield np.concatenate(waiting)
            waiting, waiting_samples = [], 0
    if waiting:
        yield np.concatenate(waiting)


def _frames(container: InputContainer, stream: AudioStream, field: str) -> Iterator[av.AudioFrame]:
    """Frames of every packet that decodes; a few damaged packets are passed over, as players do."""
    packets = damaged = 0
    for packet in container.demux(stream):
        packets += 1
        try:
            yield from packet.decode()
        except av.FFmpegError:
            damaged += 1
    if damaged > max(1, _MOST_DAMAGE * packets):
        raise InvalidInput(field, f"is damaged: {damaged} of its {packets} packets do not decode")


def _resampled(blocks: Iterator[Mono], sample_rate: int) -> Iterator[Mono]:
    if sample_rate == SAMPLE_RATE:
        yield from blocks
        return
    resampler = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32")
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _to_sample_rate(mono: Mono, sample_rate: int) -> Mono:
    return np.concatenate(list(_resampled(iter([mono]), sample_rate)))


def _collected(blocks: Iterator[Mono], max_seconds: float, field: str, min_seconds: float = SHORTEST_SECONDS) -> Tensor:
    """Joins blocks at 16 kHz and stops at the first sample too many."""
    most = int((max_seconds + _DURATION_SLACK_SECONDS) * SAMPLE_RATE)
    parts: list[Mono] = []
    total = 0
    for block in blocks:
        total += len(block)
        if total > most:
            raise _too_long(max_seconds, field)
        if not np.isfinite(block).all():
            raise InvalidInput(field, "holds samples that are not finite numbers")
        parts.append(block)
    if total < min_seconds * SAMPLE_RATE:
        raise InvalidInput(field, f"{total / SAMPLE_RATE:.2f} s is under the shortest recording of {min_seconds} s")
    return torch.from_numpy(np.concatenate([*parts, np.zeros(0, np.float32)])).clamp_(-1.0, 1.0)


def _too_long(max_seconds: float, field: str) -> InvalidInput:
    limit = f"{max_seconds / 60:g} min" if max_seconds >= 60 else f"{max_seconds:g} s"
    return InvalidInput(field, f"is over the limit of {limit}")
