"""Messages that cannot be parsed become an error of ours; gRPC would log a traceback for each and answer UNKNOWN."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from services.shared.rpc.grpc_types import Context, GenericHandler, Handler
from services.shared.rpc.interceptors import as_coroutine, kind_of
from services.shared.service_errors import DeadlineExceeded, Unparsable

MESSAGE_SECONDS = 30.0  # until the message of a method that takes a single one


class HandlerTable(GenericHandler):
    """Stands in for a server where generated code registers a servicer, and hands out its handlers by method."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Part of what generated code expects of a server; `add_registered_method_handlers` tells the same."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self._handlers |= {f"/{service}/{name}": _guarded(handler) for name, handler in handlers.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        return self._handlers.get(handler_call_details.method)


def _guarded(handler: Any) -> Handler:
    """The handler as one of streams, which on the wire is the same.

    For a method of single messages gRPC reads the message before anybody of ours is asked. Where none can be parsed it
    logs a traceback, and where none comes it never answers.
    """
    parse: Callable[[bytes], Any] = handler.request_deserializer
    behavior = as_coroutine(getattr(handler, kind_of(handler)))

    def parsed(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError as error:
            raise Unparsable("message", f"cannot be parsed: {error}") from None

    async def call(requests: AsyncIterator[Any], context: Context) -> None:
        request = requests if handler.request_streaming else await _only(requests)
        response = await behavior(request, context)
        if response is not None:
            await context.write(response)

    return grpc.stream_stream_rpc_method_handler(
        call, request_deserializer=parsed, response_serializer=handler.response_serializer
    )


async def _only(requests: AsyncIterator[Any]) -> Any:
    """The message of a method that takes one."""
    try:
        async with asyncio.timeout(MESSAGE_SECONDS):
            return await anext(requests)
    except StopAsyncIteration:
        raise Unparsable("message", "is missing") from None
    except TimeoutError:
        raise DeadlineExceeded(f"no message came within {MESSAGE_SECONDS:g} s") from None
