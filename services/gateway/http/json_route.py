"""Routes with JSON bodies: read with bounded cost, parsed and validated off the event loop if they are large."""

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request, Response, params
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

from services.gateway.http.api_errors import ApiError
from services.gateway.http.json_reader import JsonReader
from services.gateway.settings import GatewaySettings

T = TypeVar("T")

# Parsing holds the GIL anyway, and each body holds memory.
_CONCURRENCY = 1
_SMALL_BYTES = 32 * 2**10
_limiters: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, CapacityLimiter] = weakref.WeakKeyDictionary()


class JsonRoute(APIRoute):
    """A route whose JSON body, if it has one, is read by `read_json`; FastAPI gets the validated model."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle, field = super().get_route_handler(), self.body_field
        if field is None or isinstance(field.field_info, params.Form):
            return handle
        annotation: Any = field.field_info.annotation
        schema: TypeAdapter[Any] = TypeAdapter(annotation)

        async def handle_validated(request: Request) -> Response:
            return await handle(_ValidatedRequest(request, await read_json(request, schema)))

        return handle_validated


class _ValidatedRequest(Request):
    """A request whose body has been read; `json()` returns the validated model."""

    def __init__(self, request: Request, value: Any) -> None:
        super().__init__(request.scope, request.receive, request._send)
        self._value = value

    async def body(self) -> bytes:
        return b"{}"  # FastAPI only checks that it is not empty

    async def json(self) -> Any:
        return self._value


async def read_json(request: Request, schema: TypeAdapter[T], *, any_type: bool = False) -> T:
    """Reads and validates the body of a request; with `any_type`, whatever its Content-Type.

    Raises:
        ApiError: As JsonReader; also 400 if the body is not sent as JSON in UTF-8.
        RequestValidationError: The JSON does not fit the schema.
    """
    if not any_type:
        _check_type(request.headers.get("content-type", ""))
    settings: GatewaySettings = request.app.state.settings
    reader = JsonReader(settings.max_json_bytes)
    async for piece in request.stream():
        reader.feed(piece)
    if not reader.size:
        raise _not_an_object()
    return await run_off_loop(lambda: _validated(reader.parse(), schema, settings), reader.size)


async def run_off_loop(work: Callable[[], T], size: int) -> T:
    """Runs work on `size` bytes: small work at once, large work in a thread, one after the other."""
    if size < _SMALL_BYTES:
        return work()
    loop = asyncio.get_running_loop()
    limiter = _limiters.setdefault(loop, CapacityLimiter(_CONCURRENCY))
    return await to_thread.run_sync(work, limiter=limiter)


def parse_field(text: str, schema: TypeAdapter[T], settings: GatewaySettings) -> T:
    """Like `read_json`, for the text of a form field."""
    reader = JsonReader(settings.max_json_bytes)
    reader.feed(text.encode())
    return _validated(reader.parse(), schema, settings)


def _validated(value: Any, schema: TypeAdapter[T], settings: GatewaySettings) -> T:
    try:
        return schema.validate_python(value, context=settings)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in found], body=value) from None


def _check_type(header: str) -> None:
    message = Message()
    message["content-type"] = header
    main, sub = message.get_content_maintype(), message.get_content_subtype()
    if not header or main != "application" or not (sub == "json" or sub.endswith("+json")):
        raise _not_an_object()
    charset = str(message.get_param("charset", "utf-8")).lower()
    if charset not in ("utf-8", "utf8"):
        raise ApiError(
            400, f"Content-Type: the charset {charset[:60]!r} is not supported; send UTF-8.", param="charset"
        )


def _not_an_object() -> ApiError:
    return ApiError(400, "The body has to be a JSON object, sent as application/json.", code="invalid_json")
