"""The interceptors of every service: one turns errors into status codes, one does metrics, logs and traces."""

import asyncio
import inspect
import time
import traceback
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, cast

import grpc

from services.shared import telemetry
from services.shared.rpc.grpc_types import Context, Handler, ServerInterceptor
from services.shared.service_errors import (
    DETAILS_METADATA,
    DeadlineExceeded,
    Failed,
    ServiceError,
    Unparsable,
    to_status,
)

log = telemetry.get_logger(__name__)

Behavior = Callable[[Any, Context], Awaitable[Any]]

_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class CallInterceptor(ServerInterceptor):
    """Passes every call to a method that starts with `prefix` through `intercept`; other methods are left alone.

    Response generators are iterated here rather than by gRPC, so that they are closed as soon as their call is
    cancelled, not when they are garbage collected.
    """

    prefix = "/lyra."

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(self.prefix):
            return handler
        kind = kind_of(handler)
        behavior = as_coroutine(getattr(handler, kind))

        async def call(request: Any, context: Context) -> Any:
            return await self.intercept(method, context, lambda: behavior(request, context))

        return cast(Handler, cast(Any, handler)._replace(**{kind: call}))

    @abstractmethod
    async def intercept(self, method: str, context: Context, proceed: Callable[[], Awaitable[Any]]) -> Any:
        """Runs the call with `await proceed()`."""


class ErrorInterceptor(CallInterceptor):
    """Turns exceptions into a status with `google.rpc` details, and applies a default deadline.

    Args:
        default_deadline_seconds: Deadline of calls without one; None for no deadline.
        translate: Maps errors of other layers to service errors; returns None for unknown ones.
        prefix: Prefix of the methods it applies to.
    """

    def __init__(
        self,
        *,
        default_deadline_seconds: float | None,
        translate: Callable[[Exception], ServiceError | None] = lambda error: None,
        prefix: str = CallInterceptor.prefix,
    ) -> None:
        self.prefix = prefix
        self._default_deadline_seconds = default_deadline_seconds
        self._translate = translate

    async def intercept(self, method: str, context: Context, proceed: Callable[[], Awaitable[Any]]) -> Any:
        seconds = self._default_deadline_seconds if context.time_remaining() is None else None
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await proceed()
        except grpc.aio.AbortError:
            raise
        except ServiceError as error:
            if isinstance(error, Unparsable):
                log.warning("message cannot be parsed", method=method, peer=context.peer(), reason=error.message)
            await _abort(context, error)
        except TimeoutError as error:
            if not limit.expired():
                await self._abort_unknown(method, context, error)
            await _abort(context, DeadlineExceeded(f"exceeded the default deadline of {seconds:g} s"))
        except Exception as error:
            await self._abort_unknown(method, context, error)

    async def _abort_unknown(self, method: str, context: Context, error: Exception) -> None:
        known = self._translate(error)
        if known is None:
            log.exception("call failed", method=method, exc_info=error)
            known = Failed("internal error; see the service's log")
        await _abort(context, known)


class TelemetryInterceptor(CallInterceptor):
    """Metrics, log line and span of every call, and the number of calls in progress."""

    def __init__(self) -> None:
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def running(self) -> int:
        """Calls in progress."""
        return self._running

    async def wait_idle(self) -> None:
        """Returns when no call is in progress."""
        await self._idle.wait()

    async def intercept(self, method: str, context: Context, proceed: Callable[[], Awaitable[Any]]) -> Any:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        started = time.monotonic()
        code = grpc.StatusCode.OK
        self._running += 1
        self._idle.clear()
        telemetry.REQUESTS_RUNNING.labels(method).inc()
        with telemetry.server_span(method, metadata) as span:
            try:
                return await proceed()
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except BaseException:
                code = _status_code(context)
                raise
            finally:
                seconds = time.monotonic() - started
                telemetry.REQUESTS_RUNNING.labels(method).dec()
                telemetry.REQUESTS.labels(method, code.name).inc()
                telemetry.REQUEST_SECONDS.labels(method).observe(seconds)
                span.set_attribute("rpc.grpc.status_code", code.value[0])
                log.info("call ended", method=method, code=code.name, seconds=round(seconds, 4))
                self._running -= 1
                if self._running == 0:
                    self._idle.set()


def tenant_of(context: Context) -> str:
    """The tenant in the call's metadata; empty if there is none."""
    for key, value in context.invocation_metadata() or ():
        if key == telemetry.TENANT_METADATA and isinstance(value, str):
            return value
    return ""


def kind_of(handler: Handler) -> str:
    """Kind of a method, as in "unary_stream": the attribute with the handler's function."""
    return next(kind for kind in _KINDS if getattr(handler, kind) is not None)


def rejecting_handler(
    error: ServiceError, on_rejected: Callable[[str, ServiceError], None] = lambda peer, error: None
) -> Handler:
    """A handler for any kind of method that ends the call with `error` before a message is read.

    Args:
        error: Sent to the caller.
        on_rejected: Called with the peer and the error.
    """

    async def reject(request: Any, context: Context) -> None:
        on_rejected(context.peer(), error)
        await _abort(context, error)

    return grpc.stream_stream_rpc_method_handler(reject)


def as_coroutine(behavior: Callable[[Any, Context], Any]) -> Behavior:
    """The handler's function as a coroutine function: a generator's responses are written to the call's context."""
    if not inspect.isasyncgenfunction(behavior):
        return cast(Behavior, behavior)

    async def write_all(request: Any, context: Context) -> None:
        responses: AsyncIterator[Any]
        async with aclosing(behavior(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    return write_all


def _clear_frames(error: BaseException) -> None:
    """Frees the local variables, such as a whole recording, of the frames in the error's traceback.

    Some of these frames also refer to the error. Such a reference cycle is only freed by the garbage collector, which
    may not run for hundreds of calls.
    """
    chain: BaseException | None = error
    while chain is not None:
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__


async def _abort(context: Context, error: ServiceError) -> None:
    _clear_frames(error)
    status = to_status(error)
    details = ((DETAILS_METADATA, status.SerializeToString()),)
    await context.abort(error.code, status.message, trailing_metadata=details)


def _status_code(context: Context) -> grpc.StatusCode:
    """The code that `abort` set, which gRPC's asyncio server keeps as a number."""
    code = cast(Any, context.code())
    if isinstance(code, grpc.StatusCode):
        return code
    return _CODES.get(code, grpc.StatusCode.UNKNOWN)
