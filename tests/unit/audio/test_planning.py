"""A recording is split in one pass into clips that contain all speech at the right times."""

import io

import numpy as np
import pytest

from model_core.audio.cuts import Cut
from model_core.audio.decoding import SAMPLE_RATE, Mono
from model_core.audio.encoding import encode_flac, encode_wav
from model_core.audio.planning import PlanSummary, plan_clips
from model_core.errors import InvalidInput
from tests.unit.audio.recordings import encoded, read, sentences, silence, wav


def planned(data: bytes) -> tuple[list[Cut], list[np.ndarray], PlanSummary]:
    clips = plan_clips(data, max_seconds=600)
    pairs = list(clips)
    return [cut for cut, _ in pairs], [samples for _, samples in pairs], clips.summary


def lecture(pauses: list[float]) -> tuple[Mono, list[tuple[float, float]]]:
    """Sentences with these pauses before them, and where each starts and ends."""
    parts: list[Mono] = []
    places = []
    at = 0.0
    for number, pause in enumerate(pauses):
        sentence = sentences()[number % len(sentences())]
        parts += [silence(pause), sentence]
        start = at + len(parts[-2]) / SAMPLE_RATE
        at = start + len(sentence) / SAMPLE_RATE
        places.append((start, at))
    return np.concatenate([*parts, silence(3)]), places


def test_every_sentence_is_in_a_clip_at_the_right_time() -> None:
    samples, places = lecture([2, 8, 0.6, 0.6, 0.6, 5, 0.6, 20, 1])
    cuts, clips, summary = planned(wav(samples))
    for start, end in places:
        middle = (start + end) / 2
        assert any(cut.start_seconds < middle < cut.end_seconds for cut in cuts)
    sound = np.rint(read(wav(samples))[0] * 32_768).astype(np.int16)
    for cut, clip in zip(cuts, clips, strict=True):
        assert clip.dtype == np.int16
        assert np.array_equal(clip, sound[round(cut.start_seconds * SAMPLE_RATE) :][: len(clip)])
        assert len(clip) == round((cut.end_seconds - cut.start_seconds) * SAMPLE_RATE)
    assert summary.clips == len(cuts) > 2
    assert summary.seconds == len(samples) / SAMPLE_RATE
    covered = sum(cut.end_seconds - cut.start_seconds - cut.overlap_seconds for cut in cuts)
    assert summary.skipped_seconds == pytest.approx(summary.seconds - covered, abs=1e-6)
    assert summary.skipped_seconds > 25
    assert 0.3 * sum(end - start for start, end in places) < summary.speech_seconds < covered
    assert not summary.truncated


def test_the_same_file_gives_bit_identical_clips() -> None:
    data = encoded(lecture([1, 0.5, 4])[0][None], SAMPLE_RATE, "flac", "flac")
    one, other = planned(data), planned(data)
    assert one[0] == other[0]
    assert one[2] == other[2]
    assert [encode_flac(clip) for clip in one[1]] == [encode_flac(clip) for clip in other[1]]


def breathless(seconds: float) -> Mono:
    """Sentences without silence around them, one after the other."""
    spoken = []
    for sentence in sentences():
        loud = np.flatnonzero(np.convolve(np.abs(sentence), np.ones(800) / 800, "same") > 0.02)
        spoken.append(sentence[loud[0] : loud[-1]])
    return np.resize(np.concatenate(spoken), int(seconds * SAMPLE_RATE))


def test_speech_without_a_pause_is_cut_into_overlapping_clips() -> None:
    cuts, clips, summary = planned(wav(breathless(40)))
    assert [cut.overlap_seconds > 1.4 for cut in cuts] == [False, True]
    assert all(len(clip) <= 30 * SAMPLE_RATE for clip in clips)
    shared = round(cuts[1].overlap_seconds * SAMPLE_RATE)
    assert np.array_equal(clips[0][-shared:], clips[1][:shared])
    assert summary.skipped_seconds < 1


def test_a_recording_without_speech_has_no_clips() -> None:
    cuts, _, summary = planned(wav(silence(20)))
    assert cuts == []
    assert summary == PlanSummary(seconds=20.0, speech_seconds=0.0, skipped_seconds=20.0, clips=0, truncated=False)


def test_speech_in_a_quiet_recording_is_found() -> None:
    samples, places = lecture([1, 5])
    cuts, _, _ = planned(encoded((0.02 * samples)[None], SAMPLE_RATE, "flac", "flac"))
    for start, end in places:
        assert any(cut.start_seconds < (start + end) / 2 < cut.end_seconds for cut in cuts)


def test_a_truncated_mp3_gives_its_clips_and_is_reported_as_truncated() -> None:
    samples, _ = lecture([1, 5, 5, 5])
    data = encoded(samples[None], SAMPLE_RATE, "mp3", "libmp3lame")
    cuts, _, summary = planned(data[: len(data) // 2])
    assert summary.truncated
    assert summary.seconds == pytest.approx(len(samples) / SAMPLE_RATE / 2, rel=0.1)
    assert cuts[:-1] == planned(data)[0][: len(cuts) - 1]
    assert len(cuts) == 2


def test_too_long_a_recording_is_refused_while_reading() -> None:
    clips = plan_clips(wav(silence(20)), max_seconds=10, field="media_id")
    with pytest.raises(InvalidInput, match="media_id: is over the limit of 10 s"):
        list(clips)
    with pytest.raises(RuntimeError, match="known only after reading all clips"):
        assert clips.summary


def test_a_file_without_audio_is_refused_at_once() -> None:
    with pytest.raises(InvalidInput, match="media: does not decode"):
        plan_clips(b"no sound" * 100, max_seconds=10)


def test_an_open_file_is_left_open() -> None:
    file = io.BytesIO(wav(silence(1)))
    assert list(plan_clips(file, max_seconds=10)) == []
    assert not file.closed


def test_flac_is_lossless_and_smaller() -> None:
    samples = np.rint(sentences()[0] * 20_000).astype(np.int16)
    data = encode_flac(samples)
    assert np.array_equal(np.rint(read(data)[0] * 32_768).astype(np.int16), samples)
    assert encode_flac(samples) == data
    assert len(data) < 0.8 * len(encode_wav(samples, SAMPLE_RATE))
