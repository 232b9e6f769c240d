"""When a callback is tried next: a pure function of what was tried, so every worker comes to the same answer.

2xx delivers. 408, 429, 5xx, redirects and no answer at all are tried again, after delays that grow over a day. Any
other 4xx stops: the receiver does not want it (410 says so outright) and will not want it later.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from services.shared.webhooks.records import Delivery, Ended, Outcome, Try

_JITTER = 0.1  # of a delay, more or less
_ASKS_FOR_TIME = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_WORTH_RETRYING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long to go on.

    Args:
        delays: Seconds between a failed try and the next, first to last; one try more than there are delays.
        window: Seconds from the first try within which the last one begins.
        longest_wait: Seconds of a receiver's Retry-After that are honoured.
        lost_after: Seconds after which a try that has not ended counts as failed.
    """

    delays: tuple[float, ...]
    window: float
    longest_wait: float
    lost_after: float


def next_try(delivery: Delivery, tries: Sequence[Try], schedule: Schedule) -> datetime | Ended:
    """When to try next (now, where that is in the past), or how the callback ended.

    Args:
        tries: In order. One that has begun and not ended has neither status nor error.
    """
    if not tries:
        return delivery.asked
    if any(is_success(each) for each in tries):
        return Ended(outcome=Outcome.DELIVERED)
    for each in tries:
        if _stops(each):
            return Ended(outcome=Outcome.STOPPED, reason=_in_words(each))
    if len(tries) > len(schedule.delays):
        return _given_up(tries)
    last, delay = tries[-1], schedule.delays[len(tries) - 1]
    at = last.started + timedelta(seconds=last.seconds + _wait(delivery, last, delay, schedule))
    if at > tries[0].started + timedelta(seconds=schedule.window):
        return _given_up(tries)
    return at


def is_success(tried: Try) -> bool:
    """Whether the receiver took it."""
    return tried.status is not None and 200 <= tried.status < 300


def retry_after(status: int, header: str, now: datetime) -> float | None:
    """Seconds that a receiver asks for (RFC 9110, 10.2.3: seconds or a date); None where it does not."""
    if status not in _ASKS_FOR_TIME or not header:
        return None
    if header.isascii() and header.isdigit():
        return float(header[:10])
    try:
        return max(0.0, (parsedate_to_datetime(header) - now).total_seconds())
    except (ValueError, TypeError, OverflowError):  # no date, or one without a zone
        return None


def _stops(tried: Try) -> bool:
    refused = tried.status is not None and 400 <= tried.status < 500 and tried.status not in _WORTH_RETRYING
    return tried.permanent or refused


def _wait(delivery: Delivery, last: Try, delay: float, schedule: Schedule) -> float:
    """Seconds from the end of the try `last` to the next one, where `delay` is due."""
    delay *= 1 + _JITTER * _spread(f"{delivery.id} {last.number}")
    if last.retry_after_seconds is not None:
        delay = max(delay, min(last.retry_after_seconds, schedule.longest_wait))
    if last.status is None and not last.error:
        delay = max(delay, schedule.lost_after)
    return delay


def _spread(text: str) -> float:
    """A number from -1 to 1 that is `text`'s own: callbacks of the same moment come back at different times."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 2**31 - 1


def _given_up(tries: Sequence[Try]) -> Ended:
    return Ended(outcome=Outcome.GIVEN_UP, reason=f"{len(tries)} tries failed, the last: {_in_words(tries[-1])}")


def _in_words(tried: Try) -> str:
    if tried.error:
        return tried.error
    if tried.status is None:
        return "the sender stopped midway"
    redirect = ", and redirects are not followed" if 300 <= tried.status < 400 else ""
    return f"the receiver answered {tried.status}{redirect}"
