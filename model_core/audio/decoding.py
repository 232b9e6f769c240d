"""Sound files to 16 kHz mono in a stream, with memory that does not depend on their length. No torch here.

Shapes: S samples. Everything that comes from outside is bounded: containers, rates, channels, seconds.
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
    close_quietly,
    mp3_ends_early,
    next_ogg_link,
    ogg_ends_early,
    start_of_sound,
    wav_states_no_length,
)
from model_core.audio.opening import (
    KINDS,
    SHORTEST_SECONDS,
    Source,
    as_file,
    check_format,
    open_stream,
    stated_seconds,
    too_long,
    too_short,
)
from model_core.errors import InvalidInput

SAMPLE_RATE = 16_000
DURATION_SLACK_SECONDS = 0.25  # encoders pad: a packet count may be that much over the sound it holds

_TELL_LENGTH = ("flac", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2")  # whose headers state it; others are estimated
_BLOCK_SECONDS = 1.0  # decoded frames are joined to blocks of about this length before they are resampled
_MOST_DAMAGE = 0.1  # share of packets that may fail to decode
_MISSING_SECONDS = 0.5  # shorter than stated by more than this: cut off
# A jump ahead of the frames' clock is sound that is missing; its time is kept as silence. More is a broken clock.
_SHORTEST_GAP_SECONDS, _LONGEST_GAP_SECONDS = 0.1, 600.0

Mono = NDArray[np.float32]


def open_sound(
    source: Source, *, max_seconds: float, field: str = "audio", min_seconds: float = SHORTEST_SECONDS
) -> "Sound":
    """Opens a recording, to be read once: `with open_sound(...) as sound: for block_S in sound: ...`.

    Args:
        source: The file's bytes, where it lies, or a seekable binary file (which stays open): wav, mp3, flac, ogg,
            opus, webm or m4a, or the sound of a video.
        max_seconds: Longest recording that is accepted; it is read no further.
        field: What errors call the value.
        min_seconds: Shortest recording that is accepted.

    Raises:
        InvalidInput: nothing that decodes, no audio stream, more than 8 channels, or a sample rate outside 4 to
            384 kHz. What reading a binary file raises comes through as it is, here and while iterating.
    """
    return Sound(source, max_seconds=max_seconds, field=field, min_seconds=min_seconds)


class Sound:
    """A recording in blocks of [S] float32 at 16 kHz, -1 to 1, channels averaged, each of about a second.

    Iterating raises InvalidInput where it is too long or too short, more than a tenth of it is damaged, or samples
    are not finite. Rate, channels and format may change midway. Sound that is missing midway is silence.

    Attributes:
        seconds: Length of what has been given so far.
        container, stream: What is being read, as PyAV has it; another one behind a link of an Ogg chain.
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
            self._start = start_of_sound(self._file)
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
        """Lets go of the file."""
        self.container.close()
        self._close_file()

    @property
    def seconds(self) -> float:
        return self._samples / SAMPLE_RATE

    @property
    def truncated(self) -> bool:
        """Whether the file ends before its sound does.

        Raises:
            RuntimeError: it has not been read to its end.
        """
        if self._truncated is None:
            raise RuntimeError("whether a recording is cut off is known once it has been read to its end")
        return self._truncated

    def __iter__(self) -> Iterator[Mono]:
        most = (self._max_seconds + DURATION_SLACK_SECONDS) * SAMPLE_RATE
        for block_S in self._resampled():
            self._samples += len(block_S)
            if self._samples > most:
                raise too_long(self._max_seconds, self._field)
            if not np.isfinite(block_S).all():
                raise InvalidInput(self._field, "holds samples that are not finite numbers")
            yield np.clip(block_S, -1.0, 1.0)
        if self._damaged > max(1, _MOST_DAMAGE * self._packets):
            raise InvalidInput(self._field, f"is damaged: {self._damaged} of its {self._packets} packets do not decode")
        if self.seconds < self._min_seconds:
            if not self._samples:
                raise InvalidInput(self._field, "holds no sound: 0 s")
            raise too_short(self.seconds, self._min_seconds, self._field)
        self._truncated = self._breaks_off() or self.lacks_bytes() or self._lacks_seconds()

    def _open(self, start: int) -> None:
        self._window = Window(self._file, start)
        self.container, self.stream = open_stream(self._window, self._field)

    def _close_file(self) -> None:
        if self._owned:
            close_quietly(self._file)

    def lacks_bytes(self) -> bool:
        """Whether an mp3 is shorter than its header says, or an Ogg file's last page is not its last one."""
        kind = self.container.format.name
        return bool(kind == "mp3" and mp3_ends_early(self._file, self._start)) or (
            kind == "ogg" and ogg_ends_early(self._file)
        )

    def _breaks_off(self) -> bool:
        """Whether the file ends within a packet, or with one that does not decode."""
        kind = self.container.format.name
        if kind == "wav" and wav_states_no_length(self._file):
            return False  # FFmpeg takes any end of such a file for an accident
        if kind == "mp3" and mp3_ends_early(self._file, self._start) is False:
            return False  # what does not decode is some tag behind the sound
        return self._broke_off

    def _lacks_seconds(self) -> bool:
        if self.container.format.name not in _TELL_LENGTH:
            return False
        stated = stated_seconds(self.container, self.stream)
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
        """Sound at its own rate, with the rate, channels averaged, in blocks of about a second of one rate each."""
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
        """Frames of every packet that decodes, link after link; a few damaged packets are passed over."""
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
        self._broke_off = packet.is_corrupt  # of the last packet alone: the file ends within it
        try:
            return self.stream.decode(packet)
        except av.FFmpegError:
            self._damaged += 1
            self._broke_off = True
            return []

    def _open_next_link(self, position: int) -> bool:
        """FFmpeg stops where a chained Ogg file changes its codec's parameters; the next link is opened by itself."""
        if self.container.format.name != "ogg":
            return False
        link = next_ogg_link(self._file, self._start + position)
        if link is None:
            return False
        old = self.container
        try:
            self._open(link)
        except InvalidInput:  # cut off within its headers
            return False
        old.close()
        self._start = link
        return True


class _ToFloats:
    """Frames of any format to [S] float32, channels averaged; silence where the frames' clock jumps ahead.

    Samples come packed, all channels in one plane: of eight planes PyAV finds nine, and reads where nothing is.
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
            if _SHORTEST_GAP_SECONDS < gap < _LONGEST_GAP_SECONDS:
                yield np.zeros(int(gap * frame.sample_rate), np.float32)
            self._expected = frame.time + frame.samples / frame.sample_rate
        for floats in self._resampler.resample(frame):
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later
                packed_SC = floats.to_ndarray().reshape(-1, floats.layout.nb_channels)
                yield packed_SC.mean(axis=1, dtype=np.float32)


def check_duration(source: Source, max_seconds: float, field: str) -> None:
    """Adds up what the packets say, without decoding: hours too many are refused within a fraction of a second.

    Raises:
        InvalidInput: too long, or as `open_sound`.
    """
    file, owned = as_file(source, field)
    try:
        window = Window(file, start_of_sound(file))
        container, stream = open_stream(window, field)
        with container, suppress(av.FFmpegError):  # a cut-off end, or the next link of a chain: decoding will tell
            longest = (max_seconds + DURATION_SLACK_SECONDS) / (stream.time_base or 1)
            ticks = 0
            for packet in container.demux(stream):
                ticks += packet.duration or 0
                if ticks > longest:
                    raise too_long(max_seconds, field)
        window.raise_failure()
    finally:
        if owned:
            close_quietly(file)


def resample(mono_S: Mono, sample_rate: int) -> Mono:
    """[S] at `sample_rate` to [S] at 16 kHz."""
    if sample_rate == SAMPLE_RATE:
        return mono_S
    resampler = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32")
    return np.concatenate([resampler.resample_chunk(mono_S), resampler.resample_chunk(mono_S[:0], last=True)])
