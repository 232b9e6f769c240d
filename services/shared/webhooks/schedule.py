"""When a callback is attempted next: a pure function of its attempts, so all workers agree.

2xx means delivered. 408, 429, 5xx, redirects and missing responses are retried, with delays that grow over a day. Any
other 4xx stops the callback: the receiver rejects it (explicitly with 410) and will do so later.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from services.shared.webhooks.records import Attempt, Delivery, Ended, Outcome

_JITTER = 0.1  # of a delay, more or less
_RETRY_AFTER_STATUSES = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_RETRIED_STATUSES = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Retry policy.

    Args:
        delays: Seconds between a failed attempt and the next; there is one attempt more than delays.
        window: Seconds after the first attempt within which all others start.
        max_retry_after: Maximum seconds of a receiver's Retry-After to honour.
        lost_after: Seconds after which an attempt without an outcome counts as failed.
    """

    delays: tuple[float, ...]
    window: float
    max_retry_after: float
    lost_after: float


def next_attempt(delivery: Delivery, attempts: Sequence[Attempt], schedule: Schedule) -> datetime | Ended:
    """When the next attempt is due (at once if that is in the past), or how the callback ended.

    Args:
        attempts: In order. One without an outcome has neither status nor error.
    """
    if not attempts:
        return delivery.asked
    if any(is_success(each) for each in attempts):
        return Ended(outcome=Outcome.DELIVERED)
    for each in attempts:
        if _stops(each):
            return Ended(outcome=Outcome.STOPPED, reason=_describe(each))
    if len(attempts) > len(schedule.delays):
        return _given_up(attempts)
    last, delay = attempts[-1], schedule.delays[len(attempts) - 1]
    at = last.started + timedelta(seconds=last.seconds + _wait(delivery, last, delay, schedule))
    if at > attempts[0].started + timedelta(seconds=schedule.window):
        return _given_up(attempts)
    return at


def is_success(attempt: Attempt) -> bool:
    """Whether the receiver accepted the callback."""
    return attempt.status is not None and 200 <= attempt.status < 300


def parse_retry_after(status: int, header: str, now: datetime) -> float | None:
    """Seconds requested by a Retry-After header (RFC 9110, 10.2.3: seconds or a date); None if there is none."""
    if status not in _RETRY_AFTER_STATUSES or not header:
        return None
    if header.isascii() and header.isdigit():
        return float(header[:10])
    try:
        return max(0.0, (parsedate_to_datetime(header) - now).total_seconds())
    except (ValueError, TypeError, OverflowError):  # not a date, or one without a time zone
        return None


def _stops(attempt: Attempt) -> bool:
    rejected = attempt.status is not None and 400 <= attempt.status < 500 and attempt.status not in _RETRIED_STATUSES
    return attempt.permanent or rejected


def _wait(delivery: Delivery, last: Attempt, delay: float, schedule: Schedule) -> float:
    """Seconds from the end of the attempt `last` to the next one, given the scheduled `delay`."""
    delay *= 1 + _JITTER * _jitter(f"{delivery.id} {last.number}")
    if last.retry_after_seconds is not None:
        delay = max(delay, min(last.retry_after_seconds, schedule.max_retry_after))
    if last.status is None and not last.error:
        delay = max(delay, schedule.lost_after)
    return delay


def _jitter(text: str) -> float:
    """A number from -1 to 1 derived from `text`, which spreads the retries of callbacks that failed together."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 2**31 - 1


def _given_up(attempts: Sequence[Attempt]) -> Ended:
    return Ended(
        outcome=Outcome.GIVEN_UP, reason=f"{len(attempts)} attempts failed, the last one: {_describe(attempts[-1])}"
    )


def _describe(attempt: Attempt) -> str:
    if attempt.error:
        return attempt.error
    if attempt.status is None:
        return "the sender was interrupted"
    redirect = ", and redirects are not followed" if 300 <= attempt.status < 400 else ""
    return f"the receiver answered {attempt.status}{redirect}"
