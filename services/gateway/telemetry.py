"""What the gateway tells about each request: an id, a log line, a span, metrics."""

import re
import secrets
import time
from collections.abc import Collection

import structlog
from prometheus_client import Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common import telemetry

log = telemetry.get_logger(__name__)

_BUCKETS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
FIRST_TOKEN_SECONDS = Histogram(
    "lyra_first_token_seconds", "Seconds from the start of a request to the first text of its answer.", buckets=_BUCKETS
)
FIRST_AUDIO_SECONDS = Histogram(
    "lyra_first_audio_seconds",
    "Seconds from the start of a request to the first sound of its answer.",
    buckets=_BUCKETS,
)

# The client went away before a status was sent.
_CLIENT_GONE = 499


class Telemetry:
    """ASGI middleware about everything else. Paths that are not `known` are counted as one; `{id}` is any part."""

    def __init__(self, app: ASGIApp, known: Collection[str]) -> None:
        self._app = app
        self._known = [(path, re.compile(re.escape(path).replace(r"\{id\}", "[^/]+"))) for path in known]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        method = f"{scope['method']} {self._name(scope['path'])}"
        request_id, started, status = f"req_{secrets.token_hex(12)}", time.monotonic(), _CLIENT_GONE
        state = scope.setdefault("state", {})
        state["started"] = started

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        running = telemetry.REQUESTS_RUNNING.labels(method)
        running.inc()
        with telemetry.server_span(method, dict(headers)), structlog.contextvars.bound_contextvars(request=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                seconds = time.monotonic() - started
                running.dec()
                telemetry.REQUESTS.labels(method, str(status)).inc()
                telemetry.REQUEST_SECONDS.labels(method).observe(seconds)
                tenant = getattr(state.get("key"), "tenant", "")
                # Probes come every few seconds and say little.
                tell = log.info if scope["path"].startswith("/v1/") or status >= 500 else log.debug
                tell("request ended", method=method, status=status, seconds=round(seconds, 4), tenant=tenant)

    def _name(self, path: str) -> str:
        return next((name for name, pattern in self._known if pattern.fullmatch(path)), "other")
