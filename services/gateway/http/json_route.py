"""Routes that take JSON: read with bounds, parsed and checked off the event loop where that takes time."""

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

# One at a time: Python parses in one thread at a time anyway, and each holds memory.
_AT_ONCE = 1
_SMALL_BYTES = 32 * 2**10
_limiters: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, CapacityLimiter] = weakref.WeakKeyDictionary()


class JsonRoute(APIRoute):
    """A route whose body, where it has one in JSON, is read by `read_json`. FastAPI finds it checked already."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle, field = super().get_route_handler(), self.body_field
        if field is None or isinstance(field.field_info, params.Form):
            return handle
        annotation: Any = field.field_info.annotation
        shape: TypeAdapter[Any] = TypeAdapter(annotation)

        async def handle_checked(request: Request) -> Response:
            return await handle(_CheckedRequest(request, await read_json(request, shape)))

        return handle_checked


class _CheckedRequest(Request):
    """A request whose body was read; its JSON is the model that was made of it."""

    def __init__(self, request: Request, value: Any) -> None:
        super().__init__(request.scope, request.receive, request._send)
        self._value = value

    async def body(self) -> bytes:
        return b"{}"  # there is one; nobody asks for more than that

    async def json(self) -> Any:
        return self._value


async def read_json(request: Request, shape: TypeAdapter[T], *, any_type: bool = False) -> T:
    """Reads the body of a request as `shape`; with `any_type`, whatever its Content-Type says.

    Raises:
        ApiError: As JsonReader; 400 too where the body is not sent as JSON in UTF-8.
        RequestValidationError: It is JSON, but not of that shape. Only the first error of a list is looked for.
    """
    if not any_type:
        _check_type(request.headers.get("content-type", ""))
    settings: GatewaySettings = request.app.state.settings
    reader = JsonReader(settings.max_json_bytes)
    async for piece in request.stream():
        reader.feed(piece)
    if not reader.taken:
        raise _no_object()
    return await aside(lambda: _checked(reader.parse(), shape, settings), reader.taken)


async def aside(work: Callable[[], T], size: int) -> T:
    """Does work on `size` bytes: in a thread, after all that came before, where that takes time worth mentioning."""
    if size < _SMALL_BYTES:
        return work()
    loop = asyncio.get_running_loop()
    limiter = _limiters.setdefault(loop, CapacityLimiter(_AT_ONCE))
    return await to_thread.run_sync(work, limiter=limiter)


def parse_field(text: str, shape: TypeAdapter[T], settings: GatewaySettings) -> T:
    """As `read_json`, of a text that is there already."""
    reader = JsonReader(settings.max_json_bytes)
    reader.feed(text.encode())
    return _checked(reader.parse(), shape, settings)


def _checked(value: Any, shape: TypeAdapter[T], settings: GatewaySettings) -> T:
    try:
        return shape.validate_python(value, context=settings)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in found], body=value) from None


def _check_type(header: str) -> None:
    message = Message()
    message["content-type"] = header
    main, sub = message.get_content_maintype(), message.get_content_subtype()
    if not header or main != "application" or not (sub == "json" or sub.endswith("+json")):
        raise _no_object()
    charset = str(message.get_param("charset", "utf-8")).lower()
    if charset not in ("utf-8", "utf8"):
        raise ApiError(400, f"Content-Type: {charset[:60]!r} is not the charset of JSON; send UTF-8.", param="charset")


def _no_object() -> ApiError:
    return ApiError(400, "The body has to be a JSON object, sent as application/json.", code="invalid_json")
