"""Authentication by API key."""

from collections.abc import Collection
from typing import Annotated, Any, cast

from fastapi import Request, Response, Security
from fastapi.security import HTTPBearer
from prometheus_client import Counter
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.http import rate_limits
from services.gateway.http.api_errors import ApiError
from services.gateway.http.client_addresses import client_address, rate_limited_address
from services.gateway.http.keys import Key, KeyState, KeyStore, KeysUnreadable
from services.gateway.http.rate_limits import RateLimits
from services.shared import telemetry

log = telemetry.get_logger(__name__)


FAILED_KEYS = Counter("lyra_failed_keys_total", "Requests without a valid API key.", ("reason",))
_REFUSALS = {
    "missing": (None, "No API key was sent. Send it in the header 'Authorization: Bearer KEY'."),
    "unknown": ("invalid_api_key", "This API key is unknown or revoked."),
    KeyState.REVOKED: ("invalid_api_key", "This API key is unknown or revoked."),
    # Only a client with the right key learns this.
    KeyState.EXPIRED: ("expired_api_key", "This API key has expired. Ask the operator of this server for a new one."),
}
for _reason in _REFUSALS:
    FAILED_KEYS.labels(_reason)


class InvalidKey(Exception):
    """A request has no valid API key; `reason` is one of _REFUSALS."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ApiKeyMiddleware:
    """ASGI middleware: looks up the API key and applies rate limits before anything of the body is read.

    Requests without a valid key have a limit of their own, which never affects valid keys: otherwise an attacker could
    lock out everybody behind the same address. It only reduces noise; a key of 256 random bits cannot be guessed.

    Args:
        public_paths: Paths that need no key.
    """

    def __init__(self, app: ASGIApp, keys: KeyStore, public_paths: Collection[str], limits: RateLimits) -> None:
        self._app = app
        self._keys = keys
        self._public_paths = frozenset(public_paths)
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in self._public_paths):
            return await self._app(scope, receive, send)
        state = scope.setdefault("state", {})
        address = rate_limited_address(client_address(scope))
        try:
            key = self._key(Headers(scope=scope), state)
        except InvalidKey as invalid:
            response = await self._refuse(invalid, address)
            return await response(scope, receive, send)
        except KeysUnreadable as error:
            log.error("API keys cannot be read, all requests are refused", reason=str(error))
            response = ApiError(503, "API keys cannot be checked at the moment.", retry_after_seconds=5).response()
            return await response(scope, receive, send)
        state["key"] = key
        statuses = await self._limits.request(key.id, address)
        fields = rate_limits.headers(statuses)
        if statuses and not statuses[-1].allowed:
            response = statuses[-1].error().response()
            response.headers.update(fields)
            return await response(scope, receive, send)

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(fields)
            await send(message)

        await self._app(scope, receive, send_with_limits)

    def _key(self, headers: Headers, state: dict[str, Any]) -> Key:
        """The valid key of a request. Raises InvalidKey and KeysUnreadable."""
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise InvalidKey("missing")
        key = self._keys.match(secret.strip())
        if key is None:
            raise InvalidKey("unknown")
        state["key_id"] = key.id  # logged for refused keys, too
        if (key_state := key.state()) is not KeyState.GOOD:
            raise InvalidKey(key_state)
        return key

    async def _refuse(self, invalid: InvalidKey, address: str) -> Response:
        FAILED_KEYS.labels(invalid.reason).inc()
        status = await self._limits.failed_key(address)
        if status is not None and not status.allowed:
            response = status.error().response()
            response.headers.update(rate_limits.headers([status]))
            return response
        code, text = _REFUSALS[invalid.reason]
        return ApiError(401, text, code=code).response()


_bearer = HTTPBearer(auto_error=False, description="An API key, created with `lyra keys create`.")


async def api_key(request: Request, _: Annotated[object, Security(_bearer)]) -> Key:
    """The API key of the request; the second parameter documents the requirement in the OpenAPI schema."""
    return cast(Key, request.state.key)
