"""A file in a form on its way to the object store: hashed and written while it comes, never whole in memory."""

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
_NO_FILE = ("has to be a file, with a filename", "invalid_value")


@dataclass(slots=True)
class ReceivedForm:
    """What came: the file, kept as media, where there was one; and the other fields, each with all its values."""

    media: MediaRecord | None = None
    fields: dict[str, list[str]] = field(default_factory=dict)


async def receive_form(
    request: Request, library: MediaLibrary, tenant: str, allowed: Collection[str] = ()
) -> ReceivedForm:
    """Reads a form with at most one file, in the field `file`, and keeps that as media.

    Args:
        allowed: Names of the other fields that there may be.

    Raises:
        ApiError: 400 where the form is broken, or has another file.
        InvalidInput: The file is not media or over a limit.
        StoreUnavailable: as every use of the store.
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
                    raise bad_request(FIELD, "came twice")
                form.media = await _keep(events, StreamedUpload(library, tenant, filename))
            case _:
                raise AssertionError("bytes outside of a file")
    return form


async def _keep(events: AsyncIterator[FormEvent], upload: StreamedUpload) -> MediaRecord:
    """Writes one piece while the next one comes; leaves nothing behind where that fails."""
    writing: asyncio.Future[None] | None = None
    try:
        waiting = bytearray()
        async for event in events:
            if isinstance(event, FileEnd):
                break
            assert isinstance(event, bytes)
            waiting += event
            if len(waiting) >= STREAM_PART_BYTES:
                if writing is not None:
                    await writing
                writing = asyncio.ensure_future(run_in_threadpool(upload.write, waiting))
                waiting = bytearray()
        if writing is not None:
            await writing
        return await run_in_threadpool(upload.finish, waiting)
    except BaseException:
        if writing is not None:
            writing.add_done_callback(lambda over: over.cancelled() or over.exception())
        await asyncio.shield(run_in_threadpool(upload.abort))
        raise
