"""Telemetry of requests: an id, a log line, a span and metrics.

Input from clients is never logged verbatim: paths are truncated and escaped, and anything like an API key is masked.
"""

import re
import secrets
import time
from collections.abc import Collection

import structlog
from prometheus_client import Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.http.api_errors import to_api_error
from services.gateway.http.client_addresses import client_address
from services.gateway.http.keys import PREFIX
from services.shared import telemetry

log = telemetry.get_logger(__name__)

_BUCKETS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
FIRST_TOKEN_SECONDS = Histogram(
    "lyra_first_token_seconds", "Seconds from the start of a request to the first text of its answer.", buckets=_BUCKETS
)
FIRST_AUDIO_SECONDS = Histogram(
    "lyra_first_audio_seconds",
    "Seconds from the start of a request to the first audio of its answer.",
    buckets=_BUCKETS,
)

# nginx's status for a client that disconnected before the response.
_CLIENT_GONE = 499

# Request ids that clients may choose; anything else is replaced.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SECRET = re.compile(re.escape(PREFIX) + r"[A-Za-z0-9_-]{8,}")
_MAX_PATH = 200
_PARAMETER = re.compile(r"\{[^}]*\}")


class Telemetry:
    """ASGI middleware: request id, log line, span and metrics of every request.

    Unexpected exceptions become a 500 here, so that the response carries the request id and the log its status.

    Args:
        known: Path templates of all routes. Every path parameter is reported as `{id}`, any other path as "other".
        public_paths: Paths without a key, such as probes: logged at level debug.
    """

    def __init__(self, app: ASGIApp, known: Collection[str], public_paths: Collection[str] = ()) -> None:
        self._app = app
        self._public_paths = frozenset(public_paths)
        self._known = [(_PARAMETER.sub("{id}", path), compile_path(path)[0]) for path in known]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        name = self._name(scope["path"])
        method = f"{scope['method']} {name or 'other'}"
        request_id, started = _request_id(headers), time.monotonic()
        status, complete, gone = _CLIENT_GONE, False, False
        state = scope.setdefault("state", {})
        state["started"] = started

        async def watched_receive() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or (message["type"] == "http.disconnect" and not complete)
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = _CLIENT_GONE if gone else message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        running = telemetry.REQUESTS_RUNNING.labels(method)
        running.inc()
        with telemetry.server_span(method, dict(headers)), structlog.contextvars.bound_contextvars(request=request_id):
            try:
                await self._app(scope, watched_receive, send_with_id)
            except Exception as error:
                if status != _CLIENT_GONE:  # the status has been sent: only the connection can be closed
                    raise
                log.exception("a request failed")
                await to_api_error(error).response()(scope, receive, send_with_id)
            finally:
                seconds = time.monotonic() - started
                running.dec()
                telemetry.REQUESTS.labels(method, str(status)).inc()
                telemetry.REQUEST_SECONDS.labels(method).observe(seconds)
                # Probes are frequent and uninteresting.
                emit = log.debug if scope["path"] in self._public_paths and status < 500 else log.info
                emit(
                    "request ended",
                    method=scope["method"],
                    path=name or _raw_path(scope),
                    status=status,
                    seconds=round(seconds, 4),
                    key=state.get("key_id", "-"),
                    tenant=getattr(state.get("key"), "tenant", "-"),
                    address=client_address(scope),
                    aborted=gone or not complete,
                )

    def _name(self, path: str) -> str:
        return next((name for name, pattern in self._known if pattern.fullmatch(path)), "")


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    if _REQUEST_ID.fullmatch(given) and not _SECRET.search(given):
        return given
    return f"req_{secrets.token_hex(12)}"


def _raw_path(scope: Scope) -> str:
    """The path as sent, still percent-encoded and without the query; truncated printable ASCII."""
    raw = scope.get("raw_path") or scope["path"].encode()
    path = raw[:_MAX_PATH].decode("latin-1")
    return _SECRET.sub(f"{PREFIX}***", "".join(each if "!" <= each <= "~" else "?" for each in path))
