"""The media of tenants: what there is, what is taken in, what is deleted. Blocking; may be shared by threads."""

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
    """Records and content in the object store. What one tenant has is unknown to another.

    Content is written first, then its record; an upload record stands for content that has no media record, from
    before it is written until after, so that nothing is left behind that a sweep could not find.
    Every method raises services.shared.storage.store_errors.StoreUnavailable where the store does.
    """

    def __init__(self, store: ObjectStore, settings: MediaSettings, clock: Callable[[], float] = time.time) -> None:
        self.store = store
        self.settings = settings
        self.clock = clock
        self.decoders = Decoders(settings)  # without a process until it is used, or told to start

    def get(self, tenant: str, media_id: str) -> MediaRecord:
        """Raises NotFound for what is unknown, another tenant's, or expired."""
        record = self.read(tenant, media_id) if is_media_id(media_id) else None
        if record is None or record.expires_at <= self.clock():
            raise NotFound(f"There is no media {media_id[:60]!r}.")
        return record

    def page(self, tenant: str, after: str = "", limit: int = 20) -> tuple[list[MediaRecord], bool]:
        """At most `limit` records in the order of their ids, behind the id `after`; and whether there are more."""
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
        """The content as a seekable file. Raises NotFound where it was deleted since."""
        try:
            return self.store.open(record.content)
        except ObjectMissing as error:
            raise NotFound(f"There is no media {record.id!r}.") from error

    def load(self, record: MediaRecord) -> bytes:
        """The whole content in memory. Raises NotFound where it was deleted since."""
        try:
            return self.store.get(record.content)
        except ObjectMissing as error:
            raise NotFound(f"There is no media {record.id!r}.") from error

    def delete(self, tenant: str, media_id: str) -> None:
        """Raises NotFound as `get` does."""
        self.remove(tenant, self.get(tenant, media_id))

    def remove(self, tenant: str, record: MediaRecord) -> None:
        """Deletes a record, then its content; what is interrupted, a sweep finishes."""
        upload_id = record.content.rpartition("/")[2]
        self.write_upload(tenant, self.new_upload(upload_id=upload_id), makes_room=True)
        self.store.delete(record_key(tenant, record.id))
        self.discard(tenant, upload_id)

    def new_upload(self, *, filename: str = "", size: int = 0, upload_id: str = "") -> UploadRecord:
        """A record that expires when its upload may no longer go on; not written yet."""
        now = self.clock()
        return UploadRecord(
            id=upload_id or new_upload_id(),
            filename=_plain_name(filename),
            bytes=size,
            created_at=int(now),
            expires_at=int(now + self.settings.upload_seconds),
        )

    def write_upload(self, tenant: str, upload: UploadRecord, *, makes_room: bool = False) -> None:
        """`makes_room` as for the store's `put`."""
        self.store.put(upload_key(tenant, upload.id), upload.model_dump_json().encode(), makes_room=makes_room)

    def discard(self, tenant: str, upload_id: str, parts: str = "") -> None:
        """Deletes content that no media record has, and its upload record."""
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

    def admit(
        self, tenant: str, upload: UploadRecord, size: int, sha256: str, data: bytes | None = None
    ) -> MediaRecord:
        """Makes an upload's content, which lies whole in the store, media; or what it is already, where it was there.

        Args:
            data: The content, where it is at hand.

        Raises:
            InvalidInput: Not media, or over a limit. The content stays: `discard` it.
        """
        self.check_size(size)
        key = content_key(tenant, upload.id)
        content = self._inspected(tenant, key, data)
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
        return self._kept(tenant, record)

    def _inspected(self, tenant: str, key: str, data: bytes | None) -> Content:
        if data is not None:
            return inspect(self.decoders, data, self.settings, field=FIELD, tenant=tenant)
        with self.store.open(key) as source:
            return inspect(self.decoders, source, self.settings, field=FIELD, tenant=tenant)

    def _kept(self, tenant: str, record: MediaRecord) -> MediaRecord:
        """The record of this content: the new one, or an older one with the new one's time to live."""
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
        """A record, expired or not; None where there is none."""
        try:
            return MediaRecord.model_validate_json(self.store.get(record_key(tenant, media_id)))
        except ObjectMissing:
            return None


def _plain_name(filename: str) -> str:
    """The last part of a path, without what cannot be printed."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in name if letter.isprintable())[:_NAME_CHARACTERS]
