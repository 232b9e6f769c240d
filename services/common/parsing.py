"""Messages that cannot be parsed become an error of ours; gRPC would log a traceback for each and answer UNKNOWN."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError

from services.common.errors import Unparsable
from services.common.grpc_types import GenericHandler, Handler


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
    """The handler with a parser that does not raise where nobody would catch it.

    A stream is parsed as the handler reads it, so the error is raised there. A single message is parsed before the
    handler begins: then the error itself is the request, and `interceptors` raises it.
    """
    parse: Callable[[bytes], Any] = handler.request_deserializer

    def parsed(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError as error:
            unparsable = Unparsable("message", f"cannot be parsed: {error}")
        if handler.request_streaming:
            raise unparsable
        return unparsable

    return cast(Handler, handler._replace(request_deserializer=parsed))
