"""Loads the media that a chat request refers to by id, and checks their kinds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from services.gateway.chat.schemas import (
    AudioContent,
    ChatRequest,
    ContentPart,
    ImageContent,
    StoredAudio,
    TextContent,
    VideoContent,
)
from services.gateway.http.api_errors import ApiError, bad_request
from services.gateway.http.concurrency import BodyMemory
from services.gateway.settings import GatewaySettings
from services.shared.media.library import MediaLibrary
from services.shared.media.records import Kind, MediaRecord
from services.shared.service_errors import NotFound

URL_SCHEME = "media:"


@dataclass(frozen=True, slots=True)
class StoredMedia:
    """Media in memory."""

    record: MediaRecord
    data: bytes = field(repr=False)

    @property
    def media_type(self) -> str:
        """Media type of a picture or video, such as "image/png"."""
        return f"{self.record.kind}/{self.record.container}"


async def load_referenced(
    request: ChatRequest, tenant: str, media: MediaLibrary, settings: GatewaySettings, memory: BodyMemory
) -> Mapping[str, StoredMedia]:
    """Loads all media that a request refers to, each once. Returns them by id.

    Args:
        memory: Counts their bytes as if they were part of the body.

    Raises:
        ApiError: 404 for unknown media, 400 for the wrong kind or for too many or too large ones, 429 if the gateway
            holds too many bytes.
    """
    references = list(_references(request))
    if len(references) > settings.max_media:
        count, limit = len(references), settings.max_media
        text = f"{count} recordings, pictures and videos are over the limit of {limit} in one request"
        raise bad_request("messages", text, "too_many_media")
    loaded: dict[str, StoredMedia] = {}
    for path, media_id, kinds in references:
        if media_id not in loaded:
            try:
                record = await run_in_threadpool(media.get, tenant, media_id)
                _check(record, path, kinds)
                if memory.size + record.bytes > settings.max_body_bytes:
                    limit = settings.max_body_bytes
                    raise bad_request(
                        path, f"the request and the media it refers to are over the limit of {limit:,} bytes"
                    )
                memory.reserve(record.bytes)
                loaded[media_id] = StoredMedia(record, await run_in_threadpool(media.load, record))
            except NotFound as error:
                raise ApiError(404, f"{path}: {error.message}", param=path, code="media_not_found") from error
        _check(loaded[media_id].record, path, kinds)
    return loaded


def _references(request: ChatRequest) -> Iterator[tuple[str, str, tuple[Kind, ...]]]:
    """Yields the path of each reference, the media id, and the allowed kinds."""
    for row, message in enumerate(request.messages):
        parts = message.content if isinstance(message.content, list) else []
        for column, part in enumerate(parts):
            if (found := _reference_in(part)) is not None:
                path, media_id, kinds = found
                yield f"messages[{row}].content[{column}].{path}", media_id, kinds


def _reference_in(part: ContentPart | TextContent) -> tuple[str, str, tuple[Kind, ...]] | None:
    match part:
        case AudioContent(input_audio=StoredAudio(media_id=media_id)):
            return "input_audio.media_id", media_id, ("audio", "video")
        case ImageContent() if part.image_url.url.startswith(URL_SCHEME):
            return "image_url.url", part.image_url.url.removeprefix(URL_SCHEME), ("image",)
        case VideoContent() if part.video_url.url.startswith(URL_SCHEME):
            return "video_url.url", part.video_url.url.removeprefix(URL_SCHEME), ("video",)
        case _:
            return None


def _check(record: MediaRecord, path: str, kinds: tuple[Kind, ...]) -> None:
    if record.kind not in kinds:
        raise bad_request(path, f"{record.id} has the kind {record.kind}, not {' or '.join(kinds)}")
    if "audio" in kinds and not record.has_audio:
        raise bad_request(path, f"{record.id} is a video without sound")
