"""Calls to a service: streaming in both directions, errors as ServiceError, a few quick retries."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Final, Generic, TypeVar, cast

import grpc

from services.shared.service_errors import Failed, ServiceError, Unavailable, from_rpc_error
from services.shared.telemetry import TENANT_METADATA, UNSERVED, trace_metadata

Request = TypeVar("Request")
Response = TypeVar("Response")

_END: Final[Any] = object()

# Delays before the second and the third attempt. All attempts together take well under 2 s when a service is down.
RETRY_DELAYS_SECONDS = (0.2, 0.6)


def call_metadata(tenant: str) -> tuple[tuple[str, str], ...]:
    """Metadata of every call: the tenant and the trace."""
    return ((TENANT_METADATA, tenant), *trace_metadata())


async def ask(
    service: str,
    method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
    request: Request,
    *,
    seconds: float,
    tenant: str = "",
) -> Response:
    """A unary call. Retries while `service` is unavailable. Raises its errors as ServiceError."""
    delays = iter(RETRY_DELAYS_SECONDS)
    while True:
        try:
            return await method(request, timeout=seconds, metadata=call_metadata(tenant))
        except grpc.aio.AioRpcError as error:
            failure, delay = _failure(service, error), next(delays, None)
            if delay is None or not isinstance(failure, Unavailable):
                raise failure from error
        await asyncio.sleep(delay)


async def exchange(
    service: str,
    method: grpc.aio.StreamStreamMultiCallable[Request, Response],
    requests: AsyncIterator[Request],
    *,
    seconds: float,
    tenant: str,
) -> AsyncGenerator[Response, None]:
    """Sends `requests` and yields the responses as they arrive. Leaving the iteration cancels the call at once.

    Raises the errors of `requests` as they are, and the service's errors as ServiceError.
    """
    # Without an iterator of requests, the call is written to explicitly, which gRPC's type stubs do not cover.
    call = cast(Any, method)(timeout=seconds, metadata=call_metadata(tenant))
    feeder = asyncio.create_task(_feed(call, requests))
    try:
        async for response in call:
            yield response
    except grpc.aio.AioRpcError as error:
        raise _failure(service, error) from error
    except asyncio.CancelledError:
        # The feeder cancels the call where `requests` raises: then that is the error.
        if feeder.done() and not feeder.cancelled() and (failure := feeder.exception()) is not None:
            raise failure from None
        if (task := asyncio.current_task()) is not None and not task.cancelling():
            raise Failed(f"the call to the {service} was cancelled") from None  # its channel was closed
        raise
    finally:
        call.cancel()
        feeder.cancel()
        await asyncio.gather(feeder, return_exceptions=True)


async def _feed(call: Any, requests: AsyncIterator[Request]) -> None:
    """Sends all requests; stops when the service ends the call, whose status comes with the responses."""
    try:
        async for request in requests:
            await call.write(request)
        await call.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return
    except BaseException:
        call.cancel()
        raise


def _failure(service: str, error: grpc.aio.AioRpcError) -> ServiceError:
    """Translates gRPC's error. Counts calls without a server, by which a service that is scaled to zero scales up."""
    failure = from_rpc_error(service, error)
    if isinstance(failure, Unavailable):
        UNSERVED.labels(service).inc()
    return failure


class Replayed(Generic[Request]):
    """Makes requests that can be iterated only once available to several attempts, each from the first request.

    Requests are kept until `forget()`, to be called on the first response, after which there must be no more attempts.
    """

    def __init__(self, requests: AsyncIterator[Request]) -> None:
        self._requests = requests
        self._taken: list[Request] | None = []
        self._next: asyncio.Future[Request] | None = None

    async def __call__(self) -> AsyncGenerator[Request, None]:
        """The requests from the first, for one attempt at a time."""
        for request in self._taken or ():
            yield request
        while True:
            if self._next is None:
                self._next = asyncio.ensure_future(anext(self._requests, _END))
            # Shielded, so that an attempt that is cancelled leaves the next request to the following attempt.
            if (request := await asyncio.shield(self._next)) is _END:
                return
            self._next = None
            if self._taken is not None:
                self._taken.append(request)
            yield request

    def forget(self) -> None:
        self._taken = None

    async def aclose(self) -> None:
        """Stops reading requests."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)


async def with_retries(
    service: str, attempt: Callable[[], AsyncGenerator[Response, None]]
) -> AsyncGenerator[Response, None]:
    """Iterates over `attempt()`, and starts again if `service` is unavailable and has not responded yet."""
    for delay in (*RETRY_DELAYS_SECONDS, None):
        started = False
        try:
            async with aclosing(attempt()) as responses:
                async for response in responses:
                    started = True
                    yield response
            return
        except Unavailable as error:
            if started or delay is None or error.service != service:
                raise
        await asyncio.sleep(delay)
