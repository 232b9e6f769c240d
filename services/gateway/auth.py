"""Who may come in: nobody without a key, except where a path is open to all."""

from collections.abc import Collection
from typing import Annotated, cast

from fastapi import Request, Security
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from services.common import telemetry
from services.gateway.errors import ApiError
from services.gateway.keys import Key, KeyStore, KeysUnreadable

log = telemetry.get_logger(__name__)


class KeyRequired:
    """ASGI middleware: looks the key up before anything of the body is read."""

    def __init__(self, app: ASGIApp, keys: KeyStore, open_paths: Collection[str]) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in self._open_paths):
            return await self._app(scope, receive, send)
        try:
            scope.setdefault("state", {})["key"] = self._key(Headers(scope=scope))
        except ApiError as error:
            return await error.response()(scope, receive, send)
        await self._app(scope, receive, send)

    def _key(self, headers: Headers) -> Key:
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise ApiError(401, "No API key was sent. Send it in the header 'Authorization: Bearer KEY'.")
        try:
            key = self._keys.find(secret.strip())
        except KeysUnreadable as error:
            log.error("keys cannot be read, nobody is let in", reason=str(error))
            raise ApiError(503, "Keys cannot be checked at the moment.", retry_after_seconds=5) from error
        if key is None:
            raise ApiError(401, "This API key is unknown or revoked.", code="invalid_api_key")
        return key


_bearer = HTTPBearer(auto_error=False, description="An API key, made with `lyra keys create`.")


async def caller(request: Request, _: Annotated[object, Security(_bearer)]) -> Key:
    """The key that the request came with; the parameter shows the need for one in the API's documentation."""
    return cast(Key, request.state.key)
