"""Streaming responses, and work that is cancelled when its client disconnects."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any, Self, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Send

from services.gateway.http.api_errors import to_api_error
from services.shared import telemetry

log = telemetry.get_logger(__name__)

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"


class ClientDisconnected(Exception):
    """The client closed its connection before the response was complete."""


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work`; cancels it and raises ClientDisconnected as soon as the client of `request` disconnects."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnected
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class StreamedBody(StreamingResponse):
    """Streams what a generator yields, and closes it at once when the client disconnects."""

    @classmethod
    async def begin(cls, request: Request, body: AsyncGenerator[bytes, None], media_type: str) -> Self:
        """Awaits the first piece before the status is sent, so that early errors get their own status."""
        first = await while_connected(request, _first(body))
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        response = cls(body, media_type=media_type, headers=headers)
        response._first, response._rest = first, body
        return response

    _first: bytes
    _rest: AsyncGenerator[bytes, None]

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._rest):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            async for piece in self._rest:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _first(body: AsyncIterator[bytes]) -> bytes:
    return await anext(body, b"")


def event(content: BaseModel | dict[str, Any]) -> bytes:
    """Encodes one server-sent event."""
    if isinstance(content, BaseModel):
        return f"data: {content.model_dump_json()}\n\n".encode()
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


async def with_errors_in_band(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Yields `events`. An error after the first one becomes the last event: by then the status has been sent."""
    begun = False
    async with aclosing(events):
        try:
            async for each in events:
                yield each
                begun = True
        except Exception as error:
            if not begun:
                raise
            api_error = to_api_error(error)
            status, cause = api_error.status_code, error if api_error.status_code == 500 else None
            log.warning("stream aborted", status=status, reason=str(error), exc_info=cause)
            yield event(api_error.body)
