"""Streaming decoder: audio files to 16 kHz mono, in memory that does not depend on their length. No torch here.

Shapes: S samples. All properties of a file are bounded: container, codec, sample rate, channels, duration.
"""

from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

import av
import numpy as np
import soxr
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from model_core.audio.containers import (
    Window,
    audio_start,
    close_quietly,
    mp3_ends_early,
    next_ogg_link,
    ogg_ends_early,
    wav_lacks_length,
)
from model_core.audio.opening import (
    KINDS,
    MIN_AUDIO_SECONDS,
    Source,
    as_file,
    check_format,
    header_seconds,
    open_stream,
    too_long,
    too_short,
)
from model_core.errors import InvalidInput

SAMPLE_RATE = 16_000
DURATION_SLACK_SECONDS = 0.25  # encoders pad: packets may add up to this much more than the audio

# Containers whose headers state the length; for others FFmpeg estimates it.
_STATE_LENGTH = ("flac", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2")
_BLOCK_SECONDS = 1.0  # decoded frames are joined into blocks of about this length before resampling
_MAX_DAMAGE = 0.1  # share of the packets that may fail to decode
_MISSING_SECONDS = 0.5  # shorter than stated by more than this: truncated
# A gap in the frames' timestamps is missing audio, replaced by silence. A longer one is a broken clock.
_MIN_GAP_SECONDS, _MAX_GAP_SECONDS = 0.1, 600.0

Mono = NDArray[np.float32]


def open_audio(
    source: Source, *, max_seconds: float, field: str = "audio", min_seconds: float = MIN_AUDIO_SECONDS
) -> "AudioReader":
    """Opens a recording, to be read once: `with open_audio(...) as audio: for block_S in audio: ...`.

    Args:
        source: The file's bytes, its path, or a seekable binary file (which stays open): wav, mp3, flac, ogg, opus,
            webm or m4a, or the audio track of a video.
        max_seconds: Longest recording that is accepted; reading stops there.
        field: Field that errors name.
        min_seconds: Shortest recording that is accepted.

    Raises:
        InvalidInput: not decodable, no audio stream, more than 8 channels, or a sample rate outside 4 to 384 kHz.
            Errors of reading a binary file pass through unchanged, here and while iterating.
    """
    return AudioReader(source, max_seconds=max_seconds, field=field, min_seconds=min_seconds)


class AudioReader:
    """A recording in blocks of [S] float32 at 16 kHz, -1 to 1, channels averaged, each about a second long.

    Iterating raises InvalidInput where the recording is too long or too short, more than a tenth of it is damaged, or
    samples are not finite. Rate, channels and format may change midway. Missing audio becomes silence.

    Attributes:
        seconds: Duration of the blocks so far.
        container, stream: PyAV's objects for what is being read; new ones after each link of a chained Ogg file.
    """

    def __init__(self, source: Source, *, max_seconds: float, field: str, min_seconds: float) -> None:
        self._field = field
        self._max_seconds, self._min_seconds = max_seconds, min_seconds
        self._file, self._owned = as_file(source, field)
        self._packets = self._damaged = 0
        self._broke_off = False
        self._samples = 0
        self._truncated: bool | None = None
        try:
            self._start = audio_start(self._file)
            self._open(self._start)
        except BaseException:
            self._close_file()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self.container.close()
        self._close_file()

    @property
    def seconds(self) -> float:
        return self._samples / SAMPLE_RATE

    @property
    def truncated(self) -> bool:
        """Whether the file ends before its audio does.

        Raises:
            RuntimeError: it has not been read to its end.
        """
        if self._truncated is None:
            raise RuntimeError("whether a recording is truncated is known only after reading it to its end")
        return self._truncated

    def __iter__(self) -> Iterator[Mono]:
        max_samples = (self._max_seconds + DURATION_SLACK_SECONDS) * SAMPLE_RATE
        for block_S in self._resampled():
            self._samples += len(block_S)
            if self._samples > max_samples:
                raise too_long(self._max_seconds, self._field)
            if not np.isfinite(block_S).all():
                raise InvalidInput(self._field, "holds samples that are not finite numbers")
            yield np.clip(block_S, -1.0, 1.0)
        if self._damaged > max(1, _MAX_DAMAGE * self._packets):
            raise InvalidInput(self._field, f"is damaged: {self._damaged} of its {self._packets} packets do not decode")
        if self.seconds < self._min_seconds:
            if not self._samples:
                raise InvalidInput(self._field, "holds no audio: 0 s")
            raise too_short(self.seconds, self._min_seconds, self._field)
        self._truncated = self._breaks_off() or self.ends_early() or self._lacks_seconds()

    def _open(self, start: int) -> None:
        self._window = Window(self._file, start)
        self.container, self.stream = open_stream(self._window, self._field)

    def _close_file(self) -> None:
        if self._owned:
            close_quietly(self._file)

    def ends_early(self) -> bool:
        """Whether an mp3 is shorter than its header says, or an Ogg file lacks its final page."""
        kind = self.container.format.name
        return bool(kind == "mp3" and mp3_ends_early(self._file, self._start)) or (
            kind == "ogg" and ogg_ends_early(self._file)
        )

    def _breaks_off(self) -> bool:
        """Whether the file ends within a packet, or with one that does not decode."""
        kind = self.container.format.name
        if kind == "wav" and wav_lacks_length(self._file):
            return False  # FFmpeg reports any end of such a file as an error
        if kind == "mp3" and mp3_ends_early(self._file, self._start) is False:
            return False  # what does not decode is a tag after the audio
        return self._broke_off

    def _lacks_seconds(self) -> bool:
        if self.container.format.name not in _STATE_LENGTH:
            return False
        stated = header_seconds(self.container, self.stream)
        return stated is not None and stated - self.seconds > _MISSING_SECONDS

    def _resampled(self) -> Iterator[Mono]:
        resampler: soxr.ResampleStream | None = None
        current = SAMPLE_RATE
        for rate, block_S in self._blocks():
            if rate != current:
                if resampler is not None:
                    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
                resampler = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
                current = rate
            yield block_S if resampler is None else resampler.resample_chunk(block_S)
        if resampler is not None:
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)

    def _blocks(self) -> Iterator[tuple[int, Mono]]:
        """Blocks of about a second with their sample rate, channels averaged, not resampled yet."""
        to_floats = _ToFloats()
        waiting: list[Mono] = []
        rate = channels = waiting_samples = 0
        for frame in self._frames():
            if waiting and (frame.sample_rate != rate or waiting_samples >= _BLOCK_SECONDS * rate):
                yield rate, np.concatenate(waiting)
                waiting, waiting_samples = [], 0
            if (frame.sample_rate, frame.layout.nb_channels) != (rate, channels):
                rate, channels = frame.sample_rate, frame.layout.nb_channels
                check_format(rate, channels, self._field)
            try:
                monos = list(to_floats(frame))
            except (av.FFmpegError, ValueError) as error:  # a layout or format that FFmpeg cannot convert
                raise InvalidInput(self._field, f"does not decode as audio ({KINDS})") from error
            waiting += monos
            waiting_samples += sum(map(len, monos))
        if waiting:
            yield rate, np.concatenate(waiting)

    def _frames(self) -> Iterator[av.AudioFrame]:
        """Frames of every packet that decodes, link after link; damaged packets are skipped."""
        while True:
            position, broke_off = 0, False
            try:
                for packet in self.container.demux(self.stream):
                    position = packet.pos or position
                    yield from self._decoded(packet)
            except av.FFmpegError:
                broke_off = True
            self._window.raise_failure()
            if not broke_off:
                return
            with suppress(av.FFmpegError):
                yield from self.stream.decode(None)
            if not self._open_next_link(position):
                self._broke_off = True
                return

    def _decoded(self, packet: "av.Packet[AudioStream]") -> list[av.AudioFrame]:
        if not packet.size:
            with suppress(av.FFmpegError):
                return self.stream.decode(None)
            return []
        self._packets += 1
        self._broke_off = packet.is_corrupt  # finally that of the last packet: the file ends within it
        try:
            return self.stream.decode(packet)
        except av.FFmpegError:
            self._damaged += 1
            self._broke_off = True
            return []

    def _open_next_link(self, position: int) -> bool:
        """Opens the next link of a chained Ogg file: FFmpeg stops where the codec's parameters change."""
        if self.container.format.name != "ogg":
            return False
        link = next_ogg_link(self._file, self._start + position)
        if link is None:
            return False
        old = self.container
        try:
            self._open(link)
        except InvalidInput:  # truncated within its headers
            return False
        old.close()
        self._start = link
        return True


class _ToFloats:
    """Frames of any format to [S] float32, channels averaged; silence where the timestamps have a gap.

    Samples are packed, all channels in one plane: of eight planes PyAV counts nine, and reads out of bounds.
    """

    def __init__(self) -> None:
        self._resampler = av.AudioResampler(format="flt")
        self._format: tuple[str, str, int] | None = None
        self._expected: float | None = None

    def __call__(self, frame: av.AudioFrame) -> Iterator[Mono]:
        setting = (frame.format.name, frame.layout.name, frame.sample_rate)
        if setting != self._format:
            self._resampler, self._format = av.AudioResampler(format="flt"), setting
        if frame.time is not None:
            gap = frame.time - (frame.time if self._expected is None else self._expected)
            if _MIN_GAP_SECONDS < gap < _MAX_GAP_SECONDS:
                yield np.zeros(int(gap * frame.sample_rate), np.float32)
            self._expected = frame.time + frame.samples / frame.sample_rate
        for floats in self._resampler.resample(frame):
            with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite are refused later
                packed_SC = floats.to_ndarray().reshape(-1, floats.layout.nb_channels)
                yield packed_SC.mean(axis=1, dtype=np.float32)


def check_duration(source: Source, max_seconds: float, field: str) -> None:
    """Adds up the packets' durations without decoding: hours too many are refused within a fraction of a second.

    Raises:
        InvalidInput: too long, or as `open_audio`.
    """
    file, owned = as_file(source, field)
    try:
        window = Window(file, audio_start(file))
        container, stream = open_stream(window, field)
        with container, suppress(av.FFmpegError):  # truncated, or the next link of a chain: decoding will tell
            max_ticks = (max_seconds + DURATION_SLACK_SECONDS) / (stream.time_base or 1)
            ticks = 0
            for packet in container.demux(stream):
                ticks += packet.duration or 0
                if ticks > max_ticks:
                    raise too_long(max_seconds, field)
        window.raise_failure()
    finally:
        if owned:
            close_quietly(file)


def resample(mono_S: Mono, sample_rate: int) -> Mono:
    """Resamples [S] at `sample_rate` to [S] at 16 kHz."""
    if sample_rate == SAMPLE_RATE:
        return mono_S
    resampler = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32")
    return np.concatenate([resampler.resample_chunk(mono_S), resampler.resample_chunk(mono_S[:0], last=True)])
