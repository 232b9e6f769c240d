"""The standard gRPC health service (https://github.com/grpc/grpc/blob/master/doc/health-checking.md).

It is the only service that requires no token. gRPC's own implementation would let an unauthenticated client block all
others: it writes to one watcher while holding a lock that all share, and keeps watchers of any name it is sent.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.shared.rpc.grpc_types import Context
from services.shared.service_errors import NotFound, Overloaded

MAX_WATCHERS = 1000
NOTIFY_SECONDS = 1.0  # time for watchers to receive the final NOT_SERVING

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """One status for all of the services `names`, and for the server as a whole, whose name is empty."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(("", *names))
        self._serving = False
        self._shutting_down = False
        self._changed = asyncio.Event()
        self._watchers = 0
        self._unnotified = 0  # watchers that have not received the final status yet
        self._all_notified = asyncio.Event()

    @property
    def serving(self) -> bool:
        """Whether the status is SERVING."""
        return self._serving

    def set_serving(self, serving: bool = True) -> None:
        """Sets the status to SERVING or NOT_SERVING. After `enter_graceful_shutdown`, it stays NOT_SERVING."""
        self._set(serving and not self._shutting_down)

    async def enter_graceful_shutdown(self) -> None:
        """Sets NOT_SERVING permanently. Returns when all watchers have received it, after NOTIFY_SECONDS at most."""
        self._shutting_down, self._unnotified = True, self._watchers
        self._set(False)
        if self._unnotified:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_notified.wait(), NOTIFY_SECONDS)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Any:
        """The current status."""
        self._require_known(request.service)
        return self._response()

    async def List(self, request: health_pb2.HealthListRequest, context: Context) -> Any:
        """The current status of every name."""
        return health_pb2.HealthListResponse(statuses=dict.fromkeys(self._names, self._response()))

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """Streams the current status and every change."""
        self._require_known(request.service)
        if self._watchers >= MAX_WATCHERS:
            raise Overloaded(f"over the limit of {MAX_WATCHERS} health watchers")
        self._watchers += 1
        notified = self._shutting_down
        try:
            while True:
                changed, final = self._changed, self._shutting_down
                await context.write(self._response())
                if final and not notified:
                    notified = self._mark_notified()
                await changed.wait()
        finally:
            self._watchers -= 1
            if self._shutting_down and not notified:
                self._mark_notified()

    def _require_known(self, name: str) -> None:
        if name not in self._names:
            raise NotFound("there is no service of that name")

    def _response(self) -> Any:
        return health_pb2.HealthCheckResponse(status=_SERVING if self._serving else _NOT_SERVING)

    def _mark_notified(self) -> bool:
        """Counts a watcher as notified. Returns True."""
        self._unnotified -= 1
        if not self._unnotified:
            self._all_notified.set()
        return True

    def _set(self, serving: bool) -> None:
        self._serving = serving
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
