"""Turns unparsable messages into INVALID_ARGUMENT. gRPC would log a traceback for each of them and return UNKNOWN."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from services.shared.rpc.grpc_types import Context, GenericHandler, Handler
from services.shared.rpc.interceptors import as_coroutine, kind_of
from services.shared.service_errors import DeadlineExceeded, Unparsable

MESSAGE_SECONDS = 30.0  # timeout for the only message of a unary request


class HandlerTable(GenericHandler):
    """Collects the handlers that generated code registers with a server, and returns them by method."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Required by generated code; the handlers are those of `add_registered_method_handlers`."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self._handlers |= {f"/{service}/{name}": _as_stream_handler(handler) for name, handler in handlers.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        return self._handlers.get(handler_call_details.method)


def _as_stream_handler(handler: Any) -> Handler:
    """The handler as a bidirectional streaming one, which is the same on the wire.

    For unary requests, gRPC reads the message before it calls the handler: it logs a traceback if the message cannot
    be parsed, and never responds if no message arrives.
    """
    parse: Callable[[bytes], Any] = handler.request_deserializer
    behavior = as_coroutine(getattr(handler, kind_of(handler)))

    def parsed(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError as error:
            raise Unparsable("message", f"cannot be parsed: {error}") from None

    async def call(requests: AsyncIterator[Any], context: Context) -> None:
        request = requests if handler.request_streaming else await _single_message(requests)
        response = await behavior(request, context)
        if response is not None:
            await context.write(response)

    return grpc.stream_stream_rpc_method_handler(
        call, request_deserializer=parsed, response_serializer=handler.response_serializer
    )


async def _single_message(requests: AsyncIterator[Any]) -> Any:
    try:
        async with asyncio.timeout(MESSAGE_SECONDS):
            return await anext(requests)
    except StopAsyncIteration:
        raise Unparsable("message", "is missing") from None
    except TimeoutError:
        raise DeadlineExceeded(f"no message arrived within {MESSAGE_SECONDS:g} s") from None
