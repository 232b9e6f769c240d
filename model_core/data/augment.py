"""Audio augmentation: room reverberation, microphone colouration, noise and loudness, all synthetic.

Shapes: S samples, F frequencies (S // 2 + 1). Audio is float32 in -1 to 1 at 16 kHz. Equal samples and an equal state
of `rng` give equal results.
"""

import random
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from model_core.audio.tensors import SAMPLE_RATE

Samples = NDArray[np.float32]
Spectrum = NDArray[np.complex128]

NOISE_DB = (5.0, 40.0)
LOUDNESS_DB = (-18.0, 0.0)
REVERBERATION_SECONDS = (0.1, 0.7)
# Direct-to-reverberant ratio.
DIRECT_DB = (0.0, 18.0)
# Spectral tilt of the microphone, per octave away from 1 kHz.
TILT_DB = (-2.5, 2.5)
_ROOM_SHARE, _NOISE_SHARE = 0.5, 0.7
_EARLY_SECONDS = (0.003, 0.04)
_MAX_REFLECTIONS = 6
_MIN_HERTZ = 50.0
_QUIET = 1e-4


def augment(
    samples: Samples, rng: random.Random, *, noise: bool = True, room: bool = True, loudness: bool = True
) -> Samples:
    """[S] -> [S], the same speech recorded under other conditions.

    Args:
        samples: Clean speech.
        rng: Source of all randomness, including whether there is reverberation (half of the time) and noise (70 %).
        noise: Add noise, NOISE_DB below the speech.
        room: Add reverberation and a spectral tilt.
        loudness: Set the peak to LOUDNESS_DB of full scale; otherwise the peak is unchanged.
    """
    if not len(samples):
        return samples
    peak = float(np.abs(samples).max())
    augmented = samples
    if room and rng.random() < _ROOM_SHARE:
        augmented = in_room(augmented, rng)
    if noise and rng.random() < _NOISE_SHARE:
        augmented = with_noise(augmented, rng)
    wanted = 10 ** (rng.uniform(*LOUDNESS_DB) / 20) if loudness else peak
    loud = augmented * (wanted / max(float(np.abs(augmented).max()), _QUIET))
    return np.asarray(np.clip(loud, -1.0, 1.0), np.float32)


def in_room(samples: Samples, rng: random.Random) -> Samples:
    """[S] -> [S]: early reflections, a noise tail that decays by 60 dB in the reverberation time, a spectral tilt."""
    generator = _generator(rng)
    seconds = rng.uniform(*REVERBERATION_SECONDS)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    echo = generator.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    # Walls absorb high frequencies more.
    echo = np.convolve(echo, np.full(rng.randint(2, 6), 0.3), "same")
    for _ in range(rng.randrange(_MAX_REFLECTIONS)):
        echo[int(rng.uniform(*_EARLY_SECONDS) * SAMPLE_RATE)] += rng.uniform(-6, 6)
    echo *= 10 ** (-rng.uniform(*DIRECT_DB) / 20) / max(float(np.sqrt(np.sum(echo**2))), _QUIET)
    echo[0] += 1.0
    length = _fast(len(samples) + len(echo))
    tilt = _octaves(length) * (rng.uniform(*TILT_DB) / 20)
    spectrum = np.fft.rfft(samples, length) * np.fft.rfft(echo, length) * 10**tilt
    return np.fft.irfft(spectrum, length)[: len(samples)].astype(np.float32)


def with_noise(samples: Samples, rng: random.Random) -> Samples:
    """[S] -> [S] with noise of one of COLOURS added, NOISE_DB below the speech."""
    made = COLOURS[rng.choice(sorted(COLOURS))](samples, rng)
    level = np.sqrt(np.mean(samples.astype(np.float64) ** 2)) * 10 ** (-rng.uniform(*NOISE_DB) / 20)
    return np.asarray(samples + made * (level / max(float(np.sqrt(np.mean(made**2))), _QUIET)), np.float32)


def _white(samples: Samples, rng: random.Random) -> NDArray[np.float64]:
    return _generator(rng).standard_normal(len(samples))


def _pink(samples: Samples, rng: random.Random) -> NDArray[np.float64]:
    """-3 dB per octave, like rain."""
    return _shaped(samples, rng, lambda length: 10 ** (-3 / 20 * _octaves(length)))


def _brown(samples: Samples, rng: random.Random) -> NDArray[np.float64]:
    """-6 dB per octave, like distant traffic."""
    return _shaped(samples, rng, lambda length: 10 ** (-6 / 20 * _octaves(length)))


def _hum(samples: Samples, rng: random.Random) -> NDArray[np.float64]:
    """Mains hum with harmonics and a little noise."""
    time = np.arange(len(samples)) / SAMPLE_RATE
    base = rng.choice((50.0, 60.0))
    tones = sum(np.sin(2 * np.pi * (base * overtone * time + rng.random())) / overtone for overtone in range(1, 8))
    return np.asarray(tones) + 0.2 * _pink(samples, rng)


def _crowd(samples: Samples, rng: random.Random) -> NDArray[np.float64]:
    """Noise with the spectrum of the speech itself: babble."""
    return _shaped(samples, rng, lambda length: np.abs(np.fft.rfft(samples, length)))


COLOURS: dict[str, Callable[[Samples, random.Random], NDArray[np.float64]]] = {
    "white": _white,
    "pink": _pink,
    "brown": _brown,
    "hum": _hum,
    "crowd": _crowd,
}


def _shaped(samples: Samples, rng: random.Random, gain: Callable[[int], NDArray[np.float64]]) -> NDArray[np.float64]:
    """White noise [S], multiplied by a gain [F] at each frequency."""
    length = _fast(len(samples))
    spectrum: Spectrum = np.fft.rfft(_generator(rng).standard_normal(length))
    return np.fft.irfft(spectrum * gain(length), length)[: len(samples)]


def _octaves(length: int) -> NDArray[np.float64]:
    """[F] octaves above 1 kHz, for a transform of `length` samples."""
    hertz = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    return np.asarray(np.log2(np.maximum(hertz, _MIN_HERTZ) / 1000), np.float64)


def _generator(rng: random.Random) -> np.random.Generator:
    return np.random.default_rng(rng.randrange(2**32))


def _fast(length: int) -> int:
    """The next power of two, since FFTs of prime lengths are slow."""
    return 1 << max(length - 1, 1).bit_length()
