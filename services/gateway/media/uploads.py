"""Streams a file of a multipart form to the object store; it is never held in memory as a whole."""

import asyncio
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from services.gateway.http.api_errors import bad_request
from services.gateway.http.multipart import FileEnd, FileStart, FormEvent, FormField, form_events
from services.shared.media.library import FIELD, MediaLibrary
from services.shared.media.records import MediaRecord
from services.shared.media.uploads import STREAM_PART_BYTES, StreamedUpload

_UNKNOWN = ("is not a known parameter", "unknown_parameter")
_NO_FILE = ("has to be a file with a filename", "invalid_value")


@dataclass(slots=True)
class ReceivedForm:
    """The stored file, if there was one, and all values of each other field."""

    media: MediaRecord | None = None
    fields: dict[str, list[str]] = field(default_factory=dict)


async def receive_form(
    request: Request, library: MediaLibrary, tenant: str, allowed: Collection[str] = ()
) -> ReceivedForm:
    """Reads a form with at most one file, in the field `file`, and stores that as media.

    Args:
        allowed: Names of other fields that are accepted.

    Raises:
        ApiError: 400 for an invalid form, or one with another file.
        InvalidInput: The file is not media, or over a limit.
        StoreUnavailable: The object store is unavailable or full.
    """
    form, events = ReceivedForm(), form_events(request)
    async for event in events:
        match event:
            case FormField(name) if name not in allowed:
                raise bad_request(name, *(_NO_FILE if name == FIELD else _UNKNOWN))
            case FormField(name, value):
                form.fields.setdefault(name, []).append(value)
            case FileStart(name, filename):
                if name != FIELD:
                    raise bad_request(name, *_UNKNOWN)
                if form.media is not None:
                    raise bad_request(FIELD, "was sent twice")
                form.media = await _store(events, StreamedUpload(library, tenant, filename))
            case _:
                raise AssertionError("bytes outside a file")
    return form


async def _store(events: AsyncIterator[FormEvent], upload: StreamedUpload) -> MediaRecord:
    """Writes one part while the next one arrives; leaves nothing behind on failure."""
    writing: asyncio.Future[None] | None = None
    try:
        buffer = bytearray()
        async for event in events:
            if isinstance(event, FileEnd):
                break
            assert isinstance(event, bytes)
            buffer += event
            if len(buffer) >= STREAM_PART_BYTES:
                if writing is not None:
                    await writing
                writing = asyncio.ensure_future(run_in_threadpool(upload.write, buffer))
                buffer = bytearray()
        if writing is not None:
            await writing
        return await run_in_threadpool(upload.finish, buffer)
    except BaseException:
        if writing is not None:
            writing.add_done_callback(lambda over: over.cancelled() or over.exception())
        await asyncio.shield(run_in_threadpool(upload.abort))
        raise
