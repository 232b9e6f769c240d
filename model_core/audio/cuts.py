"""Where to cut a recording into clips: in pauses close to the maximum length, around silence, and where there is no
pause with an overlap around the quietest frame.

Shapes: F frames of 32 ms. Internal positions are frames from the start of the recording.
"""

from dataclasses import dataclass

import numpy as np

from model_core.audio.decoding import SAMPLE_RATE
from model_core.audio.frames import FRAME_SAMPLES, FRAME_SECONDS, FrameActivity

_MIN_SPEECH_FRAMES = 3  # consecutive frames; anything shorter is a click
_SMOOTHED = 5  # frames over which loudness is averaged to find the quietest one


@dataclass(frozen=True, slots=True)
class Cut:
    """A clip's position in its recording.

    Attributes:
        index: Its number, from 0.
        start_seconds: Where it starts.
        end_seconds: Where it ends.
        overlap_seconds: How much of its start is also in the clip before; 0 unless the cut had to be made in speech.
    """

    index: int
    start_seconds: float
    end_seconds: float
    overlap_seconds: float = 0.0


@dataclass(kw_only=True, frozen=True, slots=True)
class CutOptions:
    """How to cut a recording.

    Attributes:
        max_clip_seconds: Longest clip.
        speech_probability: A frame at or above it starts speech.
        silence_probability: A frame below it ends speech.
        pad_seconds: Silence that a clip keeps before and after its speech.
        skip_seconds: Silence of this length ends a clip.
        short_clip_seconds: A clip shorter than this continues across silence ...
        bridge_seconds: ... unless the silence is this long.
        pause_seconds: Shortest pause in which a long clip is cut.
        near_seconds: Pauses within this distance of the maximum length are preferred; the longest of them is taken.
        overlap_seconds: Overlap of neighbouring clips where there is no pause.
    """

    max_clip_seconds: float = 30.0
    speech_probability: float = 0.5
    silence_probability: float = 0.35
    pad_seconds: float = 0.25
    skip_seconds: float = 1.5
    short_clip_seconds: float = 5.0
    bridge_seconds: float = 4.0
    pause_seconds: float = 0.25
    near_seconds: float = 12.0
    overlap_seconds: float = 1.5

    def __post_init__(self) -> None:
        if self.max_clip_seconds < 2 * max(self.short_clip_seconds, 2 * self.overlap_seconds):
            raise ValueError("max_clip_seconds must be at least 2 x short_clip_seconds and 4 x overlap_seconds")


@dataclass(slots=True)
class _Clip:
    """The open clip: where it starts, and where its speech ends so far."""

    start: int
    speech_end: int
    overlap: int = 0


class Cutter:
    """Turns a stream of frames into cuts, which do not depend on how the frames are grouped into pushes."""

    def __init__(self, options: CutOptions | None = None) -> None:
        self._options = options = options or CutOptions()
        self._max_samples = round(options.max_clip_seconds * SAMPLE_RATE)
        self._max_frames = self._max_samples // FRAME_SAMPLES
        self._pad = _frames(options.pad_seconds)
        self._overlap = _frames(options.overlap_seconds)
        self._pause = max(2, _frames(options.pause_seconds))
        self._speaking = False
        self._speech_frames = 0
        # What may still decide a cut of the open clip: flags and loudness of the frames from `_base` on.
        self._base = 0
        self._flags: list[bool] = []
        self._loudness: list[float] = []
        self._clip: _Clip | None = None
        self._run = 0  # consecutive frames of speech
        self._position = 0  # the next frame to examine
        self._floor = 0  # where the last clip ended
        self._cuts: list[Cut] = []
        self._count = 0

    @property
    def speech_seconds(self) -> float:
        """Duration of the speech so far."""
        return self._speech_frames * FRAME_SECONDS

    @property
    def needed_from_seconds(self) -> float:
        """No later cut starts before this."""
        return self._needed_from() * FRAME_SECONDS

    def push(self, frames: FrameActivity) -> list[Cut]:
        """The cuts that became final with these frames."""
        options = self._options
        for speech, loudness in zip(frames.speech_F.tolist(), frames.loudness_F.tolist(), strict=True):
            self._speaking = speech >= (options.silence_probability if self._speaking else options.speech_probability)
            self._speech_frames += self._speaking
            self._flags.append(self._speaking)
            self._loudness.append(loudness)
            self._advance()
        self._forget()
        return self._take_cuts()

    def finish(self, seconds: float) -> list[Cut]:
        """The last cuts, given the duration of the recording."""
        total = round(seconds * SAMPLE_RATE)
        while self._clip is not None:
            end = min((self._clip.speech_end + self._pad) * FRAME_SAMPLES, total)
            if end - self._clip.start * FRAME_SAMPLES <= self._max_samples:
                self._close(self._clip, end / SAMPLE_RATE)
            else:
                self._split(self._clip)
                self._advance()
        return self._take_cuts()

    def _advance(self) -> None:
        """Examines frames up to the last one."""
        while self._position < self._base + len(self._flags):
            frame = self._position
            self._position += 1
            self._run = self._run + 1 if self._flags[frame - self._base] else 0
            if self._clip is None:
                if self._run >= _MIN_SPEECH_FRAMES:
                    self._clip = _Clip(max(self._floor, frame + 1 - self._run - self._pad), frame + 1)
                continue
            if self._run >= _MIN_SPEECH_FRAMES:
                self._clip.speech_end = frame + 1
            elif frame + 1 - self._clip.speech_end >= self._patience(self._clip):
                self._close(self._clip, (self._clip.speech_end + self._pad) * FRAME_SECONDS)
                continue
            # One frame too many may still be the recording's last, incomplete one: `finish` decides.
            if frame + 1 - self._clip.start > self._max_frames + 1:
                self._split(self._clip)

    def _patience(self, clip: _Clip) -> int:
        """Frames of silence after which a clip ends."""
        short = clip.speech_end - clip.start < _frames(self._options.short_clip_seconds)
        return _frames(
            max(self._options.bridge_seconds, self._options.skip_seconds) if short else self._options.skip_seconds
        )

    def _split(self, clip: _Clip) -> None:
        """Ends a clip that is too long, and examines what follows it again."""
        pause = self._best_pause(clip)
        if pause is not None:
            begin, end = pause
            cut = begin + min(self._pad, (end - begin) // 2, clip.start + self._max_frames - begin)
            self._close(clip, cut * FRAME_SECONDS)
            self._floor = self._position = cut
            self._run = 0
            return
        middle = self._quietest(clip)
        end = middle + self._overlap - self._overlap // 2
        start = middle - self._overlap // 2
        self._emit(clip, end * FRAME_SECONDS)
        self._floor = end
        self._clip = _Clip(start, start, overlap=end - start)
        self._position, self._run = start, _MIN_SPEECH_FRAMES

    def _best_pause(self, clip: _Clip) -> tuple[int, int] | None:
        """The longest pause close to the maximum length, else of all that leave no short clip; of equals the later."""
        earliest = clip.start + _frames(self._options.short_clip_seconds)
        late = clip.start + self._max_frames - _frames(self._options.near_seconds)
        pauses = [pause for pause in self._pauses(clip) if pause[0] >= earliest]
        chosen = [pause for pause in pauses if pause[0] >= late] or pauses
        return max(chosen, key=lambda pause: (pause[1] - pause[0], pause[0]), default=None)

    def _pauses(self, clip: _Clip) -> list[tuple[int, int]]:
        """Start and end of every pause that starts where the clip may end."""
        first = clip.start - self._base
        silent = ~np.array(self._flags[first:])
        edges = np.flatnonzero(np.diff(np.concatenate([[False], silent, [False]])))
        runs = zip((edges[::2] + clip.start).tolist(), (edges[1::2] + clip.start).tolist(), strict=True)
        return [(a, b) for a, b in runs if b - a >= self._pause and a < clip.start + self._max_frames]

    def _quietest(self, clip: _Clip) -> int:
        """The quietest frame in the last part of the clip that leaves room for the overlap."""
        last = clip.start + self._max_frames - self._overlap
        first = max(clip.start + self._max_frames // 2, last - _frames(self._options.near_seconds))
        margin = _SMOOTHED // 2
        around = np.array(self._loudness[first - margin - self._base : last + margin + 1 - self._base])
        smooth = np.convolve(around, np.ones(_SMOOTHED), "valid")
        return first + int(smooth.argmin())

    def _close(self, clip: _Clip, end_seconds: float) -> None:
        if clip.speech_end > self._floor:  # else all its speech is also in the clip before
            self._emit(clip, end_seconds)
        self._floor = max(self._floor, clip.speech_end)
        self._clip = None

    def _emit(self, clip: _Clip, end_seconds: float) -> None:
        self._cuts.append(Cut(self._count, clip.start * FRAME_SECONDS, end_seconds, clip.overlap * FRAME_SECONDS))
        self._count += 1

    def _needed_from(self) -> int:
        if self._clip is not None:
            return self._clip.start
        return max(self._floor, self._position - self._run - self._pad)

    def _forget(self) -> None:
        unneeded = max(0, self._needed_from() - self._base)
        del self._flags[:unneeded], self._loudness[:unneeded]
        self._base += unneeded

    def _take_cuts(self) -> list[Cut]:
        cuts, self._cuts = self._cuts, []
        return cuts


def _frames(seconds: float) -> int:
    return round(seconds / FRAME_SECONDS)
