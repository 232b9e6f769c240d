"""Errors of the object store, translated from those of minio's client."""

from http import HTTPStatus

from minio.error import S3Error, ServerError
from urllib3 import BaseHTTPResponse

from services.shared.service_errors import Unavailable

RETRY_SECONDS = 5.0

MISSING_CODES = {"NoSuchKey", "NoSuchUpload", "ResourceNotFound", "PreconditionFailed"}
_INVALID_PARTS_CODES = {"InvalidPart", "InvalidPartOrder", "EntityTooSmall"}
_FULL_CODES = {"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "QuotaExceeded"}
_TRANSIENT_CODES = {"SlowDown", "RequestTimeout", "OperationAborted"}


class ObjectMissing(LookupError):
    """There is no such object or multipart upload; the argument is its key."""


class InvalidParts(ValueError):
    """An upload cannot be finished with these parts: one is missing, too small or has changed."""


class StoreUnavailable(Unavailable):
    """The object store cannot be reached, timed out, failed or refused the request, after several attempts."""

    def __init__(self, message: str = "the object store cannot be reached") -> None:
        super().__init__("object_store", message, RETRY_SECONDS)

    def __reduce__(self) -> tuple[type["StoreUnavailable"], tuple[str]]:
        return type(self), (self.message,)  # worker processes pass errors on by pickle


class StoreFull(StoreUnavailable):
    """The object store has no space left; existing objects can still be read."""

    def __init__(self, message: str = "the object store is full") -> None:
        super().__init__(message)


def raise_for_status(response: BaseHTTPResponse) -> BaseHTTPResponse:
    """Returns a successful response. Otherwise raises what minio's client would: S3Error, ServerError."""
    if response.status < HTTPStatus.BAD_REQUEST:
        return response
    if response.data.lstrip().startswith(b"<"):
        raise S3Error.fromxml(response)
    raise ServerError(f"status {response.status}", response.status)


def translate(error: Exception, key: str) -> tuple[Exception, bool]:
    """The error to raise for one of minio's client, and whether a retry may succeed."""
    match error:
        case S3Error(code=str(code)) if code in MISSING_CODES:
            return ObjectMissing(key), False
        case S3Error(code=str(code)) if code in _INVALID_PARTS_CODES:
            return InvalidParts(f"the object store refused these parts: {error.message or code}"), False
        case S3Error(code=str(code), response=response) if code in _FULL_CODES or response.status == 507:
            return StoreFull(), False
        case S3Error(code=str(code), response=response):
            if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR or code in _TRANSIENT_CODES:
                return StoreUnavailable("the object store fails"), True
            return StoreUnavailable("the object store refuses the request"), False
        case ServerError(status_code=int(status)) if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return (ObjectMissing(key) if status == HTTPStatus.NOT_FOUND else StoreUnavailable()), False
        case ServerError(status_code=HTTPStatus.INSUFFICIENT_STORAGE):
            return StoreFull(), False
        case _:
            return StoreUnavailable(), True
