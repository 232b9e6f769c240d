"""Limits that hold before a request is understood: bytes, seconds, how many at once."""

import asyncio
from dataclasses import dataclass
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.errors import ApiError

_DRAIN_SECONDS = 5.0


class Limits:
    """ASGI middleware for requests with a body: refuses what is too large, too slow or too many."""

    def __init__(
        self, app: ASGIApp, *, max_body_bytes: int, max_bodies_bytes: int, body_seconds: float, max_running: int
    ) -> None:
        self._app = app
        self._max_bodies_bytes = max_bodies_bytes
        self._max_body_bytes = max_body_bytes
        self._body_seconds = body_seconds
        self._max_running = max_running
        self._running = 0
        self._bodies_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            return await self._app(scope, receive, send)
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > self._max_body_bytes:
            return await self._too_large().response()(scope, receive, send)
        if self._running >= self._max_running:
            error = _overloaded(f"{self._max_running} requests are running")
            return await error.response()(scope, receive, send)
        self._running += 1
        body = _Body()
        try:
            await self._app(scope, self._limited(receive, body), send)
        finally:
            self._running -= 1
            self._bodies_bytes -= body.taken

    def _limited(self, receive: Receive, body: "_Body") -> Receive:
        complete = False
        deadline = asyncio.get_running_loop().time() + self._body_seconds

        async def limited() -> Message:
            nonlocal complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                text = f"The body did not arrive within {self._body_seconds:g} s."
                raise ApiError(HTTPStatus.REQUEST_TIMEOUT, text, code="timeout") from None
            size = len(message.get("body", b""))
            body.taken += size
            self._bodies_bytes += size
            complete = not message.get("more_body", False)
            if body.taken > self._max_body_bytes:
                raise self._too_large()
            if self._bodies_bytes > self._max_bodies_bytes:
                raise _overloaded(f"{self._max_bodies_bytes:,} bytes of requests are being worked on")
            return message

        return limited

    def _too_large(self) -> ApiError:
        text = f"The body is over the limit of {self._max_body_bytes:,} bytes."
        return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text, param="body", code="body_too_large")


@dataclass(slots=True)
class _Body:
    """Bytes that one request has brought."""

    taken: int = 0


def _overloaded(what: str) -> ApiError:
    text = f"{what}, the limit of this server. Please try again."
    return ApiError(HTTPStatus.TOO_MANY_REQUESTS, text, code="overloaded", retry_after_seconds=1)


class DrainedRefusals:
    """ASGI middleware: an answer that comes before the body was read does not cut off the client that still sends it.

    Closing the connection at once would throw away the answer too. So the rest of the body is read, and forgotten,
    before the response ends; for some seconds at most.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else {}
        if "content-length" not in headers and "transfer-encoding" not in headers:
            return await self._app(scope, receive, send)
        complete = False

        async def watched_receive() -> Message:
            nonlocal complete
            message = await receive()
            complete = not message.get("more_body", False)
            return message

        async def draining_send(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False) and not complete:
                await send({**message, "more_body": True})
                await drain()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        async def drain() -> None:
            try:
                async with asyncio.timeout(_DRAIN_SECONDS):
                    while not complete:
                        await watched_receive()
            except TimeoutError:
                return

        await self._app(scope, watched_receive, draining_send)
