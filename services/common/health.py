"""Standard gRPC health (https://github.com/grpc/grpc/blob/master/doc/health-checking.md), for strangers too.

It is the one service that asks for no token. gRPC's own would let a stranger hold all others up: it writes to one
watcher while it holds the lock of all, and keeps every watcher of every name that it is sent.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.errors import NotFound, Overloaded
from services.common.grpc_types import Context

MAX_WATCHERS = 1000

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """One state for all of `names` and for the server as a whole, which has no name."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(("", *names))
        self._serving = False
        self._ended = False
        self._changed = asyncio.Event()
        self._watchers = 0

    @property
    def serving(self) -> bool:
        """Whether it says so."""
        return self._serving

    def set_serving(self, serving: bool = True) -> None:
        """Says so, or not; too late after `end`."""
        self._set(serving and not self._ended)

    def end(self) -> None:
        """Says NOT_SERVING from now on."""
        self._ended = True
        self._set(False)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Any:
        """How it is now."""
        self._require_known(request.service)
        return self._response()

    async def List(self, request: health_pb2.HealthListRequest, context: Context) -> Any:
        """How everything is now."""
        return health_pb2.HealthListResponse(statuses=dict.fromkeys(self._names, self._response()))

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """How it is, and each change."""
        self._require_known(request.service)
        if self._watchers >= MAX_WATCHERS:
            raise Overloaded(f"{MAX_WATCHERS} calls watch the health, the limit")
        self._watchers += 1
        try:
            while True:
                changed, response = self._changed, self._response()
                await context.write(response)
                await changed.wait()
        finally:
            self._watchers -= 1

    def _require_known(self, name: str) -> None:
        if name not in self._names:
            raise NotFound("no service of that name")

    def _response(self) -> Any:
        return health_pb2.HealthCheckResponse(status=_SERVING if self._serving else _NOT_SERVING)

    def _set(self, serving: bool) -> None:
        self._serving = serving
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
