"""Speech is distinguished from silence and noise, streamed or at once, and without torch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_core.audio.decoding import SAMPLE_RATE, Mono
from model_core.audio.frames import FRAME_SAMPLES
from model_core.audio.voice_activity import VoiceActivity
from tests.unit.audio.recordings import sentences, silence


def listen(samples_S: Mono, sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and loudness of samples that arrive in blocks of these sizes."""
    activity = VoiceActivity()
    parts = []
    for size in [*sizes, len(samples_S)]:
        parts.append(activity.push(samples_S[:size]))
        samples_S = samples_S[size:]
    parts.append(activity.finish())
    return np.concatenate([part.speech_F for part in parts]), np.concatenate([part.loudness_F for part in parts])


def talk() -> Mono:
    return np.concatenate([sentences()[0], silence(1), sentences()[1]])


@settings(max_examples=10)
@given(st.lists(st.integers(0, 3 * SAMPLE_RATE), max_size=8))
def test_blocks_of_any_size_give_bit_identical_results(sizes: list[int]) -> None:
    for one, other in zip(listen(talk(), sizes), listen(talk(), []), strict=True):
        assert np.array_equal(one, other)


def test_there_is_a_frame_for_every_started_32_ms() -> None:
    for count in (0, 1, 512, 513, 128 * 512, 128 * 512 + 1):
        assert len(listen(np.zeros(count, np.float32), [])[0]) == -(-count // FRAME_SAMPLES)


def test_speech_is_detected_and_silence_noise_and_tones_are_not() -> None:
    times = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    noise = 0.05 * np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE)
    for nothing in (np.zeros(3 * SAMPLE_RATE), silence(3), noise, 0.3 * np.sin(2 * np.pi * 440 * times)):
        assert (listen(nothing.astype(np.float32), [])[0] >= 0.5).mean() < 0.05
    for sentence in sentences():
        assert (listen(sentence, [])[0] >= 0.5).mean() > 0.4


def test_loudness_is_the_rms_of_a_frame() -> None:
    loudness = listen(np.concatenate([np.full(512, 0.5), np.zeros(512)]).astype(np.float32), [])[1]
    assert loudness == pytest.approx([0.5, 0.0])
