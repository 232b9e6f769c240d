"""Audio that has been accepted and waits for a model: its amount, its limit, and how long it will take."""

import math

from services.shared import telemetry
from services.shared.service_errors import Overloaded

_SMOOTHING = 0.2  # weight of the latest batch in the moving average


class Backlog:
    """Counts seconds of audio, for the limit and the metrics.

    Args:
        max_seconds: Limit of the audio waiting. A single recording is accepted even if it alone is longer.
    """

    def __init__(self, max_seconds: float) -> None:
        self._max_seconds = max_seconds
        self._seconds = 0.0
        self._seconds_per_second = 0.05  # time for a second of audio, a moving average

    @property
    def seconds(self) -> float:
        """Seconds of audio accepted and not processed yet."""
        return self._seconds

    def has_room(self, seconds: float) -> bool:
        """Whether this much more may be accepted."""
        return self._seconds <= 0 or self._seconds + seconds <= self._max_seconds

    def count(self, seconds: float) -> None:
        """Adds accepted audio, or subtracts (if negative) what is done."""
        before = self._seconds
        self._seconds = max(0.0, before + seconds)
        telemetry.AUDIO_SECONDS_WAITING.inc(self._seconds - before)

    def overloaded(self) -> Overloaded:
        """The error of a call over the limit, with the time after which to retry."""
        return Overloaded(
            f"{self._seconds:.0f} s of audio are waiting, the limit is {self._max_seconds:g} s",
            float(max(1, math.ceil(self._seconds * self._seconds_per_second))),
        )

    def learn(self, seconds: float, audio_seconds: float) -> None:
        """Updates the moving average with the time of a batch."""
        if audio_seconds > 0:
            self._seconds_per_second += _SMOOTHING * (seconds / audio_seconds - self._seconds_per_second)
