"""Audio that was taken in and waits for a model: how much, how much may, and how soon it will be worked through."""

import math

from services.shared import telemetry
from services.shared.service_errors import Overloaded

_SMOOTHING = 0.2  # weight of the latest batch in the mean time that a second of audio takes


class Backlog:
    """Counts seconds of audio, for the limit and for everybody to see.

    Args:
        max_seconds: Beyond, no more is taken in. A single recording is taken even when it alone is longer.
    """

    def __init__(self, max_seconds: float) -> None:
        self._max_seconds = max_seconds
        self._seconds = 0.0
        self._seconds_per_second = 0.05  # time the model takes for a second of audio; learned as it works

    @property
    def seconds(self) -> float:
        """Taken in and not worked through yet."""
        return self._seconds

    def has_room(self, seconds: float) -> bool:
        """Whether so many more may be taken in."""
        return self._seconds <= 0 or self._seconds + seconds <= self._max_seconds

    def count(self, seconds: float) -> None:
        """Adds what came in, or takes off (below zero) what is done."""
        before = self._seconds
        self._seconds = max(0.0, before + seconds)
        telemetry.AUDIO_SECONDS_WAITING.inc(self._seconds - before)

    def overloaded(self) -> Overloaded:
        """The error for a call that finds no room, with the time after which to come again."""
        return Overloaded(
            f"{self._seconds:.0f} s of audio are waiting, the limit is {self._max_seconds:g} s",
            float(max(1, math.ceil(self._seconds * self._seconds_per_second))),
        )

    def learn(self, seconds: float, audio_seconds: float) -> None:
        """Notes how long a batch took."""
        if audio_seconds > 0:
            self._seconds_per_second += _SMOOTHING * (seconds / audio_seconds - self._seconds_per_second)
