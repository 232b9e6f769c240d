"""What stands between a reader and a recording: a room, a microphone, noise, loudness. Made of numbers alone.

Shapes: S samples, F frequencies (S // 2 + 1). Sound is float32 in -1 to 1 at 16 kHz. The same samples and the
same state of `rng` give the same result.
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
# How much louder the direct sound is than all that a room adds.
DIRECT_DB = (0.0, 18.0)
# Slope of a microphone over the spectrum, for each octave away from 1 kHz.
TILT_DB = (-2.5, 2.5)
_ROOM_SHARE, _NOISE_SHARE = 0.5, 0.7
_EARLY_SECONDS = (0.003, 0.04)
_MOST_EARLY = 6
_LEAST_HERTZ = 50.0
_QUIET = 1e-4


def disturb(
    samples: Samples, rng: random.Random, *, noise: bool = True, room: bool = True, loudness: bool = True
) -> Samples:
    """[S] -> [S] of another recording of the same reading.

    Args:
        samples: What was read.
        rng: Decides on everything, also on whether there is a room (half of the time) and noise (seven of ten times).
        noise: Adds noise of some colour, NOISE_DB below the voice.
        room: Lets a room answer, and a microphone colour what it hears.
        loudness: Sets the loudest sample to LOUDNESS_DB of full scale; else it is left where it was.
    """
    if not len(samples):
        return samples
    peak = float(np.abs(samples).max())
    heard = samples
    if room and rng.random() < _ROOM_SHARE:
        heard = in_room(heard, rng)
    if noise and rng.random() < _NOISE_SHARE:
        heard = with_noise(heard, rng)
    wanted = 10 ** (rng.uniform(*LOUDNESS_DB) / 20) if loudness else peak
    loud = heard * (wanted / max(float(np.abs(heard).max()), _QUIET))
    return np.asarray(np.clip(loud, -1.0, 1.0), np.float32)


def in_room(samples: Samples, rng: random.Random) -> Samples:
    """[S] -> [S]: early reflections, a tail of noise that falls by 60 dB in the reverberation time, a tilt."""
    generator = _generator(rng)
    seconds = rng.uniform(*REVERBERATION_SECONDS)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    echo = generator.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    # Walls swallow high tones first.
    echo = np.convolve(echo, np.full(rng.randint(2, 6), 0.3), "same")
    for _ in range(rng.randrange(_MOST_EARLY)):
        echo[int(rng.uniform(*_EARLY_SECONDS) * SAMPLE_RATE)] += rng.uniform(-6, 6)
    echo *= 10 ** (-rng.uniform(*DIRECT_DB) / 20) / max(float(np.sqrt(np.sum(echo**2))), _QUIET)
    echo[0] += 1.0
    length = _fast(len(samples) + len(echo))
    tilt = _octaves(length) * (rng.uniform(*TILT_DB) / 20)
    spectrum = np.fft.rfft(samples, length) * np.fft.rfft(echo, length) * 10**tilt
    return np.fft.irfft(spectrum, length)[: len(samples)].astype(np.float32)


def with_noise(samples: Samples, rng: random.Random) -> Samples:
    """[S] -> [S] with noise of a colour of COLOURS added, NOISE_DB below the voice."""
    made = COLOURS[rng.choice(sorted(COLOURS))](samples, rng)
    level = np.sqrt(np.mean(samples.astype(np.float64) ** 2)) * 10 ** (-rng.uniform(*NOISE_DB) / 20)
    return np.asarray(samples + made * (level / max(float(np.sqrt(np.mean(made**2))), _QUIET)), np.float32)


def _white(samples: Samples, rng: random.Random) -> NDArray[np.float64]:
    return _generator(rng).standard_normal(len(samples))


def _pink(samples: Samples, rng: random.Random) -> NDArray[np.float64]:
    """3 dB less for each octave, as of rain."""
    return _shaped(samples, rng, lambda length: 10 ** (-3 / 20 * _octaves(length)))


def _brown(samples: Samples, rng: random.Random) -> NDArray[np.float64]:
    """6 dB less for each octave, as of traffic far away."""
    return _shaped(samples, rng, lambda length: 10 ** (-6 / 20 * _octaves(length)))


def _hum(samples: Samples, rng: random.Random) -> NDArray[np.float64]:
    """The mains and its overtones, in a little noise."""
    time = np.arange(len(samples)) / SAMPLE_RATE
    base = rng.choice((50.0, 60.0))
    tones = sum(np.sin(2 * np.pi * (base * overtone * time + rng.random())) / overtone for overtone in range(1, 8))
    return np.asarray(tones) + 0.2 * _pink(samples, rng)


def _crowd(samples: Samples, rng: random.Random) -> NDArray[np.float64]:
    """As loud as the voice at each frequency, without its words: a room full of people."""
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
    return np.asarray(np.log2(np.maximum(hertz, _LEAST_HERTZ) / 1000), np.float64)


def _generator(rng: random.Random) -> np.random.Generator:
    return np.random.default_rng(rng.randrange(2**32))


def _fast(length: int) -> int:
    """The next power of two: transforms of primes are slow."""
    return 1 << max(length - 1, 1).bit_length()
