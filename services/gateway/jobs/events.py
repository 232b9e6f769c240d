"""A job as server-sent events: words as soon as they are certain, progress in between, and how it ended.

Everything comes from the object store, by looking again: no event is lost with a process, and a client that comes back
goes on behind the last one it saw.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from typing import Any

from starlette.concurrency import run_in_threadpool

from services.gateway.jobs import views as job_views
from services.gateway.jobs.schemas import JobProgress, ended_event, progress_event, transcript_event
from services.gateway.jobs.service import JobsApi
from services.shared.jobs.layout import JobId
from services.shared.jobs.state import Job

_ENDED = "end"
_ALIVE_SECONDS = 15.0


async def job_events(api: JobsApi, job: JobId, last_id: str, every_seconds: float) -> AsyncGenerator[bytes, None]:
    """Yields events until the job has ended. Raises NotFound before the first.

    Args:
        api: Where jobs are read.
        job: Whose events.
        last_id: Of the last event that the client has seen; empty for all. What is no such id counts as empty.
        every_seconds: Between two looks.
    """
    following = int(last_id) + 1 if last_id.isdecimal() else 0
    shown: JobProgress | None = None
    sent_at = time.monotonic()
    while True:
        view = await run_in_threadpool(api.read, job)
        events: list[bytes] = []
        if view.plan is not None and last_id != _ENDED:
            said = await run_in_threadpool(_said, api, view, following)
            events += [_event(content, number) for number, content in said]
            following += len(said)
        if (progress := job_views.progress(view)) != shown:
            events.append(_event(progress_event(progress, view.state)))
            shown = progress
        if view.end is not None:
            ended = await run_in_threadpool(api.show, view)
            events.append(_event(ended_event(ended), _ENDED))
        elif not events and time.monotonic() - sent_at > _ALIVE_SECONDS:
            events.append(b": still there\n\n")
        for each in events:
            yield each
            sent_at = time.monotonic()
        if view.end is not None:
            return
        await asyncio.sleep(every_seconds)


def _said(api: JobsApi, view: Job, begin: int) -> list[tuple[int, dict[str, Any]]]:
    return [
        (number, transcript_event(start, end, segments))
        for number, start, end, segments in job_views.heard_stretches(api.book, view, begin)
    ]


def _event(content: dict[str, Any], number: int | str | None = None) -> bytes:
    name = "" if number is None else f"id: {number}\n"
    data = json.dumps(content, separators=(",", ":"))  # in ASCII: some clients take U+2028 for the end of a line
    return f"{name}event: {content['type']}\ndata: {data}\n\n".encode()
