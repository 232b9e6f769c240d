"""Middleware with limits on requests before they are parsed: size, speed, concurrency, headers."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.http.api_errors import ApiError
from services.gateway.http.concurrency import BodyMemory, RequestSlot, TenantSemaphore

_DRAIN_SECONDS = 5.0
_FORM_OVERHEAD_BYTES = 2**20  # what a form may contain besides its file
_MAX_HEADERS = 100
_MAX_TARGET_BYTES = 8192
_IDENTITY = ("", "identity")


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyTimeouts:
    """How long a client may take to send a body."""

    total_seconds: float
    idle_seconds: float  # between two pieces
    grace_seconds: float  # before the minimum rate applies
    min_bytes_per_second: float


class RequestLimits:
    """ASGI middleware for requests with a body: refuses those that are too large, too slow or too many.

    A request counts as arriving until its body is complete, and as running from then on.

    Args:
        max_body_bytes: Limit of bodies sent to one of `media_paths`, which may contain media.
        max_plain_bytes: Limit of all other bodies.
        bodies: Bytes of bodies in memory.
        arriving: Requests whose body is incomplete.
        running: Requests whose body is complete.
        upload_paths: Paths whose multipart forms are left to UploadLimits.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        max_plain_bytes: int,
        bodies: TenantSemaphore,
        arriving: TenantSemaphore,
        running: TenantSemaphore,
        timeouts: BodyTimeouts,
        media_paths: Collection[str] = (),
        upload_paths: Collection[str] = (),
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._max_plain_bytes = max_plain_bytes
        self._bodies = bodies
        self._arriving = arriving
        self._running = running
        self._timeouts = timeouts
        self._media_paths = media_paths
        self._upload_paths = upload_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            return await self._app(scope, receive, send)
        if _is_upload(scope, self._upload_paths):
            return await self._app(scope, receive, send)
        limit = self._max_body_bytes if scope["path"] in self._media_paths else self._max_plain_bytes
        headers, tenant = Headers(scope=scope), _tenant(scope)
        slot, memory = RequestSlot(self._arriving, self._running, tenant), BodyMemory(self._bodies, tenant)
        scope.setdefault("state", {})["body_memory"] = memory
        try:
            _check_headers(headers, limit, self._too_large(limit))
            slot.arrive()
            if not has_body(headers):
                slot.run()
        except ApiError as error:
            slot.release()
            return await error.response()(scope, receive, send)
        try:
            await self._app(scope, self._limited(receive, memory, slot, limit), send)
        finally:
            slot.release()
            memory.release()

    def _limited(self, receive: Receive, memory: BodyMemory, slot: RequestSlot, limit: int) -> Receive:
        body, complete = _TimedBody(receive, self._timeouts, "body"), False

        async def limited() -> Message:
            nonlocal complete
            if complete:
                return await receive()
            message = await body.receive()
            memory.reserve(len(message.get("body", b"")))
            if memory.size > limit:
                raise self._too_large(limit)
            complete = not message.get("more_body", False)
            if complete and message["type"] == "http.request":
                slot.run()
            return message

        return limited

    def _too_large(self, limit: int) -> ApiError:
        text = f"The body is over the limit of {limit:,} bytes."
        return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text, param="body", code="body_too_large")


class UploadLimits:
    """ASGI middleware for files that are streamed to the object store: refuses the too large, too slow, too many."""

    def __init__(
        self, app: ASGIApp, *, paths: Collection[str], max_bytes: int, timeouts: BodyTimeouts, running: TenantSemaphore
    ) -> None:
        self._app = app
        self._paths = paths
        self._max_bytes = max_bytes
        self._timeouts = timeouts
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_upload(scope, self._paths):
            return await self._app(scope, receive, send)
        tenant = _tenant(scope)
        try:
            _check_headers(Headers(scope=scope), self._max_bytes + _FORM_OVERHEAD_BYTES, self._too_large())
            self._running.acquire(tenant)
        except ApiError as error:
            return await error.response()(scope, receive, send)
        try:
            await self._app(scope, self._limited(receive), send)
        finally:
            self._running.release(tenant)

    def _limited(self, receive: Receive) -> Receive:
        body, complete = _TimedBody(receive, self._timeouts, "file"), False

        async def limited() -> Message:
            nonlocal complete
            if complete:
                return await receive()
            message = await body.receive()
            complete = not message.get("more_body", False)
            if body.size > self._max_bytes + _FORM_OVERHEAD_BYTES:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> ApiError:
        text = f"file: is over the limit of {self._max_bytes:,} bytes"
        return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text, param="file", code="body_too_large")


class _TimedBody:
    """Receives a body within `timeouts`."""

    def __init__(self, receive: Receive, timeouts: BodyTimeouts, what: str) -> None:
        self.size = 0
        self._receive = receive
        self._timeouts = timeouts
        self._what = what
        self._clock = asyncio.get_running_loop().time
        self._deadline = self._clock() + timeouts.total_seconds
        self._waited = 0.0

    async def receive(self) -> Message:
        """Raises ApiError 408 if the client is too slow."""
        timeouts, started = self._timeouts, self._clock()
        # Only time spent waiting for the client counts towards the rate: a slow reader does not make a body slow.
        left = timeouts.grace_seconds + self.size / timeouts.min_bytes_per_second - self._waited
        deadlines = {
            f"did not arrive within {timeouts.total_seconds:g} s": self._deadline,
            f"stalled: nothing arrived for {timeouts.idle_seconds:g} s": started + timeouts.idle_seconds,
            f"arrives at less than {timeouts.min_bytes_per_second:g} bytes per second": started + left,
        }
        reason = min(deadlines, key=lambda each: deadlines[each])
        try:
            async with asyncio.timeout_at(deadlines[reason]):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(HTTPStatus.REQUEST_TIMEOUT, f"The {self._what} {reason}.", code="timeout") from None
        self._waited += self._clock() - started
        self.size += len(message.get("body", b""))
        return message


def has_body(headers: Headers) -> bool:
    """Whether a request with these headers has a body."""
    return "transfer-encoding" in headers or headers.get("content-length", "0").strip("0") != ""


def _check_headers(headers: Headers, limit: int, too_large: ApiError) -> None:
    """Raises `too_large` for a Content-Length that is over the limit or invalid, ApiError 415 for a compressed body."""
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()) or len(length) > 18 or int(length) > limit:
        raise too_large
    if headers.get("content-encoding", "").lower() not in _IDENTITY:
        text = "Content-Encoding: compressed bodies are not supported"
        raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, text, param="Content-Encoding", code="unsupported_encoding")


def _tenant(scope: Scope) -> str:
    return getattr(scope.get("state", {}).get("key"), "tenant", "")


def _is_upload(scope: Scope, paths: Collection[str]) -> bool:
    """Whether a request sends a multipart form to one of the paths; any other body there is a plain one."""
    if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in paths:
        return False
    return Headers(scope=scope).get("content-type", "").lower().startswith("multipart/form-data")


class HeaderLimits:
    """ASGI middleware: refuses requests with too many headers, a long target or ambiguous framing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := self._check(scope)):
            response = error.response()
            response.headers["Connection"] = "close"  # the end of the request may be unknown
            return await response(scope, receive, send)
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> ApiError | None:
        names = [name for name, _ in scope["headers"]]
        if len(names) > _MAX_HEADERS:
            return ApiError(431, f"{len(names)} header fields are over the limit of {_MAX_HEADERS}.")
        if len(scope.get("raw_path", b"")) + len(scope.get("query_string", b"")) > _MAX_TARGET_BYTES:
            return ApiError(414, f"The URL is over the limit of {_MAX_TARGET_BYTES:,} bytes.")
        chunked = b"transfer-encoding" in names
        if chunked and (b"content-length" in names or scope.get("http_version") == "1.0"):
            text = "Transfer-Encoding must not be combined with Content-Length or HTTP/1.0."
            return ApiError(400, text, param="Transfer-Encoding", code="invalid_framing")
        return None


class DrainRefusedBodies:
    """ASGI middleware: reads and discards the rest of a body whose response is complete, for a few seconds at most.

    Closing the connection while the client is still sending would discard the response, too.
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
