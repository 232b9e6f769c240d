"""A job as server-sent events: final pieces of its transcript, progress in between, and how it ended.

Events are derived from the object store by polling: none is lost with a process, and a client that reconnects resumes
after the last event it has seen.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from typing import Any

from starlette.concurrency import run_in_threadpool

from services.gateway.jobs import views
from services.gateway.jobs.schemas import JobProgress, ended_event, progress_event, transcript_event
from services.gateway.jobs.service import JobsApi
from services.shared.jobs.layout import JobId
from services.shared.jobs.state import Job

_END_ID = "end"
_KEEPALIVE_SECONDS = 15.0


async def job_events(api: JobsApi, job_id: JobId, last_id: str, poll_seconds: float) -> AsyncGenerator[bytes, None]:
    """Yields events until the job has ended. Raises NotFound before the first.

    Args:
        last_id: Id of the last event that the client has seen. Empty, or anything but such an id, for all events.
        poll_seconds: Seconds between two polls of the job.
    """
    next_span = int(last_id) + 1 if last_id.isdecimal() else 0
    shown: JobProgress | None = None
    sent_at = time.monotonic()
    while True:
        job = await run_in_threadpool(api.read, job_id)
        events: list[bytes] = []
        if job.plan is not None and last_id != _END_ID:
            spans = await run_in_threadpool(_transcript_events, api, job, next_span)
            events += spans
            next_span += len(spans)
        if (progress := views.progress(job)) != shown:
            events.append(_event(progress_event(progress, job.state)))
            shown = progress
        if job.end is not None:
            ended = await run_in_threadpool(api.show, job)
            events.append(_event(ended_event(ended), _END_ID))
        elif not events and time.monotonic() - sent_at > _KEEPALIVE_SECONDS:
            events.append(b": keep-alive\n\n")
        for each in events:
            yield each
            sent_at = time.monotonic()
        if job.end is not None:
            return
        await asyncio.sleep(poll_seconds)


def _transcript_events(api: JobsApi, job: Job, first: int) -> list[bytes]:
    return [
        _event(transcript_event(span.start_seconds, span.end_seconds, span.segments), span.number)
        for span in api.final_spans(job, first)
    ]


def _event(content: dict[str, Any], event_id: int | str | None = None) -> bytes:
    id_field = "" if event_id is None else f"id: {event_id}\n"
    data = json.dumps(content, separators=(",", ":"))  # ASCII, because some clients take U+2028 for a line break
    return f"{id_field}event: {content['type']}\ndata: {data}\n\n".encode()
