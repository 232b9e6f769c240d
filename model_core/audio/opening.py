"""Opening untrusted audio files: which containers, codecs, sample rates, channel counts and durations are accepted."""

import io
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

import av
from av.audio.stream import AudioStream
from av.container import InputContainer

from model_core.audio.containers import Window, close_quietly, lacks_index
from model_core.errors import InvalidInput
from model_core.ffmpeg import decoders

MIN_AUDIO_SECONDS = 0.1
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 4_000, 384_000
MAX_CHANNELS = 8

# Only these containers are probed: playlists could make FFmpeg open other files or URLs.
_CONTAINERS = "wav,w64,mp3,flac,ogg,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,aac"
# Codecs of recordings; no other decoder of FFmpeg runs.
_CODECS = ("aac", "ac3", "alac", "amr_nb", "amr_wb", "eac3", "flac", "mp1", "mp2", "mp3", "opus", "speex", "vorbis")
_WAVE_CODECS = ("adpcm_ima_wav", "adpcm_ms", "gsm_ms", "pcm_")
KINDS = "wav, mp3, flac, ogg, opus, webm, m4a"

Source = bytes | Path | BinaryIO


def as_file(source: Source, field: str) -> tuple[BinaryIO, bool]:
    """A source as a seekable file, and whether the caller has to close it.

    Raises:
        InvalidInput: the source is empty, or a path that cannot be read.
    """
    if isinstance(source, bytes):
        if not source:
            raise InvalidInput(field, "is empty: 0 bytes")
        return io.BytesIO(source), True
    if not isinstance(source, Path):
        return source, False
    try:
        return source.open("rb"), True
    except OSError as error:
        raise InvalidInput(field, "cannot be read") from error


def open_stream(window: Window, field: str) -> tuple[InputContainer, AudioStream]:
    """Opens the container in a window and finds its audio stream.

    Raises:
        InvalidInput: as `open_audio`.
    """
    container = _open_container(window, field, f"audio ({KINDS})")
    try:
        if not container.streams.audio:
            raise InvalidInput(field, "holds no audio stream")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise InvalidInput(field, f"is in an unknown codec ({KINDS})")
        codec = stream.codec_context.codec.canonical_name
        if not _is_taken(codec):
            raise InvalidInput(field, f"is in {codec}; accepted are {', '.join(_CODECS)} and the codecs of WAV files")
        check_format(stream.rate or 0, stream.channels, field)
    except BaseException:
        container.close()
        raise
    return container, stream


def has_audio(source: Source, field: str) -> bool:
    """Whether a video has an audio track.

    Raises:
        InvalidInput: it is not a video.
    """
    file, owned = as_file(source, field)
    try:
        with _open_container(Window(file, 0), field, "video") as container:
            return bool(container.streams.audio)
    finally:
        if owned:
            close_quietly(file)


def _open_container(window: Window, field: str, kind: str) -> InputContainer:
    only = {"format_whitelist": _CONTAINERS, "codec_whitelist": _decoders()}
    try:
        container = av.open(window, "r", container_options=only, metadata_errors="replace")
    except av.FFmpegError as error:
        window.raise_failure()
        why = "; it is truncated, its index is missing" if lacks_index(window) else ""
        raise InvalidInput(field, f"does not decode as {kind}{why}") from error
    if window.failed:
        container.close()
        window.raise_failure()
    return container


def _is_taken(codec: str) -> bool:
    return codec in _CODECS or codec.startswith(_WAVE_CODECS)


@cache
def _decoders() -> str:
    """Decoders that FFmpeg may run while probing: none for video tracks and covers."""
    return decoders(_is_taken)


def header_seconds(container: InputContainer, stream: AudioStream) -> float | None:
    """The duration that the header states, or that FFmpeg estimates from the file size; None where neither is known."""
    with suppress(ValueError):
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    audio_only = not container.streams.video
    return container.duration / av.time_base if container.duration and audio_only else None


def check_format(sample_rate: int, channels: int, field: str) -> None:
    """Raises InvalidInput for sample rates outside 4 to 384 kHz and for more than 8 channels."""
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise InvalidInput(field, f"sample rate {sample_rate} Hz is outside {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise InvalidInput(field, f"{channels} channels are outside 1 to {MAX_CHANNELS}")


def too_long(max_seconds: float, field: str) -> InvalidInput:
    """The error for a recording over the limit."""
    limit = f"{max_seconds / 60:g} min" if max_seconds >= 60 else f"{max_seconds:g} s"
    return InvalidInput(field, f"is over the limit of {limit}")


def too_short(seconds: float, min_seconds: float, field: str) -> InvalidInput:
    """The error for a recording under the minimum."""
    return InvalidInput(field, f"{seconds:.2f} s is under the minimum of {min_seconds} s")
