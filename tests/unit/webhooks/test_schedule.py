"""When a callback is retried, as a pure function of its attempts."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.shared.webhooks.records import Attempt, Delivery, Ended, Outcome
from services.shared.webhooks.schedule import Schedule, next_attempt, parse_retry_after
from services.shared.webhooks.settings import WebhookSettings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DELIVERY = Delivery(id="msg_1", tenant="acme", url="https://x.example", secret_id="whk_1", body="{}", asked=NOW)
SCHEDULE = WebhookSettings().schedule()


def tried(status: int | None = None, error: str = "", number: int = 1, **more: object) -> Attempt:
    return Attempt.model_validate({"number": number, "started": NOW, "status": status, "error": error, **more})


def after(*tries: Attempt, schedule: Schedule = SCHEDULE) -> datetime | Ended:
    return next_attempt(DELIVERY, tries, schedule)


def seconds_after(*tries: Attempt) -> float:
    at = after(*tries)
    assert isinstance(at, datetime)
    return (at - NOW).total_seconds()


def all_tries(failure: Attempt) -> tuple[list[Attempt], Ended]:
    """Every attempt of a callback whose attempts all end as `failure`, and how it ends."""
    tries: list[Attempt] = []
    at: datetime | Ended = NOW
    while isinstance(at, datetime):
        tries.append(failure.model_copy(update={"number": len(tries) + 1, "started": at}))
        at = after(*tries)
    return tries, at


def test_the_first_try_is_due_at_once() -> None:
    assert after() == NOW


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_2xx_is_a_delivery(status: int) -> None:
    assert after(tried(status)) == Ended(outcome=Outcome.DELIVERED)


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422, 451])
def test_a_4xx_stops_retries_and_is_named(status: int) -> None:
    ended = after(tried(status))
    assert isinstance(ended, Ended)
    assert ended.outcome is Outcome.STOPPED
    assert str(status) in ended.reason


@pytest.mark.parametrize("status", [301, 302, 307, 308, 408, 429, 500, 502, 503, 504, 599])
def test_transient_failures_are_retried(status: int) -> None:
    assert 4.5 <= seconds_after(tried(status)) <= 5.5


def test_a_missing_response_is_retried_and_a_forbidden_url_is_not() -> None:
    assert isinstance(after(tried(error="no answer within 10 s")), datetime)
    stopped = after(tried(error="the host has an address that is not public", permanent=True))
    assert stopped == Ended(outcome=Outcome.STOPPED, reason="the host has an address that is not public")


def test_success_counts_even_if_a_later_attempt_is_on_record() -> None:
    assert after(tried(204), tried(500, number=2)) == Ended(outcome=Outcome.DELIVERED)


def test_delays_grow_over_nearly_a_day_and_then_end() -> None:
    tries, ended = all_tries(tried(500))
    starts = [each.started for each in tries]
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    assert gaps == sorted(gaps)
    assert timedelta(hours=19) < starts[-1] - NOW <= timedelta(hours=24)
    assert len(tries) == 11
    assert ended.outcome is Outcome.GIVEN_UP
    assert "11 attempts" in ended.reason
    assert "500" in ended.reason


def test_retry_after_delays_the_next_attempt() -> None:
    assert seconds_after(tried(429, retry_after_seconds=90)) == 90
    assert seconds_after(tried(503, retry_after_seconds=0)) >= 4.5


def test_retry_after_is_limited_by_the_setting_and_the_window() -> None:
    assert seconds_after(tried(503, retry_after_seconds=10**9)) == SCHEDULE.max_retry_after
    tries, ended = all_tries(tried(503, retry_after_seconds=10**9))
    assert len(tries) == 5  # every six hours
    assert ended.outcome is Outcome.GIVEN_UP


def test_the_delay_starts_after_the_response() -> None:
    assert seconds_after(tried(500, seconds=10)) - seconds_after(tried(500)) == pytest.approx(10)


def test_an_attempt_without_an_outcome_counts_as_failed_after_a_while() -> None:
    assert seconds_after(tried()) == SCHEDULE.lost_after


@given(st.text(min_size=1), st.integers(1, 11))
def test_jitter_stays_within_a_tenth_and_is_the_same_for_every_worker(name: str, number: int) -> None:
    delivery = DELIVERY.model_copy(update={"id": name})
    schedule = Schedule(delays=(100.0,) * 11, window=1e6, max_retry_after=0, lost_after=0)
    tries = [tried(500, number=each + 1) for each in range(number)]
    at = next_attempt(delivery, tries, schedule)
    assert isinstance(at, datetime)
    assert 90 <= (at - NOW).total_seconds() <= 110
    assert next_attempt(delivery, tries, schedule) == at


def test_callbacks_that_failed_together_are_retried_at_different_times() -> None:
    deliveries = [DELIVERY.model_copy(update={"id": f"msg_{number}"}) for number in range(50)]
    assert len({next_attempt(delivery, [tried(500)], SCHEDULE) for delivery in deliveries}) == 50


@pytest.mark.parametrize(
    ("status", "header", "seconds"),
    [
        (429, "120", 120.0),
        (503, "0", 0.0),
        (503, "Thu, 01 Jan 2026 00:01:00 GMT", 60.0),
        (503, "Wed, 31 Dec 2025 23:00:00 GMT", 0.0),
        (429, "9" * 400, float("9" * 10)),
        (500, "120", None),
        (429, "", None),
        (429, "soon", None),
        (429, "-5", None),
        (429, "1.5", None),
        (429, "²", None),
        (429, "Thu, 01 Jan 2026 00:01:00 -0000", None),
        (429, "Thu, 01 Jan 99999 00:01:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(status: int, header: str, seconds: float | None) -> None:
    assert parse_retry_after(status, header, NOW) == seconds


@given(st.text())
def test_any_retry_after_header_is_harmless(header: str) -> None:
    seconds = parse_retry_after(503, header, NOW)
    assert seconds is None or seconds >= 0
