"""Error responses in OpenAI's schema: they name the field and the limit, and reveal no internals."""

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException

from services.gateway.http.error_response import ErrorBody, ErrorDetail
from services.shared.service_errors import (
    DeadlineExceeded,
    Failed,
    InvalidInput,
    NotFound,
    Overloaded,
    ServiceError,
    Unavailable,
)
from services.shared.storage.store_errors import StoreFull
from services.shared.telemetry import get_logger

log = get_logger(__name__)

_MAX_MESSAGE = 500
_FULL_RETRY_SECONDS = 10.0  # once space has been freed, it is used within this time
# Prefixes that pydantic puts before a field's own path.
_LOCATIONS = ("body", "query", "path", "header", "cookie")


class ApiError(HTTPException):
    """An error response: status, and OpenAI's message, type, param and code."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        headers = {}
        if retry_after_seconds is not None:
            headers["Retry-After"] = str(max(1, math.ceil(retry_after_seconds)))
        if status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(int(status), message, headers or None)
        self.param = param
        self.code = code

    @property
    def body(self) -> dict[str, Any]:
        detail = ErrorDetail(
            message=self.detail[:_MAX_MESSAGE], type=_type(self.status_code), param=self.param, code=self.code
        )
        return ErrorBody(error=detail).model_dump()

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status_code, self.headers)


def bad_request(param: str, message: str, code: str = "invalid_value") -> ApiError:
    """400 for an invalid value of `param`."""
    return ApiError(HTTPStatus.BAD_REQUEST, f"{param}: {message}", param=param, code=code)


def to_api_error(error: Exception) -> ApiError:
    """The response to an error of the pipeline or the stores."""
    match error:
        case ApiError():
            return error
        case InvalidInput():
            return bad_request(error.field, error.message)
        case Overloaded():
            retry = error.retry_after_seconds
            return ApiError(429, error.message, code="overloaded", retry_after_seconds=retry)
        case StoreFull():
            text = "The object store is full: nothing can be stored at the moment. Existing data can still be read."
            return ApiError(507, text, code="store_full", retry_after_seconds=_FULL_RETRY_SECONDS)
        case Unavailable():
            message = f"The {error.service.replace('_', ' ')} is not available at the moment. Please try again."
            retry = error.retry_after_seconds
            return ApiError(503, message, code="service_unavailable", retry_after_seconds=retry)
        case NotFound():
            return ApiError(404, error.message, code="not_found")
        case DeadlineExceeded():
            return ApiError(504, "The request took longer than its limit.", code="timeout")
        case _:
            return ApiError(500, "Internal error. See the server's log for details.", code="internal_error")


def install_handlers(app: FastAPI) -> None:
    """Turns every error that a route can raise into a response in OpenAI's schema."""

    async def on_known(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, Failed):
            log.error("a service failed", reason=str(error))
        return to_api_error(error).response()

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, ApiError):
            return error.response()
        assert isinstance(error, HTTPException)
        response = ApiError(error.status_code, _http_message(request, error)).response()
        response.headers.update(error.headers or {})
        return response

    async def on_invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return validation_error(error.errors(), error.body).response()

    app.add_exception_handler(ServiceError, on_known)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(Exception, on_known)


def validation_error(errors: Sequence[ErrorDetails | Any], body: Any) -> ApiError:
    """400 for one of pydantic's errors: if all alternatives of a union failed, that of the one that got furthest."""
    error = max(errors, key=lambda each: (len(each["loc"]), not each["type"].endswith("_type")))
    if error["type"] == "json_invalid":
        return ApiError(400, "The body is not valid JSON.", code="invalid_json")
    path = field_path(error["loc"], body, missing=error["type"] == "missing")
    if not path:
        return ApiError(400, "The body has to be a JSON object, sent as application/json.", code="invalid_json")
    if error["type"] == "union_tag_invalid":
        path = f"{path}.{str(error['ctx']['discriminator']).strip(chr(39))}"
    code = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}.get(
        error["type"], "invalid_value"
    )
    return bad_request(path, _validation_message(error), code)


def field_path(location: Sequence[str | int], body: Any, *, missing: bool = False) -> str:
    """`("body", "messages", 0, "text", "text")` -> `messages[0].text`.

    Pydantic's location includes the names of the union alternatives it tried. Steps that are not keys of the body are
    left out, except for the last one if that is the missing field.
    """
    path = ""
    steps = location[1:] if location and location[0] in _LOCATIONS else location
    tag = _tag(body)
    for number, step in enumerate(steps):
        if isinstance(step, int) and isinstance(body, list):
            path, body = f"{path}[{step}]", body[step] if step < len(body) else None
        elif isinstance(body, Mapping) and step == tag:
            tag = None  # the alternative selected by the value's type or role
            continue
        elif isinstance(body, Mapping) and (step in body or (missing and number == len(steps) - 1)):
            path, body = f"{path}.{step}" if path else str(step), body.get(step)
        else:
            continue
        tag = _tag(body)
    return path


def _tag(value: Any) -> Any:
    return value.get("type", value.get("role")) if isinstance(value, Mapping) else None


def _validation_message(error: Any) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "is not a known parameter"
        case "none_required":
            return "is not supported"
        case "union_tag_invalid":
            return f"{str(context['tag'])[:60]!r} is not one of {context['expected_tags']}"
        case "union_tag_not_found":
            return f"needs a {str(context['discriminator']).strip(chr(39))}"
        case "value_error":
            return str(context["error"])
        case _:
            message = str(error["msg"])
            return message[:1].lower() + message[1:]


def _http_message(request: Request, error: HTTPException) -> str:
    if error.status_code == HTTPStatus.NOT_FOUND:
        return f"There is no {request.method} {request.url.path[:200]}."
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return f"{request.method} is not allowed on {request.url.path[:200]}."
    return str(error.detail)


def _type(status: int) -> str:
    match status:
        case 403:
            return "permission_error"
        case 429:
            return "rate_limit_error"
        case _ if status >= 500:
            return "server_error"
        case _:
            return "invalid_request_error"
