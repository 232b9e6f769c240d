"""Clips are at most 30 s, contain all speech, are cut in pauses, and do not depend on how the audio was chunked."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.audio.cuts import Cut, CutOptions, Cutter
from model_core.audio.frames import FRAME_SECONDS, FrameActivity

# Stretches of speech or silence, in frames.
STRETCHES = st.lists(st.tuples(st.booleans(), st.integers(1, 1_200)), max_size=12)
RANDOM = st.lists(st.floats(0, 1, width=32), max_size=80).flatmap(
    lambda probabilities: st.integers(1, 40).map(lambda times: np.repeat(np.array(probabilities, np.float32), times))
)


def frames_of(speech_F: np.ndarray, loudness_F: np.ndarray | None = None) -> FrameActivity:
    """Frames with varying loudness."""
    loudness = 0.1 + 0.05 * np.sin(np.arange(len(speech_F))) if loudness_F is None else loudness_F
    return FrameActivity(speech_F.astype(np.float32), loudness.astype(np.float32))


def spoken(*stretches: tuple[bool, float]) -> np.ndarray:
    """Speech probabilities of stretches of (speaking, seconds)."""
    parts = [np.full(round(seconds / FRAME_SECONDS), 0.95 if speaking else 0.02) for speaking, seconds in stretches]
    return np.concatenate(parts)


def cut(frames: FrameActivity, sizes: list[int] | None = None, seconds: float | None = None) -> list[Cut]:
    """The cuts of a recording whose frames arrive in groups of these sizes."""
    cutter = Cutter()
    cuts: list[Cut] = []
    at = 0
    for size in [*(sizes or []), len(frames.speech_F)]:
        part = FrameActivity(frames.speech_F[at : at + size], frames.loudness_F[at : at + size])
        at += size
        needed_from = cutter.needed_from_seconds
        new = cutter.push(part)
        assert all(one.start_seconds >= needed_from for one in new)
        cuts += new
    needed_from = cutter.needed_from_seconds
    last = cutter.finish(len(frames.speech_F) * FRAME_SECONDS if seconds is None else seconds)
    assert all(one.start_seconds >= needed_from for one in last)
    return cuts + last


def check(cuts: list[Cut], seconds: float) -> None:
    """Invariants of every recording."""
    assert [one.index for one in cuts] == list(range(len(cuts)))
    for one in cuts:
        assert 0 <= one.start_seconds < one.end_seconds <= seconds + 1e-9
        assert one.end_seconds - one.start_seconds <= 30 + 1e-9
    for one, other in pairwise(cuts):
        assert other.start_seconds > one.start_seconds
        assert other.end_seconds > one.end_seconds
        shared = one.end_seconds - other.start_seconds
        assert other.overlap_seconds == pytest.approx(max(shared, 0), abs=1e-6)
    assert not cuts or cuts[0].overlap_seconds == 0


@given(STRETCHES.map(lambda stretches: np.concatenate([np.zeros(0), *(np.full(n, 0.9 * on) for on, n in stretches)])))
def test_every_stretch_of_speech_is_in_a_clip(speech_F: np.ndarray) -> None:
    cuts = cut(frames_of(speech_F))
    check(cuts, len(speech_F) * FRAME_SECONDS)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], speech_F > 0.5, [0]]).astype(int)))
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        if end - begin >= 3:
            for frame in range(begin, end):
                at = (frame + 0.5) * FRAME_SECONDS
                assert any(one.start_seconds <= at <= one.end_seconds for one in cuts)


@given(RANDOM, st.lists(st.integers(1, 700), max_size=20))
def test_cuts_do_not_depend_on_how_frames_are_grouped(speech_F: np.ndarray, sizes: list[int]) -> None:
    whole = cut(frames_of(speech_F))
    check(whole, len(speech_F) * FRAME_SECONDS)
    assert cut(frames_of(speech_F), sizes) == whole


def test_silence_makes_no_clip() -> None:
    assert cut(frames_of(spoken((False, 100)))) == []


def test_exactly_thirty_seconds_of_speech_make_one_clip() -> None:
    assert cut(frames_of(np.ones(938)), seconds=30.0) == [Cut(0, 0.0, 30.0)]


def test_a_clip_keeps_a_little_silence_around_its_speech() -> None:
    (one,) = cut(frames_of(spoken((False, 10), (True, 8), (False, 10))))
    assert one.start_seconds == pytest.approx(10 - 0.25, abs=0.04)
    assert one.end_seconds == pytest.approx(18 + 0.25, abs=0.04)


def test_a_click_is_not_speech() -> None:
    assert cut(frames_of(spoken((False, 5), (True, 0.064), (False, 5)))) == []


def test_skipped_silence_still_counts_towards_timestamps() -> None:
    cuts = cut(frames_of(spoken((True, 10), (False, 60), (True, 10))))
    assert [round(one.start_seconds) for one in cuts] == [0, 70]
    assert [round(one.end_seconds) for one in cuts] == [10, 80]


def test_short_remarks_share_a_clip_across_a_pause() -> None:
    cuts = cut(frames_of(spoken((True, 1), (False, 3), (True, 1), (False, 3), (True, 1))))
    assert len(cuts) == 2  # the first two are 5 s long together


def test_long_speech_is_cut_at_the_longest_late_pause() -> None:
    talk = spoken((True, 10), (False, 1), (True, 9), (False, 0.8), (True, 5), (False, 0.4), (True, 10))
    first, second = cut(frames_of(talk))
    assert first.end_seconds == pytest.approx(20 + 0.25, abs=0.05)
    assert second.start_seconds == pytest.approx(20.8 - 0.25, abs=0.05)
    assert second.overlap_seconds == 0


def test_an_early_pause_is_used_if_there_is_no_late_one() -> None:
    first, second = cut(frames_of(spoken((True, 8), (False, 0.5), (True, 28))))
    assert first.end_seconds == second.start_seconds == pytest.approx(8.25, abs=0.05)


def test_speech_without_pauses_is_cut_with_an_overlap_at_its_quietest_point() -> None:
    speech = np.ones(1_500)
    loudness = np.full(1_500, 0.2)
    loudness[800:806] = 0.01
    first, second = cut(frames_of(speech, loudness))
    quiet = 803 * FRAME_SECONDS
    assert first.end_seconds == pytest.approx(quiet + 0.75, abs=0.1)
    assert second.start_seconds == pytest.approx(quiet - 0.75, abs=0.1)
    assert second.overlap_seconds == pytest.approx(1.5, abs=0.05)


def test_clips_of_ten_hours_of_short_remarks_fit_four_digits() -> None:
    remark = spoken((True, 0.1), (False, 4.0))
    cuts = cut(frames_of(np.tile(remark, 100)))
    assert len(cuts) / (100 * len(remark) * FRAME_SECONDS) * 36_000 < 10_000


def test_options_that_make_no_progress_are_refused() -> None:
    with pytest.raises(ValueError, match="max_clip_seconds"):
        CutOptions(max_clip_seconds=5)
