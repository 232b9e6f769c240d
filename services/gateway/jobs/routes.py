"""Long-audio jobs: submit, watch, read results, ask, cancel, delete."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import AwareDatetime, TypeAdapter
from starlette.concurrency import run_in_threadpool

from services.gateway.dependencies import ApiKey, Jobs, Media, Settings
from services.gateway.http.api_errors import bad_request
from services.gateway.http.error_response import ERROR_RESPONSES
from services.gateway.http.json_route import JsonRoute, parse_field, read_json
from services.gateway.http.keys import Key
from services.gateway.http.route_markers import accepts_upload
from services.gateway.http.streaming import StreamedBody
from services.gateway.jobs import schemas
from services.gateway.jobs.events import job_events
from services.gateway.jobs.service import parse_job_id
from services.gateway.media.uploads import receive_form
from services.gateway.settings import GatewaySettings
from services.shared.jobs.kinds import State
from services.shared.media.library import MediaLibrary
from services.shared.media.records import MediaRecord

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=JsonRoute, responses=ERROR_RESPONSES)

_OPTIONS = TypeAdapter(schemas.JobOptions)
_REQUEST = TypeAdapter(schemas.JobRequest)

JobIdPath = Annotated[str, Path(max_length=200, description="job-...")]
_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/JobRequest"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "request": {"$ref": "#/components/schemas/JobOptions"},
                        "file": {"type": "string", "format": "binary"},
                    },
                }
            },
        },
    }
}
_TEXTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {}, "application/x-subrip": {}, "text/vtt": {}}}
}
_EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}


@router.post("", status_code=202, openapi_extra=_FORM, response_model=schemas.JobObject)
@accepts_upload
async def submit_job(
    request: Request,
    key: ApiKey,
    jobs: Jobs,
    media: Media,
    settings: Settings,
    idempotency_key: Annotated[str, Header(max_length=255, description="Repeating it returns the same job.")] = "",
) -> schemas.JobObject:
    """Submits a job on an uploaded recording, or on one that is sent along in a form."""
    recording, options = await _recording_and_options(request, key, media, settings)
    return await jobs.submit(key.tenant, recording, options, idempotency_key)


@router.get("")
async def list_jobs(
    key: ApiKey,
    jobs: Jobs,
    after: Annotated[str, Query(max_length=200, description="`next` of the previous page.")] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    state: State | None = None,
    created_after: AwareDatetime | None = None,
) -> schemas.JobList:
    """Lists your jobs, newest first."""
    return await jobs.page(key.tenant, after, limit, state, created_after)


@router.get("/{job_id}")
async def retrieve_job(job_id: JobIdPath, key: ApiKey, jobs: Jobs) -> schemas.JobObject:
    """Retrieves a job."""
    return await jobs.retrieve(parse_job_id(key.tenant, job_id))


@router.get("/{job_id}/events", response_class=Response, responses=_EVENTS)
async def watch_job(
    job_id: JobIdPath,
    request: Request,
    key: ApiKey,
    jobs: Jobs,
    settings: Settings,
    last_event_id: Annotated[str, Header(max_length=64, description="Resumes after this event.")] = "",
) -> Response:
    """Streams the transcript as it becomes final, the progress, and how the job ended."""
    events = job_events(jobs, parse_job_id(key.tenant, job_id), last_event_id, settings.job_event_seconds)
    return await StreamedBody.begin(request, events, "text/event-stream")


@router.get("/{job_id}/result", response_model=schemas.JobResult, responses=_TEXTS)
async def job_result(
    job_id: JobIdPath, key: ApiKey, jobs: Jobs, format: Literal["json", "text", "srt", "vtt"] = "json"
) -> Response:
    """The result of a job; of a failed one, what there is."""
    result = await jobs.result(parse_job_id(key.tenant, job_id))
    if format == "json":
        return JSONResponse(result.model_dump(mode="json"))
    if result.text is None:
        raise bad_request("format", "has to be json for a job without the task 'transcript'")
    if format == "text":
        return PlainTextResponse(f"{result.text}\n")
    content = await jobs.subtitles(parse_job_id(key.tenant, job_id), format)
    return Response(content, media_type={"srt": "application/x-subrip", "vtt": "text/vtt"}[format])


@router.post("/{job_id}/cancel")
async def cancel_job(job_id: JobIdPath, key: ApiKey, jobs: Jobs) -> schemas.JobObject:
    """Cancels a job and discards its transcript so far. A job that has ended stays as it is."""
    return await jobs.cancel(parse_job_id(key.tenant, job_id))


@router.post("/{job_id}/questions", status_code=202)
async def ask_job(job_id: JobIdPath, body: schemas.QuestionsRequest, key: ApiKey, jobs: Jobs) -> schemas.QuestionList:
    """Asks more questions about a job's recording, which is not encoded again. Answers appear in the job's result."""
    return await jobs.ask(parse_job_id(key.tenant, job_id), body.questions)


@router.delete("/{job_id}")
async def delete_job(job_id: JobIdPath, key: ApiKey, jobs: Jobs) -> schemas.DeletedJob:
    """Deletes a job that has ended, including its results."""
    await jobs.delete(parse_job_id(key.tenant, job_id))
    return schemas.DeletedJob(id=job_id)


async def _recording_and_options(
    request: Request, key: Key, media: MediaLibrary, settings: GatewaySettings
) -> tuple[MediaRecord, schemas.JobOptions]:
    """The recording and the options of a job, from JSON or from a form."""
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        form = await receive_form(request, media, key.tenant, allowed=("request",))
        if form.media is None:
            raise bad_request("file", "is required", "missing_required_parameter")
        return form.media, parse_field((form.fields.get("request") or ["{}"])[0], _OPTIONS, settings)
    body = await read_json(request, _REQUEST, any_type=True)
    record = await run_in_threadpool(media.get, key.tenant, body.media_id)
    return record, body
