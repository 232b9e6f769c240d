"""Errors survive the wire."""

import grpc
import pytest
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from services.shared import service_errors as errors
from services.shared.service_errors import DETAILS_METADATA, ServiceError, from_rpc_error, to_status


class Failure:
    """A failed call as reported by grpc.aio."""

    def __init__(self, code: grpc.StatusCode, details: str, metadata: tuple[tuple[str, bytes], ...] = ()) -> None:
        self._code, self._details, self._metadata = code, details, metadata

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata(*self._metadata)


def _through_the_wire(error: ServiceError) -> ServiceError:
    status = Status.FromString(to_status(error).SerializeToString())
    failure = Failure(error.code, status.message, ((DETAILS_METADATA, status.SerializeToString()),))
    return from_rpc_error("language_model", failure)


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidInput("max_tokens", "5000 is over the limit of 2048"),
        errors.Overloaded("the queue is full", 7.5),
        errors.Unavailable("language_model", "is loading its weights", 2.0),
        errors.NotFound("no such voice"),
        errors.DeadlineExceeded("over the limit of 600 s"),
    ],
)
def test_an_error_survives_the_wire(error: ServiceError) -> None:
    received = _through_the_wire(error)
    assert type(received) is type(error)
    assert vars(received) == vars(error)


@given(st.text(), st.text(max_size=1500))
def test_any_field_and_message_fit_into_the_metadata(field: str, message: str) -> None:
    received = _through_the_wire(errors.InvalidInput(field, message))
    assert isinstance(received, errors.InvalidInput)
    assert len(received.message) <= 1000
    assert message.startswith(received.message[:-1])


@given(st.floats(0, 1e6))
def test_retry_delay_survives_to_the_microsecond(seconds: float) -> None:
    received = _through_the_wire(errors.Overloaded("full", seconds))
    assert isinstance(received, errors.Overloaded)
    assert received.retry_after_seconds == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, "connection refused", errors.Unavailable),
        (grpc.StatusCode.CANCELLED, "server went away", errors.Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", errors.DeadlineExceeded),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)", errors.InvalidInput),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "memory", errors.Overloaded),
        (grpc.StatusCode.INTERNAL, "boom", errors.Failed),
        (grpc.StatusCode.UNKNOWN, "", errors.Failed),
    ],
)
def test_statuses_from_grpc_itself_are_mapped(
    code: grpc.StatusCode, details: str, expected: type[ServiceError]
) -> None:
    assert type(from_rpc_error("language_model", Failure(code, details))) is expected


def test_damaged_details_do_not_hide_the_error() -> None:
    failure = Failure(grpc.StatusCode.INVALID_ARGUMENT, "wrong", ((DETAILS_METADATA, b"\xff\xff"),))
    received = from_rpc_error("language_model", failure)
    assert isinstance(received, errors.InvalidInput)
    assert received.message == "wrong"
