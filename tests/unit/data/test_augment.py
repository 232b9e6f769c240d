"""Synthetic rooms, microphones, noise and loudness."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_core.data.augment import COLOURS, NOISE_DB, augment, in_room, with_noise


def voice(seconds: float = 0.5) -> np.ndarray:
    """A tone of 200 Hz and its overtones, which rises and falls three times a second."""
    time = np.arange(int(seconds * 16_000)) / 16_000
    tones = sum(np.sin(2 * np.pi * 200 * overtone * time) / overtone for overtone in range(1, 9))
    return (0.3 * tones * np.sin(2 * np.pi * 3 * time) ** 2).astype(np.float32)


def test_augmentation_depends_on_the_seed() -> None:
    first, again, other = (augment(voice(), random.Random(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@given(st.integers(0, 2**32), st.integers(0, 4000), st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=40)
def test_augmented_audio_keeps_its_length_and_range(
    seed: int, length: int, noise: bool, room: bool, loudness: bool
) -> None:
    heard = augment(voice()[:length], random.Random(seed), noise=noise, room=room, loudness=loudness)
    assert heard.shape == (length,)
    assert heard.dtype == np.float32
    assert np.isfinite(heard).all()
    assert np.abs(heard).max(initial=0) <= 1


def test_with_everything_off_only_loudness_changes() -> None:
    sound = voice()
    louder = augment(sound, random.Random(0), noise=False, room=False)
    np.testing.assert_allclose(louder / np.abs(louder).max(), sound / np.abs(sound).max(), atol=1e-6)
    np.testing.assert_allclose(
        augment(sound, random.Random(0), noise=False, room=False, loudness=False), sound, atol=1e-6
    )


@pytest.mark.parametrize("seed", range(8))
def test_noise_has_the_requested_signal_to_noise_ratio(seed: int) -> None:
    sound = voice()
    added = with_noise(sound, random.Random(seed)) - sound
    below = 10 * np.log10(np.mean(sound.astype(float) ** 2) / np.mean(added.astype(float) ** 2))
    assert NOISE_DB[0] - 0.1 <= below <= NOISE_DB[1] + 0.1


@pytest.mark.parametrize(("colour", "low_to_high_db"), [("white", 0), ("pink", 18), ("brown", 36)])
def test_coloured_noise_falls_with_frequency(colour: str, low_to_high_db: float) -> None:
    made = COLOURS[colour](voice(4), random.Random(0))
    power = np.abs(np.fft.rfft(made)) ** 2
    hertz = np.fft.rfftfreq(len(made), 1 / 16_000)
    low, high = (power[(hertz > band) & (hertz < band * 1.4)].mean() for band in (80, 80 * 2**6))
    assert 10 * np.log10(low / high) == pytest.approx(low_to_high_db, abs=3)


def test_babble_noise_is_in_the_band_of_the_voice() -> None:
    made = COLOURS["crowd"](voice(2), random.Random(0))
    power = np.abs(np.fft.rfft(made)) ** 2
    hertz = np.fft.rfftfreq(len(made), 1 / 16_000)
    on, between = (power[np.abs(hertz - centre) < 5].mean() for centre in (400, 500))
    assert on > 100 * between


def test_a_room_reverberates_after_the_end_of_the_audio() -> None:
    click = np.zeros(8000, np.float32)
    click[0] = 1.0
    heard = in_room(click, random.Random(1))
    assert np.argmax(np.abs(heard)) < 4
    late, later = (float(np.sum(heard[start : start + 800] ** 2)) for start in (200, 4000))
    assert late > 10 * later
    assert late > 0
