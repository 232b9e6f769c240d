"""Limits that hold before a request is understood: bytes, seconds, how many at once."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.errors import ApiError

_DRAIN_SECONDS = 5.0
_FORM_BYTES = 2**20  # that a form may have around its file


class Limits:
    """ASGI middleware for requests with a body: refuses what is too large, too slow or too many."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        max_bodies_bytes: int,
        body_seconds: float,
        max_running: int,
        upload_paths: Collection[str] = (),
    ) -> None:
        self._app = app
        self._upload_paths = upload_paths
        self._max_bodies_bytes = max_bodies_bytes
        self._max_body_bytes = max_body_bytes
        self._body_seconds = body_seconds
        self._max_running = max_running
        self._running = 0
        self._bodies_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            return await self._app(scope, receive, send)
        if _is_upload(scope, self._upload_paths):
            return await self._app(scope, receive, send)
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > self._max_body_bytes:
            return await self._too_large().response()(scope, receive, send)
        if self._running >= self._max_running:
            error = _overloaded(f"{self._max_running} requests are running")
            return await error.response()(scope, receive, send)
        self._running += 1
        body = Body(self._take)
        scope.setdefault("state", {})["body"] = body
        try:
            await self._app(scope, self._limited(receive, body), send)
        finally:
            self._running -= 1
            self._bodies_bytes -= body.taken

    def _limited(self, receive: Receive, body: "Body") -> Receive:
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
            complete = not message.get("more_body", False)
            body.take(len(message.get("body", b"")))
            if body.taken > self._max_body_bytes:
                raise self._too_large()
            return message

        return limited

    def _take(self, size: int) -> None:
        self._bodies_bytes += size
        if self._bodies_bytes > self._max_bodies_bytes:
            raise _overloaded(f"{self._max_bodies_bytes:,} bytes of requests are being worked on")

    def _too_large(self) -> ApiError:
        text = f"The body is over the limit of {self._max_body_bytes:,} bytes."
        return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text, param="body", code="body_too_large")


@dataclass(slots=True)
class Body:
    """Bytes that one request has brought, or names and holds in memory; in `request.state.body`."""

    _account: Callable[[int], None]
    taken: int = 0

    def take(self, size: int) -> None:
        """Counts bytes until the request ends. Raises ApiError 429 where all requests together hold too many."""
        self.taken += size
        self._account(size)


class UploadLimits:
    """ASGI middleware for files that go on to the object store as they come: refuses the too large, slow or many."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        paths: Collection[str],
        max_bytes: int,
        idle_seconds: float,
        total_seconds: float,
        max_running: int,
    ) -> None:
        self._app = app
        self._paths = paths
        self._max_bytes = max_bytes
        self._idle_seconds = idle_seconds
        self._total_seconds = total_seconds
        self._max_running = max_running
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_upload(scope, self._paths):
            return await self._app(scope, receive, send)
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > self._max_bytes + _FORM_BYTES:
            return await self._too_large().response()(scope, receive, send)
        if self._running >= self._max_running:
            error = _overloaded(f"{self._max_running} uploads are running")
            return await error.response()(scope, receive, send)
        self._running += 1
        try:
            await self._app(scope, self._limited(receive), send)
        finally:
            self._running -= 1

    def _limited(self, receive: Receive) -> Receive:
        clock = asyncio.get_running_loop().time
        deadline, taken, complete = clock() + self._total_seconds, 0, False

        async def limited() -> Message:
            nonlocal taken, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(min(deadline, clock() + self._idle_seconds)):
                    message = await receive()
            except TimeoutError:
                late = clock() >= deadline
                what = f"within {self._total_seconds:g} s" if late else f"for {self._idle_seconds:g} s"
                text = f"The file did not arrive {what}." if late else f"Nothing of the file arrived {what}."
                raise ApiError(HTTPStatus.REQUEST_TIMEOUT, text, code="timeout") from None
            complete = not message.get("more_body", False)
            taken += len(message.get("body", b""))
            if taken > self._max_bytes + _FORM_BYTES:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> ApiError:
        text = f"file: is over the limit of {self._max_bytes:,} bytes"
        return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text, param="file", code="body_too_large")


def _is_upload(scope: Scope, paths: Collection[str]) -> bool:
    """Whether a request brings a file to one of the paths; what else comes there is a plain body."""
    if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in paths:
        return False
    return Headers(scope=scope).get("content-type", "").lower().startswith("multipart/form-data")


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
