"""Records of media and uploads, and their keys in the object store.

media/{tenant}/records/{media_id}.json     a MediaRecord
media/{tenant}/content/{upload_id}         the uploaded bytes
media/{tenant}/uploads/{upload_id}.json    an UploadRecord: content without a media record (yet, or any more)
"""

import re
import secrets
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ROOT = "media/"
Kind = Literal["audio", "video", "image"]

_MEDIA_ID = re.compile(r"media-[0-9a-f]{32}")
_UPLOAD_ID = re.compile(r"upload-[0-9a-f]{32}")


class MediaRecord(BaseModel):
    """One recording, video or picture of a tenant. Times are seconds since 1970.

    Attributes:
        id: media- and the first 32 hex digits of the content's SHA-256.
        content: Key of the bytes in the object store.
        container: wav, mp3, flac, ogg, mp4, webm, aac; jpeg, png, webp.
        codec: FFmpeg's name of the audio codec, or of the video codec if there is no audio; None for pictures.
        seconds: Duration according to the file; None if unknown, and for pictures.
        channels, sample_rate: Of the audio; None if there is none.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    content: str
    filename: str
    bytes: int
    sha256: str
    kind: Kind
    container: str
    codec: str | None = None
    seconds: float | None = None
    channels: int | None = None
    sample_rate: int | None = None
    created_at: int
    expires_at: int

    @property
    def has_audio(self) -> bool:
        return self.channels is not None


class UploadRecord(BaseModel):
    """Content without a media record: it is being written, awaits completion by its client, or is to be deleted.

    Attributes:
        parts: Id of the multipart upload in the object store; empty if there is none.
        part_bytes: Size of each part but the last if the client writes them itself; else 0.
        bytes: Size announced by the client; 0 if unknown.
        media_id: Id of the resulting media; empty until then.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    filename: str = ""
    bytes: int = Field(default=0, ge=0)
    parts: str = ""
    part_bytes: int = 0
    created_at: int
    expires_at: int
    media_id: str = ""


def new_upload_id() -> str:
    return f"upload-{secrets.token_hex(16)}"


def media_id_of(sha256: str) -> str:
    """The id of content with this digest (hex)."""
    return f"media-{sha256[:32]}"


def is_media_id(text: str) -> bool:
    return _MEDIA_ID.fullmatch(text) is not None


def is_upload_id(text: str) -> bool:
    return _UPLOAD_ID.fullmatch(text) is not None


def records_prefix(tenant: str) -> str:
    return f"{ROOT}{tenant}/records/"


def record_key(tenant: str, media_id: str) -> str:
    return f"{records_prefix(tenant)}{media_id}.json"


def content_key(tenant: str, upload_id: str) -> str:
    return f"{ROOT}{tenant}/content/{upload_id}"


def uploads_prefix(tenant: str) -> str:
    return f"{ROOT}{tenant}/uploads/"


def upload_key(tenant: str, upload_id: str) -> str:
    return f"{uploads_prefix(tenant)}{upload_id}.json"
