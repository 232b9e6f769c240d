"""Responses that go out while they are made, and work that ends when its client is gone."""

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


class ClientGone(Exception):
    """The client closed its connection; there is nobody to answer."""


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work`, and cancels it as soon as the client of `request` goes away (ClientGone)."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class StreamedBody(StreamingResponse):
    """Sends what a generator yields. The generator is closed at once when the client goes away."""

    @classmethod
    async def begin(cls, request: Request, body: AsyncGenerator[bytes, None], media_type: str) -> Self:
        """Waits for the first piece before the status is sent, so that early errors get a status of their own."""
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
    """One server-sent event."""
    if isinstance(content, BaseModel):
        return f"data: {content.model_dump_json()}\n\n".encode()
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


async def with_errors_in_band(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """An error before the first event is raised; later the status has gone out, and it becomes the last event."""
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
            log.warning("answer broke off", status=status, reason=str(error), exc_info=cause)
            yield event(api_error.body)
