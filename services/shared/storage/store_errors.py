"""What the object store raises, and what the errors of its client mean."""

from http import HTTPStatus

from minio.error import S3Error, ServerError
from urllib3 import BaseHTTPResponse

from services.shared.service_errors import Unavailable

RETRY_SECONDS = 5.0

MISSING_CODES = {"NoSuchKey", "NoSuchUpload", "ResourceNotFound", "PreconditionFailed"}
_REFUSED_PARTS = {"InvalidPart", "InvalidPartOrder", "EntityTooSmall"}
_FULL = {"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "QuotaExceeded"}
_PASSING = {"SlowDown", "RequestTimeout", "OperationAborted"}


class ObjectMissing(LookupError):
    """There is no such object, or no such upload in parts; the argument is its key."""


class PartsRefused(ValueError):
    """An upload cannot be finished with these parts: one is missing, too small or not what it was."""


class StoreUnavailable(Unavailable):
    """The object store cannot be reached, does not answer in time, fails or refuses us, several tries later."""

    def __init__(self, message: str = "the object store cannot be reached") -> None:
        super().__init__("object_store", message, RETRY_SECONDS)

    def __reduce__(self) -> tuple[type["StoreUnavailable"], tuple[str]]:
        return type(self), (self.message,)  # worker processes hand errors on by pickle


class StoreFull(StoreUnavailable):
    """The object store has no room left; what is there can still be read."""

    def __init__(self, message: str = "the object store is full") -> None:
        super().__init__(message)


def raise_for(response: BaseHTTPResponse) -> BaseHTTPResponse:
    """The response, where it says that all is well. Raises what minio's client would: S3Error, ServerError."""
    if response.status < HTTPStatus.BAD_REQUEST:
        return response
    if response.data.lstrip().startswith(b"<"):
        raise S3Error.fromxml(response)
    raise ServerError(f"status {response.status}", response.status)


def meaning(error: Exception, key: str) -> tuple[Exception, bool]:
    """What an error of the client is to our callers, and whether another try may go better."""
    match error:
        case S3Error(code=str(code)) if code in MISSING_CODES:
            return ObjectMissing(key), False
        case S3Error(code=str(code)) if code in _REFUSED_PARTS:
            return PartsRefused(f"the object store does not take these parts: {error.message or code}"), False
        case S3Error(code=str(code), response=response) if code in _FULL or response.status == 507:
            return StoreFull(), False
        case S3Error(code=str(code), response=response):
            if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR or code in _PASSING:
                return StoreUnavailable("the object store fails"), True
            return StoreUnavailable("the object store refuses the request"), False
        case ServerError(status_code=int(status)) if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return (ObjectMissing(key) if status == HTTPStatus.NOT_FOUND else StoreUnavailable()), False
        case ServerError(status_code=HTTPStatus.INSUFFICIENT_STORAGE):
            return StoreFull(), False
        case _:
            return StoreUnavailable(), True
