"""Standard gRPC health (https://github.com/grpc/grpc/blob/master/doc/health-checking.md), for strangers too.

It is the one service that asks for no token. gRPC's own would let a stranger hold all others up: it writes to one
watcher while it holds the lock of all, and keeps every watcher of every name that it is sent.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.shared.rpc.grpc_types import Context
from services.shared.service_errors import NotFound, Overloaded

MAX_WATCHERS = 1000
TELLING_SECONDS = 1.0  # that watchers get to take in that it ends

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
        self._untold = 0  # watchers that do not know yet that it ends
        self._all_told = asyncio.Event()

    @property
    def serving(self) -> bool:
        """Whether it says so."""
        return self._serving

    def set_serving(self, serving: bool = True) -> None:
        """Says so, or not; too late after `end`."""
        self._set(serving and not self._ended)

    async def end(self) -> None:
        """Says NOT_SERVING from now on; returns when whoever watches has been told, or takes too long to listen."""
        self._ended, self._untold = True, self._watchers
        self._set(False)
        if self._untold:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_told.wait(), TELLING_SECONDS)

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
        told = self._ended
        try:
            while True:
                changed, ended = self._changed, self._ended
                await context.write(self._response())
                if ended and not told:
                    told = self._tell()
                await changed.wait()
        finally:
            self._watchers -= 1
            if self._ended and not told:
                self._tell()

    def _require_known(self, name: str) -> None:
        if name not in self._names:
            raise NotFound("no service of that name")

    def _response(self) -> Any:
        return health_pb2.HealthCheckResponse(status=_SERVING if self._serving else _NOT_SERVING)

    def _tell(self) -> bool:
        """One watcher fewer to wait for."""
        self._untold -= 1
        if not self._untold:
            self._all_told.set()
        return True

    def _set(self, serving: bool) -> None:
        self._serving = serving
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
