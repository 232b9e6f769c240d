"""Limits that hold before a request is understood: bytes, seconds, how many at once."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.http.api_errors import ApiError
from services.gateway.http.concurrency import Body, Places, Turn

_DRAIN_SECONDS = 5.0
_FORM_BYTES = 2**20  # that a form may have around its file
_MAX_HEADERS = 100
_MAX_TARGET_BYTES = 8192
_IDENTITY = ("", "identity")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long clients may take to send a body."""

    total_seconds: float
    idle_seconds: float  # between two pieces
    grace_seconds: float  # of waiting before the rate counts
    min_bytes_per_second: float


class Limits:
    """ASGI middleware for requests with a body: refuses what is too large, too slow or too many.

    A request runs from when its body is complete; before that it is one of those that arrive.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        max_plain_bytes: int,
        bodies: Places,
        arriving: Places,
        running: Places,
        pace: Pace,
        media_paths: Collection[str] = (),
        upload_paths: Collection[str] = (),
    ) -> None:
        """
        Args:
            max_body_bytes: Of a body that may carry media, sent to one of `media_paths`.
            max_plain_bytes: Of any other body.
            bodies: Bytes of bodies in memory.
            upload_paths: Where forms are for UploadLimits.
        """
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._max_plain_bytes = max_plain_bytes
        self._bodies = bodies
        self._arriving = arriving
        self._running = running
        self._pace = pace
        self._media_paths = media_paths
        self._upload_paths = upload_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            return await self._app(scope, receive, send)
        if _is_upload(scope, self._upload_paths):
            return await self._app(scope, receive, send)
        limit = self._max_body_bytes if scope["path"] in self._media_paths else self._max_plain_bytes
        headers, tenant = Headers(scope=scope), _tenant(scope)
        turn, body = Turn(self._arriving, self._running, tenant), Body(self._bodies, tenant)
        scope.setdefault("state", {})["body"] = body
        try:
            _check_head(headers, limit, self._too_large(limit))
            turn.arrive()
            if not has_body(headers):
                turn.run()
        except ApiError as error:
            turn.leave()
            return await error.response()(scope, receive, send)
        try:
            await self._app(scope, self._limited(receive, body, turn, limit), send)
        finally:
            turn.leave()
            body.give_back()

    def _limited(self, receive: Receive, body: Body, turn: Turn, limit: int) -> Receive:
        paced, complete = _Paced(receive, self._pace, "body"), False

        async def limited() -> Message:
            nonlocal complete
            if complete:
                return await receive()
            message = await paced.receive()
            body.take(len(message.get("body", b"")))
            if body.taken > limit:
                raise self._too_large(limit)
            complete = not message.get("more_body", False)
            if complete and message["type"] == "http.request":
                turn.run()
            return message

        return limited

    def _too_large(self, limit: int) -> ApiError:
        text = f"The body is over the limit of {limit:,} bytes."
        return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text, param="body", code="body_too_large")


class UploadLimits:
    """ASGI middleware for files that go on to the object store as they come: refuses the too large, slow or many."""

    def __init__(self, app: ASGIApp, *, paths: Collection[str], max_bytes: int, pace: Pace, running: Places) -> None:
        self._app = app
        self._paths = paths
        self._max_bytes = max_bytes
        self._pace = pace
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_upload(scope, self._paths):
            return await self._app(scope, receive, send)
        tenant = _tenant(scope)
        try:
            _check_head(Headers(scope=scope), self._max_bytes + _FORM_BYTES, self._too_large())
            self._running.take(tenant)
        except ApiError as error:
            return await error.response()(scope, receive, send)
        try:
            await self._app(scope, self._limited(receive), send)
        finally:
            self._running.give_back(tenant)

    def _limited(self, receive: Receive) -> Receive:
        paced, complete = _Paced(receive, self._pace, "file"), False

        async def limited() -> Message:
            nonlocal complete
            if complete:
                return await receive()
            message = await paced.receive()
            complete = not message.get("more_body", False)
            if paced.taken > self._max_bytes + _FORM_BYTES:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> ApiError:
        text = f"file: is over the limit of {self._max_bytes:,} bytes"
        return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text, param="file", code="body_too_large")


class _Paced:
    """Receives a body, for as long as its client keeps to the pace."""

    def __init__(self, receive: Receive, pace: Pace, what: str) -> None:
        self.taken = 0
        self._receive = receive
        self._pace = pace
        self._what = what
        self._clock = asyncio.get_running_loop().time
        self._deadline = self._clock() + pace.total_seconds
        self._waited = 0.0

    async def receive(self) -> Message:
        """Raises ApiError 408 where the client is too slow."""
        pace, begun = self._pace, self._clock()
        # Only the time that we wait counts for the rate: a body is not slow because we are.
        earned = pace.grace_seconds + self.taken / pace.min_bytes_per_second
        limits = {
            f"did not arrive within {pace.total_seconds:g} s": self._deadline,
            f"stopped: nothing of it arrived for {pace.idle_seconds:g} s": begun + pace.idle_seconds,
            f"arrives at less than {pace.min_bytes_per_second:g} bytes a second": begun + earned - self._waited,
        }
        reason = min(limits, key=lambda each: limits[each])
        try:
            async with asyncio.timeout_at(limits[reason]):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(HTTPStatus.REQUEST_TIMEOUT, f"The {self._what} {reason}.", code="timeout") from None
        self._waited += self._clock() - begun
        self.taken += len(message.get("body", b""))
        return message


def has_body(headers: Headers) -> bool:
    """Whether a request with these headers brings a body."""
    return "transfer-encoding" in headers or headers.get("content-length", "0").strip("0") != ""


def _check_head(headers: Headers, limit: int, too_large: ApiError) -> None:
    """Raises `too_large` for a length over the limit, or none at all; ApiError 415 for a body that is compressed."""
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()) or len(length) > 18 or int(length) > limit:
        raise too_large
    if headers.get("content-encoding", "").lower() not in _IDENTITY:
        text = "Content-Encoding: bodies are taken as they are, not compressed"
        raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, text, param="Content-Encoding", code="unsupported_encoding")


def _tenant(scope: Scope) -> str:
    return getattr(scope.get("state", {}).get("key"), "tenant", "")


class PlainHeads:
    """ASGI middleware: refuses requests whose head is large, or can be read in two ways."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := self._fault(scope)):
            response = error.response()
            response.headers["Connection"] = "close"  # where the request ends is not to be known
            return await response(scope, receive, send)
        await self._app(scope, receive, send)

    def _fault(self, scope: Scope) -> ApiError | None:
        names = [name for name, _ in scope["headers"]]
        if len(names) > _MAX_HEADERS:
            return ApiError(431, f"{len(names)} header fields are over the limit of {_MAX_HEADERS}.")
        if len(scope.get("raw_path", b"")) + len(scope.get("query_string", b"")) > _MAX_TARGET_BYTES:
            return ApiError(414, f"The address is over the limit of {_MAX_TARGET_BYTES:,} bytes.")
        chunked = b"transfer-encoding" in names
        if chunked and (b"content-length" in names or scope.get("http_version") == "1.0"):
            text = "Transfer-Encoding does not go with Content-Length, nor with HTTP/1.0."
            return ApiError(400, text, param="Transfer-Encoding", code="invalid_framing")
        return None


def _is_upload(scope: Scope, paths: Collection[str]) -> bool:
    """Whether a request brings a file to one of the paths; what else comes there is a plain body."""
    if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in paths:
        return False
    return Headers(scope=scope).get("content-type", "").lower().startswith("multipart/form-data")


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
