"""The errors of the platform, and how they cross the wire: gRPC status codes with `google.rpc` details.

Servicers raise these, the error interceptor sends `to_status(error)`, `from_rpc_error` gives the client the same error.
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
_MAX_MESSAGE = 1000  # characters; trailing metadata has to stay within the 8 KiB that peers accept


class ServiceError(Exception):
    """Base of what a service tells its caller. `message` is meant for people and safe to show."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidInput(ServiceError):
    """A value of the request is not acceptable: `field` names it, `message` says what is wrong and the limit."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class Unparsable(InvalidInput):
    """Bytes that are no message of the method's type."""


class Overloaded(ServiceError):
    """The queue is full. The request may come again after `retry_after_seconds`."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, message: str, retry_after_seconds: float = DEFAULT_RETRY_SECONDS) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(ServiceError):
    """`service` is down, still loading, or shutting down; another attempt may succeed."""

    code = grpc.StatusCode.UNAVAILABLE

    def __init__(self, service: str, message: str, retry_after_seconds: float = DEFAULT_RETRY_SECONDS) -> None:
        super().__init__(message)
        self.service = service
        self.retry_after_seconds = retry_after_seconds


class NotFound(ServiceError):
    """What the request names does not exist."""

    code = grpc.StatusCode.NOT_FOUND


class DeadlineExceeded(ServiceError):
    """The work took longer than the caller, or the service's own limit, allows."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Failed(ServiceError):
    """Something broke inside a service; its log says what."""


class Unauthenticated(Failed):
    """The caller showed no valid token. A mistake of whoever set the platform up, and none of the user's."""

    code = grpc.StatusCode.UNAUTHENTICATED


class Forbidden(Failed):
    """The caller is known, and this is not for it."""

    code = grpc.StatusCode.PERMISSION_DENIED


@dataclass(slots=True)
class _Details:
    """What the status of a failed call carries; `ours` where a service sent it, and not gRPC itself."""

    ours: bool = False
    violation: BadRequest.FieldViolation | None = None
    retry_seconds: float | None = None


class RpcFailure(Protocol):
    """What `from_rpc_error` reads of `grpc.aio.AioRpcError`."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Any: ...


def to_status(error: ServiceError) -> Status:
    """The status to send for `error`, with its details packed (BadRequest, RetryInfo)."""
    message = error.message if len(error.message) <= _MAX_MESSAGE else error.message[: _MAX_MESSAGE - 1] + "…"
    status = Status(code=error.code.value[0], message=message)
    if isinstance(error, InvalidInput):
        violation = BadRequest.FieldViolation(field=error.field[:_MAX_MESSAGE], description=message)
        status.details.add().Pack(BadRequest(field_violations=[violation]))
    elif isinstance(error, Overloaded | Unavailable):
        status.details.add().Pack(RetryInfo(retry_delay=_duration(error.retry_after_seconds)))
    return status


def from_rpc_error(service: str, error: RpcFailure) -> ServiceError:
    """The error that `service` meant when a call to it failed with `error`.

    Statuses that gRPC itself made (connection refused, deadline, message over the limit) carry no details and are told
    by their code alone.
    """
    code, message, details = error.code(), error.details() or "", _read_details(error)
    name = service.replace("_", " ")
    retry = DEFAULT_RETRY_SECONDS if details.retry_seconds is None else details.retry_seconds
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.OUT_OF_RANGE:
            return InvalidInput(details.violation.field if details.violation else "request", message)
        case grpc.StatusCode.RESOURCE_EXHAUSTED if not details.ours and "larger than max" in message:
            return InvalidInput("request", f"the {name} does not take a message this large: {message}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Overloaded(message, retry)
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED | grpc.StatusCode.ABORTED:
            # A service that is stopped in the middle of a call ends it as cancelled.
            return Unavailable(service, message if details.ours else f"the {name} cannot be reached", retry)
        case grpc.StatusCode.NOT_FOUND:
            return NotFound(message)
        case grpc.StatusCode.UNAUTHENTICATED:
            return Unauthenticated(f"the {name} refused the call: {message}")
        case grpc.StatusCode.PERMISSION_DENIED:
            return Forbidden(f"the {name} refused the call: {message}")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(message if details.ours else f"the {name} did not answer in time")
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
        details.ours = True
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
