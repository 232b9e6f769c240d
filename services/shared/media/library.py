"""The media of tenants: reading, registering and deleting them. Blocking; may be shared by threads."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import BinaryIO

from services.shared.media.content import Content, inspect
from services.shared.media.records import (
    MediaRecord,
    UploadRecord,
    content_key,
    is_media_id,
    media_id_of,
    new_upload_id,
    record_key,
    records_prefix,
    upload_key,
)
from services.shared.media.settings import MediaSettings
from services.shared.sandbox.decoders import Decoders
from services.shared.service_errors import InvalidInput, NotFound
from services.shared.storage.client import ObjectStore
from services.shared.storage.store_errors import ObjectMissing

FIELD = "file"
DAY_SECONDS = 86_400
_NAME_CHARACTERS = 255


class MediaLibrary:
    """Records and content in the object store. Another tenant's media are reported like media that do not exist.

    Content is written first, then its record. While content has no media record, an upload record refers to it, so that
    the sweep finds everything that an interrupted upload or deletion leaves behind.
    Every method raises services.shared.storage.store_errors.StoreUnavailable if the store does.
    """

    def __init__(self, store: ObjectStore, settings: MediaSettings, clock: Callable[[], float] = time.time) -> None:
        self.store = store
        self.settings = settings
        self.clock = clock
        self.decoders = Decoders(settings)  # starts its processes on first use, or with start()

    def get(self, tenant: str, media_id: str) -> MediaRecord:
        """Raises NotFound for media that do not exist, belong to another tenant, or have expired."""
        record = self.read(tenant, media_id) if is_media_id(media_id) else None
        if record is None or record.expires_at <= self.clock():
            raise NotFound(f"There is no media {media_id[:60]!r}.")
        return record

    def page(self, tenant: str, after: str = "", limit: int = 20) -> tuple[list[MediaRecord], bool]:
        """Up to `limit` records after the id `after`, ordered by id; and whether there are more."""
        records: list[MediaRecord] = []
        prefix = records_prefix(tenant)
        for each in self.store.list(prefix, record_key(tenant, after) if after else ""):
            record = self.read(tenant, each.key.removeprefix(prefix).removesuffix(".json"))
            if record is None or record.expires_at <= self.clock():
                continue
            if len(records) == limit:
                return records, True
            records.append(record)
        return records, False

    def open(self, record: MediaRecord) -> BinaryIO:
        """The content as a seekable file. Raises NotFound if it has been deleted since."""
        try:
            return self.store.open(record.content)
        except ObjectMissing as error:
            raise NotFound(f"There is no media {record.id!r}.") from error

    def load(self, record: MediaRecord) -> bytes:
        """The whole content in memory. Raises NotFound if it has been deleted since."""
        try:
            return self.store.get(record.content)
        except ObjectMissing as error:
            raise NotFound(f"There is no media {record.id!r}.") from error

    def delete(self, tenant: str, media_id: str) -> None:
        """Raises NotFound like `get`."""
        self.remove(tenant, self.get(tenant, media_id))

    def remove(self, tenant: str, record: MediaRecord) -> None:
        """Deletes a record, then its content. The sweep completes what is interrupted."""
        upload_id = record.content.rpartition("/")[2]
        self.write_upload(tenant, self.new_upload(upload_id=upload_id), may_use_reserve=True)
        self.store.delete(record_key(tenant, record.id))
        self.discard(tenant, upload_id)

    def new_upload(self, *, filename: str = "", size: int = 0, upload_id: str = "") -> UploadRecord:
        """A record that expires when the upload times out; not written yet."""
        now = self.clock()
        return UploadRecord(
            id=upload_id or new_upload_id(),
            filename=_basename(filename),
            bytes=size,
            created_at=int(now),
            expires_at=int(now + self.settings.upload_seconds),
        )

    def write_upload(self, tenant: str, upload: UploadRecord, *, may_use_reserve: bool = False) -> None:
        """See ObjectStore.put for `may_use_reserve`."""
        self.store.put(
            upload_key(tenant, upload.id), upload.model_dump_json().encode(), may_use_reserve=may_use_reserve
        )

    def discard(self, tenant: str, upload_id: str, parts: str = "") -> None:
        """Deletes content without a media record, and its upload record."""
        key = content_key(tenant, upload_id)
        if parts:
            self.store.abort_parts(key, parts)
        self.store.delete(key)
        self.store.delete(upload_key(tenant, upload_id))

    def check_size(self, size: int) -> None:
        """Raises InvalidInput for content over the limit."""
        limit = self.settings.max_media_bytes
        if size > limit:
            raise InvalidInput(FIELD, f"{size:,} bytes are over the limit of {limit:,} bytes")

    def register(
        self, tenant: str, upload: UploadRecord, size: int, sha256: str, data: bytes | None = None
    ) -> MediaRecord:
        """Creates the media record of an upload whose content is complete, or returns that of the same content.

        Args:
            data: The content, if it is in memory.

        Raises:
            InvalidInput: Not media, or over a limit. The content stays in the store: `discard` it.
        """
        self.check_size(size)
        key = content_key(tenant, upload.id)
        content = self._inspect(tenant, key, data)
        limit = self.settings.max_media_seconds
        if content.seconds is not None and content.seconds > limit:
            raise InvalidInput(FIELD, f"{content.seconds:,.0f} s are over the limit of {limit:,.0f} s")
        now = int(self.clock())
        record = MediaRecord(
            id=media_id_of(sha256),
            content=key,
            filename=upload.filename,
            bytes=size,
            sha256=sha256,
            created_at=now,
            expires_at=now + int(self.settings.media_days * DAY_SECONDS),
            **asdict(content),
        )
        return self._save(tenant, record)

    def _inspect(self, tenant: str, key: str, data: bytes | None) -> Content:
        if data is not None:
            return inspect(self.decoders, data, self.settings, field=FIELD, tenant=tenant)
        with self.store.open(key) as source:
            return inspect(self.decoders, source, self.settings, field=FIELD, tenant=tenant)

    def _save(self, tenant: str, record: MediaRecord) -> MediaRecord:
        """Writes the record, or extends the expiry of an existing record of the same content."""
        key = record_key(tenant, record.id)
        while not self.store.put_new(key, record.model_dump_json().encode()):
            old = self.read(tenant, record.id)
            if old is None:
                continue  # deleted in between
            if old.content != record.content and self.store.stat(old.content) is not None:
                self.store.delete(record.content)
                record = old.model_copy(update={"expires_at": max(old.expires_at, record.expires_at)})
            self.store.put(key, record.model_dump_json().encode())
            return record
        return record

    def read(self, tenant: str, media_id: str) -> MediaRecord | None:
        """A record, even if expired; None if there is none."""
        try:
            return MediaRecord.model_validate_json(self.store.get(record_key(tenant, media_id)))
        except ObjectMissing:
            return None


def _basename(filename: str) -> str:
    """The last component of a path, without unprintable characters."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in name if letter.isprintable())[:_NAME_CHARACTERS]
