"""Sampling frames from a video file, with every limit checked before a frame is decoded."""

import io
import os
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field as attribute
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from PIL import Image

from model_core.errors import InvalidInput
from model_core.ffmpeg import decoders

FRAMES_PER_SECOND = 2.0  # sampled, within the maximum number of frames
MAX_FRAME_RATE = 240  # frames per second of a file
KINDS = "mp4, webm, mov"

# Only these containers are probed: playlists could make FFmpeg open other files or URLs.
_CONTAINERS = "matroska,webm,mov,mp4,m4a,3gp,3g2,mj2"
_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg", "prores")
_DURATION_SLACK_SECONDS = 0.25
_MAX_THREADS = 4  # each holds frames
_MAX_MISSING = 0.1  # share of the stated duration that may be missing


Source = bytes | Path | BinaryIO


def sample_frames(
    data: Source,
    *,
    max_frames: int,
    max_seconds: float,
    max_pixels: int,
    max_decoding_seconds: float = 60.0,
    field: str = "video",
) -> list[Image.Image]:
    """Frames spread evenly over a video, including the first and the last: RGB, upright, all of one size.

    Two per second, at least two if there are, at most `max_frames`. The packets are read once for timestamps and key
    frames, then only the runs of packets that lead to a sampled frame are decoded.

    Args:
        data: The file's bytes, its path, or a seekable binary file: mp4, webm or mov.
        max_frames: Maximum number of frames.
        max_seconds: Longest video that is accepted.
        max_pixels: Maximum height times width of a frame.
        max_decoding_seconds: Time limit of decoding.
        field: Field that errors name.

    Raises:
        InvalidInput: not a video, over a limit, truncated or broken.
    """
    frames = iterate_frames(
        data,
        max_frames=max_frames,
        max_seconds=max_seconds,
        max_pixels=max_pixels,
        max_decoding_seconds=max_decoding_seconds,
        field=field,
    )
    return list(frames)


def iterate_frames(
    data: Source, *, max_frames: int, max_seconds: float, max_pixels: int, max_decoding_seconds: float, field: str
) -> Iterator[Image.Image]:
    """As `sample_frames`, one frame at a time; raises its errors while iterating."""
    if isinstance(data, bytes) and not data:
        raise InvalidInput(field, "is empty (0 bytes)")
    limits = _Limits(max_seconds, max_pixels, max_decoding_seconds, field)
    with _errors_of(limits):
        with _opened(data, limits) as (container, stream):
            index = _read_index(container, stream, limits)
        wanted = _spread(index.times, _frame_count(index, max_frames))
        with _opened(data, limits) as (container, stream):
            yield from _decoded(container, stream, index, wanted, limits)


def probe_video(data: Source, *, max_pixels: int, field: str) -> str:
    """The codec of a video, once its first frame is decoded; reads no further.

    Raises:
        InvalidInput: not a video, another codec, frames over the limit, truncated or broken.
    """
    limits = _Limits(float("inf"), max_pixels, float("inf"), field)
    with _errors_of(limits), _opened(data, limits) as (container, stream):
        if next(container.decode(stream), None) is None:
            raise limits.error("has no decodable frame; it may be truncated")
        return stream.codec_context.codec.canonical_name


@dataclass(frozen=True, slots=True)
class _Limits:
    seconds: float
    pixels: int
    decoding_seconds: float
    field: str

    def error(self, message: str) -> InvalidInput:
        return InvalidInput(self.field, message)


@dataclass(slots=True)
class _Index:
    """Timestamps of all frames and of the key frames, sorted, in units of `time_base` seconds."""

    time_base: Fraction
    times: list[int] = attribute(default_factory=list)
    keys: list[int] = attribute(default_factory=list)
    end_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        return float((self.times[-1] - self.times[0]) * self.time_base)


@contextmanager
def _errors_of(limits: _Limits) -> Iterator[None]:
    """Turns FFmpeg's errors for broken files into InvalidInput."""
    try:
        yield
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, InvalidInput | MemoryError):
            raise
        raise limits.error(f"does not decode as video ({KINDS}); it may be truncated") from error


@contextmanager
def _opened(data: Source, limits: _Limits) -> Iterator[tuple[InputContainer, VideoStream]]:
    source: str | BinaryIO
    if isinstance(data, Path):
        source = str(data)
    elif isinstance(data, bytes):
        source = io.BytesIO(data)
    else:
        source = data
        source.seek(0)
    # FFmpeg decodes while probing: `max_pixels` applies there too, and where the header does not state the size.
    codec_options = {"max_pixels": str(limits.pixels)}
    only = {"format_whitelist": _CONTAINERS, "codec_whitelist": _decoders()}
    with av.open(source, "r", options=codec_options, container_options=only, metadata_errors="replace") as container:
        stream = _video_stream(container, limits)
        stream.codec_context.options = codec_options
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = min(_MAX_THREADS, os.cpu_count() or 1)
        yield container, stream


@cache
def _decoders() -> str:
    return decoders(_CODECS.__contains__)


def _video_stream(container: InputContainer, limits: _Limits) -> VideoStream:
    moving = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    if not moving:
        raise limits.error("has no video track")
    context = moving[0].codec_context
    if context is None:
        raise limits.error("is in an unknown codec, or truncated")
    if context.codec.canonical_name not in _CODECS:
        raise limits.error(f"is in {context.codec.canonical_name}; accepted are {', '.join(_CODECS)}")
    width, height = context.width, context.height
    if width * height > limits.pixels:
        raise limits.error(
            f"{width} x {height} is {width * height:,} pixels per frame, over the limit of {limits.pixels:,} pixels"
        )
    if not width * height:
        raise limits.error("does not state the size of its frames; it may be truncated")
    return moving[0]


def _read_index(container: InputContainer, stream: VideoStream, limits: _Limits) -> _Index:
    """Reads all packets without decoding; refuses a video that is too long as early as possible."""
    if stream.time_base is None:
        raise limits.error("has no timestamps")
    index = _Index(stream.time_base)
    max_times = int((limits.seconds + _DURATION_SLACK_SECONDS) * MAX_FRAME_RATE)
    start = float((container.start_time or 0) / av.time_base)
    for packet in container.demux():
        if packet.pts is None or packet.time_base is None or packet.is_corrupt:
            continue
        end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - start
        index.end_seconds = max(index.end_seconds, end)
        if packet.stream_index != stream.index:
            continue
        if end > limits.seconds + _DURATION_SLACK_SECONDS:
            raise limits.error(f"is over the limit of {_length(limits.seconds)}")
        if len(index.times) >= max_times:
            raise limits.error(f"has over {MAX_FRAME_RATE} frames per second")
        if not packet.is_discard:  # removed by an edit list; still needed as a key frame
            index.times.append(packet.pts)
        if packet.is_keyframe:
            index.keys.append(packet.pts)
    stated = float((container.duration or 0) / av.time_base)
    if index.end_seconds < stated * (1 - _MAX_MISSING) - _DURATION_SLACK_SECONDS:
        raise limits.error(f"is truncated: its header states {stated:.1f} s, it ends after {index.end_seconds:.1f} s")
    index.keys.sort()
    # Frames before the first key frame cannot be decoded.
    index.times = sorted(time for time in index.times if index.keys and time >= index.keys[0])
    if not index.times:
        raise limits.error("has no decodable frame; it may be truncated")
    return index


def _frame_count(index: _Index, max_frames: int) -> int:
    return min(len(index.times), max_frames, max(2, round(index.seconds * FRAMES_PER_SECOND)))


def _spread(times: list[int], count: int) -> list[int]:
    """`count` timestamps, evenly spaced by index."""
    if count == 1:
        return times[:1]
    return [times[round(at * (len(times) - 1) / (count - 1))] for at in range(count)]


def _decoded(
    container: InputContainer, stream: VideoStream, index: _Index, wanted: list[int], limits: _Limits
) -> Iterator[Image.Image]:
    """The images at the `wanted` timestamps."""
    deadline = time.monotonic() + limits.decoding_seconds
    size: tuple[int, int] | None = None
    todo = deque(wanted)
    for frame in _frames(container, stream, index, wanted):
        if time.monotonic() > deadline:
            raise limits.error(f"takes longer to decode than the limit of {_length(limits.decoding_seconds)}")
        while todo and frame.pts is not None and frame.pts >= todo[0]:
            todo.popleft()
            size = size or (frame.width, frame.height)
            # A stream may change its size midway; players scale it, too.
            picture = Image.fromarray(frame.to_ndarray(width=size[0], height=size[1], format="rgb24"))
            yield picture.rotate(frame.rotation, expand=True) if frame.rotation % 90 == 0 else picture
        if not todo:
            return
    raise limits.error(f"is damaged: no frame can be decoded at {float(todo[0] * index.time_base):.1f} s")


def _frames(
    container: InputContainer, stream: VideoStream, index: _Index, wanted: list[int]
) -> Iterator[av.VideoFrame]:
    """Decoded frames by timestamp, skipping those between a wanted frame and the next key frame."""
    # A run starts at the last key frame before a wanted frame, and reaches to its last wanted frame.
    runs = {index.keys[max(bisect_right(index.keys, time) - 1, 0)]: time for time in wanted}
    reach: int | None = None  # None between runs
    for packet in container.demux(stream):
        if packet.is_keyframe and packet.pts in runs:
            if reach is None:
                stream.codec_context.flush_buffers()
            reach = runs[packet.pts]
        if reach is None:
            continue
        for frame in packet.decode():
            yield frame
            if reach is not None and frame.pts is not None and frame.pts >= reach:
                reach = None


def _length(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
