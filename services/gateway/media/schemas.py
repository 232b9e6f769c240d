"""Schemas of media and uploads."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from services.shared.media.records import Kind, MediaRecord, UploadRecord


class Media(BaseModel):
    """A stored recording, video or picture that requests can refer to by id."""

    id: str
    object: Literal["media"] = "media"
    filename: str
    bytes: int
    sha256: str
    kind: Kind
    container: str = Field(description="wav, w64, mp3, flac, ogg, mp4, webm or aac; jpeg, png or webp.")
    codec: str | None = Field(description="Audio codec; in a video without audio, the video codec.")
    seconds: float | None = Field(description="Duration according to the file; null if unknown, and for pictures.")
    channels: int | None
    sample_rate: int | None
    created_at: int
    expires_at: int

    @classmethod
    def of(cls, record: MediaRecord) -> "Media":
        return cls(**record.model_dump(exclude={"content"}))


class MediaList(BaseModel):
    """A page of media, ordered by id."""

    object: Literal["list"] = "list"
    data: list[Media]
    first_id: str | None
    last_id: str | None = Field(description="Value of `after` for the next page.")
    has_more: bool


class MediaDeleted(BaseModel):
    id: str
    object: Literal["media.deleted", "media.upload.deleted"] = "media.deleted"
    deleted: Literal[True] = True


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class UploadRequest(_Request):
    """A file that the client will write to the object store itself."""

    filename: str = Field(min_length=1, max_length=1024)
    bytes: int = Field(ge=1, description="Exact size.")


class UploadPart(BaseModel):
    number: int
    url: str = Field(description="PUT the part here, without an API key; completing needs the response's ETag header.")


class Upload(BaseModel):
    """Where to write the parts: each of `part_bytes`, the last one of what remains."""

    id: str
    object: Literal["media.upload"] = "media.upload"
    filename: str
    bytes: int
    part_bytes: int
    parts: list[UploadPart]
    created_at: int
    expires_at: int

    @classmethod
    def of(cls, upload: UploadRecord, urls: list[str]) -> "Upload":
        fields = upload.model_dump(exclude={"parts", "media_id"})
        return cls(**fields, parts=[UploadPart(number=number, url=url) for number, url in enumerate(urls, 1)])


class WrittenPart(_Request):
    number: int = Field(ge=1)
    etag: str = Field(min_length=1, max_length=200, description="ETag header of the PUT's response.")


class CompleteRequest(_Request):
    """The written parts of an upload."""

    parts: list[WrittenPart] = Field(fail_fast=True, min_length=1, max_length=10_000)
