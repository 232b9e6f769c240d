"""Errors of the platform and their wire format: gRPC status codes with `google.rpc` details.

Servicers raise these errors, the error interceptor sends them with `to_status`, and clients get them back from
`from_rpc_error`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status

DETAILS_METADATA = "grpc-status-details-bin"
DEFAULT_RETRY_SECONDS = 1.0
_MAX_MESSAGE = 1000  # characters; peers accept 8 KiB of trailing metadata


class ServiceError(Exception):
    """Base class of errors that services return to their callers. `message` is safe to show to users."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidInput(ServiceError):
    """A field of the request is invalid: `field` is its name, `message` describes the problem and the limit."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class Unparsable(InvalidInput):
    """A message cannot be parsed."""


class Overloaded(ServiceError):
    """The queue is full. The request may be retried after `retry_after_seconds`."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, message: str, retry_after_seconds: float = DEFAULT_RETRY_SECONDS) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(ServiceError):
    """`service` is down, still loading, or shutting down; a retry may succeed."""

    code = grpc.StatusCode.UNAVAILABLE

    def __init__(self, service: str, message: str, retry_after_seconds: float = DEFAULT_RETRY_SECONDS) -> None:
        super().__init__(message)
        self.service = service
        self.retry_after_seconds = retry_after_seconds


class NotFound(ServiceError):
    """The requested object does not exist."""

    code = grpc.StatusCode.NOT_FOUND


class DeadlineExceeded(ServiceError):
    """The deadline of the caller or of the service was exceeded."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Failed(ServiceError):
    """An internal error of a service; see its log."""


class Unauthenticated(Failed):
    """The calling service sent no valid token. An error in the configuration of the platform, not of the user."""

    code = grpc.StatusCode.UNAUTHENTICATED


class Forbidden(Failed):
    """The caller is authenticated but not authorized."""

    code = grpc.StatusCode.PERMISSION_DENIED


@dataclass(slots=True)
class _Details:
    """Details of a status; `from_service` if a service sent it rather than gRPC itself."""

    from_service: bool = False
    violation: BadRequest.FieldViolation | None = None
    retry_seconds: float | None = None


class RpcFailure(Protocol):
    """The part of `grpc.aio.AioRpcError` that `from_rpc_error` uses."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Any: ...


def to_status(error: ServiceError) -> Status:
    """The status of an error, including its details (BadRequest, RetryInfo)."""
    message = error.message if len(error.message) <= _MAX_MESSAGE else error.message[: _MAX_MESSAGE - 1] + "…"
    status = Status(code=error.code.value[0], message=message)
    if isinstance(error, InvalidInput):
        violation = BadRequest.FieldViolation(field=error.field[:_MAX_MESSAGE], description=message)
        status.details.add().Pack(BadRequest(field_violations=[violation]))
    elif isinstance(error, Overloaded | Unavailable):
        status.details.add().Pack(RetryInfo(retry_delay=_duration(error.retry_after_seconds)))
    return status


def from_rpc_error(service: str, error: RpcFailure) -> ServiceError:
    """The error that a service raised, from the gRPC error that its client received.

    Statuses from gRPC itself (connection refused, deadline, message too large) have no details, only a code.
    """
    code, message, details = error.code(), error.details() or "", _read_details(error)
    name = service.replace("_", " ")
    retry = DEFAULT_RETRY_SECONDS if details.retry_seconds is None else details.retry_seconds
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.OUT_OF_RANGE:
            return InvalidInput(details.violation.field if details.violation else "request", message)
        case grpc.StatusCode.RESOURCE_EXHAUSTED if not details.from_service and "larger than max" in message:
            return InvalidInput("request", f"the message is too large for the {name}: {message}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Overloaded(message, retry)
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED | grpc.StatusCode.ABORTED:
            # A service that stops during a call ends it with CANCELLED.
            return Unavailable(service, message if details.from_service else f"the {name} cannot be reached", retry)
        case grpc.StatusCode.NOT_FOUND:
            return NotFound(message)
        case grpc.StatusCode.UNAUTHENTICATED:
            return Unauthenticated(f"the {name} rejected the call: {message}")
        case grpc.StatusCode.PERMISSION_DENIED:
            return Forbidden(f"the {name} rejected the call: {message}")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(message if details.from_service else f"the {name} did not respond in time")
        case _:
            return Failed(f"the {name} failed: {message or code.name}")


def _read_details(error: RpcFailure) -> _Details:
    details = _Details()
    for key, value in error.trailing_metadata() or ():
        if key != DETAILS_METADATA or not isinstance(value, bytes):
            continue
        try:
            status = Status.FromString(value)
        except DecodeError:
            continue
        details.from_service = True
        for detail in status.details:
            bad_request, retry_info = BadRequest(), RetryInfo()
            if detail.Unpack(bad_request) and bad_request.field_violations:
                details.violation = bad_request.field_violations[0]
            elif detail.Unpack(retry_info):
                details.retry_seconds = retry_info.retry_delay.seconds + retry_info.retry_delay.nanos / 1e9
    return details


def _duration(seconds: float) -> Duration:
    whole, nanos = divmod(round(seconds * 1e9), 1_000_000_000)
    return Duration(seconds=whole, nanos=nanos)
