"""Two interceptors of every service: errors become status codes; calls are counted, timed, logged and traced."""

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
    """Puts `around` about every call to a method of `prefix`, whatever its kind; other methods pass untouched.

    Streaming handlers are driven here rather than by gRPC, so that a handler's generator is closed the moment its call
    is cancelled, and not whenever the garbage collector comes by.
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
            return await self.around(method, context, lambda: behavior(request, context))

        return cast(Handler, cast(Any, handler)._replace(**{kind: call}))

    @abstractmethod
    async def around(self, method: str, context: Context, proceed: Callable[[], Awaitable[Any]]) -> Any:
        """Runs the call with `await proceed()`."""


class ErrorInterceptor(CallInterceptor):
    """Turns what a call raises into a status with `google.rpc` details, and holds it to a deadline.

    Args:
        default_deadline_seconds: For calls whose client set none; None for no limit.
        translate: Turns errors of other layers into ours; None for errors it does not know.
        prefix: Of the methods that it is for.
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

    async def around(self, method: str, context: Context, proceed: Callable[[], Awaitable[Any]]) -> Any:
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
            await _abort(context, DeadlineExceeded(f"over the limit of {seconds:g} s for calls without a deadline"))
        except Exception as error:
            await self._abort_unknown(method, context, error)

    async def _abort_unknown(self, method: str, context: Context, error: Exception) -> None:
        known = self._translate(error)
        if known is None:
            log.exception("call failed", method=method, exc_info=error)
            known = Failed("internal error; the service's log has the details")
        await _abort(context, known)


class TelemetryInterceptor(CallInterceptor):
    """Counts, times, logs and traces every call, and knows how many are running."""

    def __init__(self) -> None:
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def running(self) -> int:
        """Calls that are open."""
        return self._running

    async def wait_idle(self) -> None:
        """Returns when no call is open."""
        await self._idle.wait()

    async def around(self, method: str, context: Context, proceed: Callable[[], Awaitable[Any]]) -> Any:
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
    """Who asks, as the caller's metadata says; empty where it does not."""
    for key, value in context.invocation_metadata() or ():
        if key == telemetry.TENANT_METADATA and isinstance(value, str):
            return value
    return ""


def kind_of(handler: Handler) -> str:
    """As in "unary_stream": where its behavior is."""
    return next(kind for kind in _KINDS if getattr(handler, kind) is not None)


def refusal(error: ServiceError, note: Callable[[str, ServiceError], None] = lambda peer, error: None) -> Handler:
    """Stands in for a method's handler: ends the call with `error`, whatever its kind, before a message is read.

    Args:
        error: Sent to the caller.
        note: Called with the peer and the error.
    """

    async def refuse(request: Any, context: Context) -> None:
        note(context.peer(), error)
        await _abort(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)


def as_coroutine(behavior: Callable[[Any, Context], Any]) -> Behavior:
    """A handler's behavior of one form: generators write their responses themselves, and are closed with the call."""
    if not inspect.isasyncgenfunction(behavior):
        return cast(Behavior, behavior)

    async def write_all(request: Any, context: Context) -> None:
        responses: AsyncIterator[Any]
        async with aclosing(behavior(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    return write_all


def _let_go(error: BaseException) -> None:
    """Frees what the functions held that an error came through, a whole recording say.

    Some of them hold the error as well, and such a circle is freed by the garbage collector alone, which may not come
    by for hundreds of calls.
    """
    chain: BaseException | None = error
    while chain is not None:
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__


async def _abort(context: Context, error: ServiceError) -> None:
    _let_go(error)
    status = to_status(error)
    details = ((DETAILS_METADATA, status.SerializeToString()),)
    await context.abort(error.code, status.message, trailing_metadata=details)


def _status_code(context: Context) -> grpc.StatusCode:
    """The code that `abort` set. gRPC's asyncio server keeps it as a number."""
    code = cast(Any, context.code())
    if isinstance(code, grpc.StatusCode):
        return code
    return _CODES.get(code, grpc.StatusCode.UNKNOWN)
