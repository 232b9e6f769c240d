"""A recording to clips in one pass: decoded, heard, cut, each clip handed out as soon as it is certain.

Shapes: S samples at 16 kHz.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model_core.audio.cuts import Cut, CutOptions, Cutter
from model_core.audio.decoding import SAMPLE_RATE, Mono, open_sound
from model_core.audio.opening import Source
from model_core.audio.voice_activity import VoiceActivity

_BYTES_A_SAMPLE = 2
_FULL_SCALE = 32_768


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """What was found in a recording.

    Attributes:
        seconds: Its length.
        speech_seconds: How long somebody speaks.
        skipped_seconds: Silence that no clip holds.
        clips: How many clips there are; 0 where nobody speaks.
        truncated: The file ends before its sound does; what is there was used.
    """

    seconds: float
    speech_seconds: float
    skipped_seconds: float
    clips: int
    truncated: bool


class Blocks(Protocol):
    """A recording in blocks of [S] float32 at 16 kHz, as `open_sound` gives it; `truncated` is asked for at its end."""

    @property
    def seconds(self) -> float: ...

    @property
    def truncated(self) -> bool: ...

    def __iter__(self) -> Iterator[Mono]: ...


class PlannedClips:
    """To be iterated once: each clip's place and its [S] int16 samples at 16 kHz. Then `summary` is there."""

    def __init__(self, sound: AbstractContextManager[Blocks], options: CutOptions | None) -> None:
        self._sound = sound
        self._activity = VoiceActivity()
        self._cutter = Cutter(options)
        self._kept = _Kept()
        self._summary: PlanSummary | None = None
        self._clips = 0
        self._covered_seconds = self._reached_seconds = 0.0

    @property
    def summary(self) -> PlanSummary:
        """What was found.

        Raises:
            RuntimeError: not all clips have been taken yet.
        """
        if self._summary is None:
            raise RuntimeError("the summary is known once all clips have been taken")
        return self._summary

    def __iter__(self) -> Iterator[tuple[Cut, NDArray[np.int16]]]:
        with self._sound as sound:
            for block_S in sound:
                self._kept.add(block_S)
                yield from self._clips_of(self._cutter.push(self._activity.push(block_S)))
                self._kept.forget_before(self._cutter.needed_from_seconds)
            rest = self._cutter.push(self._activity.finish()) + self._cutter.finish(sound.seconds)
            yield from self._clips_of(rest)
            self._summary = PlanSummary(
                seconds=sound.seconds,
                speech_seconds=min(self._cutter.speech_seconds, sound.seconds),
                skipped_seconds=max(0.0, sound.seconds - self._covered_seconds),
                clips=self._clips,
                truncated=sound.truncated,
            )

    def _clips_of(self, cuts: list[Cut]) -> Iterator[tuple[Cut, NDArray[np.int16]]]:
        for cut in cuts:
            self._clips += 1
            self._covered_seconds += cut.end_seconds - max(cut.start_seconds, self._reached_seconds)
            self._reached_seconds = cut.end_seconds
            yield cut, self._kept.between(cut.start_seconds, cut.end_seconds)


def plan_clips(
    source: Source, *, max_seconds: float, field: str = "media", options: CutOptions | None = None
) -> PlannedClips:
    """Cuts a recording into clips of at most 30 s, in one pass, with memory that does not depend on its length.

    The same bytes give the same clips, always. Two hours of mp3 take about half a minute on one core.

    Args:
        source: As for `open_sound`.
        max_seconds: Longest recording that is accepted.
        field: What errors call the value.
        options: How it is cut.

    Raises:
        InvalidInput: as `open_sound`, at once; too long, too short or damaged, while iterating: clips that were
            handed out before are then part of nothing.
    """
    return plan_sound(open_sound(source, max_seconds=max_seconds, field=field), options)


def plan_sound(sound: AbstractContextManager[Blocks], options: CutOptions | None = None) -> PlannedClips:
    """As `plan_clips`, of a recording that somebody else decodes, wherever; raises what reading it does."""
    return PlannedClips(sound, options)


class _Kept:
    """The samples that clips to come may need, 16 bits each."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._first = 0  # the sample that `_bytes` begins with

    def add(self, block_S: Mono) -> None:
        scaled_S = np.clip(np.rint(block_S * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1)
        self._bytes += scaled_S.astype("<i2").tobytes()

    def forget_before(self, seconds: float) -> None:
        unneeded = round(seconds * SAMPLE_RATE) - self._first
        if unneeded > 0:
            del self._bytes[: unneeded * _BYTES_A_SAMPLE]
            self._first += unneeded

    def between(self, start_seconds: float, end_seconds: float) -> NDArray[np.int16]:
        start, end = (round(at * SAMPLE_RATE) - self._first for at in (start_seconds, end_seconds))
        return np.frombuffer(self._bytes[start * _BYTES_A_SAMPLE : end * _BYTES_A_SAMPLE], "<i2")
