"""Who may come in: nobody without a key, except where a path is open to all."""

from collections.abc import Collection
from typing import Annotated, Any, cast

from fastapi import Request, Response, Security
from fastapi.security import HTTPBearer
from prometheus_client import Counter
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.http import rate_limits
from services.gateway.http.api_errors import ApiError
from services.gateway.http.client_addresses import client_address, limited_as
from services.gateway.http.keys import Key, KeyStore, KeysUnreadable, State
from services.gateway.http.rate_limits import RateLimits
from services.shared import telemetry

log = telemetry.get_logger(__name__)


FAILED_KEYS = Counter("lyra_failed_keys_total", "Requests that came without a good key.", ("reason",))
_REFUSALS = {
    "missing": (None, "No API key was sent. Send it in the header 'Authorization: Bearer KEY'."),
    "unknown": ("invalid_api_key", "This API key is unknown or revoked."),
    State.REVOKED: ("invalid_api_key", "This API key is unknown or revoked."),
    # Whoever holds the right key may know what became of it.
    State.EXPIRED: ("expired_api_key", "This API key has expired. Ask who runs this server for a new one."),
}
for _reason in _REFUSALS:
    FAILED_KEYS.labels(_reason)


class BadKey(Exception):
    """A request without a good key; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class KeyRequired:
    """ASGI middleware: looks the key up, and counts the request, before anything of the body is read.

    Requests without a good key are counted apart, and their limit refuses nobody but them: otherwise a stranger could
    lock out everybody who shares an address with him. It keeps down noise, not guesses: a key is 256 random bits.
    """

    def __init__(self, app: ASGIApp, keys: KeyStore, open_paths: Collection[str], limits: RateLimits) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = frozenset(open_paths)
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in self._open_paths):
            return await self._app(scope, receive, send)
        state = scope.setdefault("state", {})
        address = limited_as(client_address(scope))
        try:
            key = self._key(Headers(scope=scope), state)
        except BadKey as bad:
            response = await self._refuse(bad, address)
            return await response(scope, receive, send)
        except KeysUnreadable as error:
            log.error("keys cannot be read, nobody is let in", reason=str(error))
            response = ApiError(503, "Keys cannot be checked at the moment.", retry_after_seconds=5).response()
            return await response(scope, receive, send)
        state["key"] = key
        standings = await self._limits.request(key.id, address)
        fields = rate_limits.headers(standings)
        if standings and not standings[-1].allowed:
            response = standings[-1].error().response()
            response.headers.update(fields)
            return await response(scope, receive, send)

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(fields)
            await send(message)

        await self._app(scope, receive, send_with_limits)

    def _key(self, headers: Headers, state: dict[str, Any]) -> Key:
        """The good key of a request. Raises BadKey and KeysUnreadable."""
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise BadKey("missing")
        key = self._keys.match(secret.strip())
        if key is None:
            raise BadKey("unknown")
        state["key_id"] = key.id  # also of a key that is refused: whose it is helps who reads the log
        if (now := key.state()) is not State.GOOD:
            raise BadKey(now)
        return key

    async def _refuse(self, bad: BadKey, address: str) -> Response:
        FAILED_KEYS.labels(bad.reason).inc()
        standing = await self._limits.failed_key(address)
        if standing is not None and not standing.allowed:
            response = standing.error().response()
            response.headers.update(rate_limits.headers([standing]))
            return response
        code, text = _REFUSALS[bad.reason]
        return ApiError(401, text, code=code).response()


_bearer = HTTPBearer(auto_error=False, description="An API key, made with `lyra keys create`.")


async def api_key(request: Request, _: Annotated[object, Security(_bearer)]) -> Key:
    """The key that the request came with; the parameter shows the need for one in the API's documentation."""
    return cast(Key, request.state.key)
