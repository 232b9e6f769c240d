"""Media: uploaded once, then referred to by id in any number of requests."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.concurrency import run_in_threadpool

from services.gateway.dependencies import ApiKey, Media
from services.gateway.http.api_errors import bad_request
from services.gateway.http.error_response import ERROR_RESPONSES
from services.gateway.http.json_route import JsonRoute
from services.gateway.http.route_markers import accepts_upload
from services.gateway.media import schemas
from services.gateway.media.uploads import receive_form
from services.shared.media.library import FIELD
from services.shared.media.uploads import abort_multipart, complete_multipart, create_multipart

router = APIRouter(prefix="/v1/media", tags=["media"], route_class=JsonRoute, responses=ERROR_RESPONSES)

MediaId = Annotated[str, Path(max_length=200, description="media-...")]
UploadId = Annotated[str, Path(max_length=200, description="upload-...")]

_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


@router.post("", openapi_extra=_FORM)
@accepts_upload
async def upload_media(request: Request, key: ApiKey, media: Media) -> schemas.Media:
    """Uploads a recording, a video or a picture. The same file gets the same id and is stored once."""
    form = await receive_form(request, media, key.tenant)
    if form.media is None:
        raise bad_request(FIELD, "is required", "missing_required_parameter")
    return schemas.Media.of(form.media)


@router.get("")
async def list_media(
    key: ApiKey,
    media: Media,
    after: Annotated[str, Query(max_length=200, description="`last_id` of the previous page.")] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> schemas.MediaList:
    """Lists your media, ordered by id."""
    records, more = await run_in_threadpool(media.page, key.tenant, after, limit)
    first, last = (records[0].id, records[-1].id) if records else (None, None)
    data = [schemas.Media.of(record) for record in records]
    return schemas.MediaList(data=data, first_id=first, last_id=last, has_more=more)


@router.post("/uploads")
async def create_upload(body: schemas.UploadRequest, key: ApiKey, media: Media) -> schemas.Upload:
    """Starts an upload of a large file in parts, directly to the object store."""
    upload, urls = await run_in_threadpool(create_multipart, media, key.tenant, body.filename, body.bytes)
    return schemas.Upload.of(upload, urls)


@router.post("/uploads/{upload_id}/complete")
async def complete_upload(
    upload_id: UploadId, body: schemas.CompleteRequest, key: ApiKey, media: Media
) -> schemas.Media:
    """Joins the parts into a file. The file is read once for that, so a large one takes a while."""
    numbers = [part.number for part in body.parts]
    if numbers != list(range(1, len(numbers) + 1)):
        raise bad_request("parts", "have to be numbered 1, 2, 3, ... without gaps, in order")
    etags = [part.etag.strip('"') for part in body.parts]
    return schemas.Media.of(await run_in_threadpool(complete_multipart, media, key.tenant, upload_id, etags))


@router.delete("/uploads/{upload_id}")
async def delete_upload(upload_id: UploadId, key: ApiKey, media: Media) -> schemas.MediaDeleted:
    """Aborts an upload that is not complete."""
    await run_in_threadpool(abort_multipart, media, key.tenant, upload_id)
    return schemas.MediaDeleted(id=upload_id, object="media.upload.deleted")


@router.get("/{media_id}")
async def retrieve_media(media_id: MediaId, key: ApiKey, media: Media) -> schemas.Media:
    """Retrieves the metadata of a file."""
    return schemas.Media.of(await run_in_threadpool(media.get, key.tenant, media_id))


@router.delete("/{media_id}")
async def delete_media(media_id: MediaId, key: ApiKey, media: Media) -> schemas.MediaDeleted:
    """Deletes a file. Jobs that have read it keep their results."""
    await run_in_threadpool(media.delete, key.tenant, media_id)
    return schemas.MediaDeleted(id=media_id)
