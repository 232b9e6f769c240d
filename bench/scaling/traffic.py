"""A day of traffic: questions over an office day, and long recordings that arrive in bursts."""

import math
from dataclasses import dataclass

import numpy as np

DAY_SECONDS = 86_400.0
# Share of the busiest minute's rate, by hour of the day, interpolated linearly.
_HOURS = (0.03, 0.02, 0.02, 0.02, 0.02, 0.03, 0.07, 0.20, 0.60, 0.90, 1.00, 0.95,
          0.60, 0.75, 0.95, 0.95, 0.80, 0.50, 0.25, 0.15, 0.12, 0.10, 0.06, 0.04)  # fmt: skip
# Sudden peaks, such as at the end of a large meeting: hour, minutes, factor on the usual rate.
_PEAKS = ((9.0, 15.0, 2.0), (11.5, 10.0, 1.5), (14.0, 15.0, 2.0), (20.5, 15.0, 2.0))
# Bursts of recordings: hour and number; others arrive one by one.
_BURSTS = ((10.1, 6), (12.2, 8), (15.1, 6), (17.2, 10))
_SINGLE_RECORDINGS = 24


@dataclass(frozen=True, slots=True)
class Speeds:
    """Processing times of one pod in seconds, measured with the preset and on the machine named in the report.

    Attributes:
        encode_factor: Time to encode a second of a spoken question.
        transcribe_factor: Time to encode and transcribe a second of a long recording.
        picture_seconds: Time to encode a picture.
        answer_seconds: Mean time of an answer; times are log-normally distributed.
        answer_spread: Standard deviation of the logarithm of that time.
        voice_streams: Answers that a synthesizer can speak at the same time, as fast as they are generated.
    """

    encode_factor: float = 0.05
    transcribe_factor: float = 0.06
    picture_seconds: float = 0.06
    answer_seconds: float = 3.5
    answer_spread: float = 0.6
    voice_streams: int = 4


@dataclass(frozen=True, slots=True)
class Question:
    """One request; absent parts are 0."""

    at: float
    audio_seconds: float
    pictures: int
    answer_seconds: float
    spoken: bool


@dataclass(frozen=True, slots=True)
class Recording:
    """A job."""

    at: float
    audio_seconds: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """Questions and recordings in order of time; `seconds` is the duration."""

    seconds: float
    questions: tuple[Question, ...]
    recordings: tuple[Recording, ...]


def rate_at(seconds: float) -> float:
    """Share of the busiest usual minute's rate, including peaks."""
    hour = seconds / 3600 % 24
    usual = float(np.interp(hour, np.arange(25), (*_HOURS, _HOURS[0])))
    return usual * max((times for at, minutes, times in _PEAKS if at <= hour < at + minutes / 60), default=1.0)


def day(
    *, peak_per_second: float, speeds: Speeds, seed: int = 0, begin: float = 0.0, end: float = DAY_SECONDS
) -> Traffic:
    """The traffic from `begin` to `end`, in seconds of the day, with times relative to `begin`.

    Args:
        peak_per_second: Questions per second in the busiest usual minute.
        speeds: For the length of answers.
        seed: The same seed gives the same day.
        begin: First second.
        end: Last second.
    """
    draw = np.random.default_rng(seed)
    questions = []
    for minute in np.arange(begin, end, 60.0):
        count = draw.poisson(60.0 * peak_per_second * rate_at(float(minute)))
        questions += [_question(draw, float(at) - begin, speeds) for at in np.sort(minute + 60.0 * draw.random(count))]
    at = [3600 * (hour + 0.1 * draw.random()) for hour, count in _BURSTS for _ in range(count)]
    at += [3600 * (8 + 10 * draw.random()) for _ in range(_SINGLE_RECORDINGS)]
    lengths = draw.uniform(900, 7200, len(at))
    recordings = sorted((moment - begin, float(seconds)) for moment, seconds in zip(at, lengths, strict=True))
    inside = tuple(Recording(moment, seconds) for moment, seconds in recordings if 0 <= moment < end - begin)
    return Traffic(end - begin, tuple(questions), inside)


def _question(draw: np.random.Generator, at: float, speeds: Speeds) -> Question:
    spoken = draw.random() < 0.8
    mean = math.log(speeds.answer_seconds) - speeds.answer_spread**2 / 2
    return Question(
        at=at,
        audio_seconds=float(draw.gamma(4.0, 1.5)) if spoken else 0.0,
        pictures=int(draw.random() < 0.25),
        answer_seconds=float(draw.lognormal(mean, speeds.answer_spread)),
        spoken=spoken,
    )
