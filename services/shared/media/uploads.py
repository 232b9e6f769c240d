"""Uploads: streamed through the gateway, or in parts that a client writes to the object store directly."""

import hashlib
from collections.abc import Sequence
from threading import Lock

from services.shared.media.library import MediaLibrary
from services.shared.media.records import MediaRecord, UploadRecord, content_key, is_upload_id, upload_key
from services.shared.media.settings import MIB
from services.shared.service_errors import InvalidInput, NotFound
from services.shared.storage.store_errors import InvalidParts, ObjectMissing

STREAM_PART_BYTES = 8 * MIB  # buffered by a stream before it writes a part
_MIN_PART_BYTES = 16 * MIB
_MAX_PARTS = 1_000
_HASH_BLOCK_BYTES = 8 * MIB


class StreamedUpload:
    """Content that arrives in pieces, hashed and written as it arrives.

    Usage: `write` pieces of STREAM_PART_BYTES each, then `finish(rest)`; or `abort`, at any time and from any thread.
    """

    def __init__(self, library: MediaLibrary, tenant: str, filename: str) -> None:
        self._library = library
        self._tenant = tenant
        self._upload = library.new_upload(filename=filename)
        self._key = content_key(tenant, self._upload.id)
        self._hash = hashlib.sha256()
        self._size = 0
        self._etags: list[str] = []
        self._started = self._ended = False
        self._lock = Lock()

    def write(self, data: bytes | bytearray) -> None:
        """Writes a piece of at least 5 MiB. Raises InvalidInput if the content becomes too large."""
        with self._lock:
            self._write(data)

    def finish(self, rest: bytes | bytearray) -> MediaRecord:
        """Writes the last piece, of any size, and registers the content. Raises InvalidInput like `register`."""
        with self._lock:
            record = self._finish(rest)
            self._ended = True
            return record

    def abort(self) -> None:
        """Deletes what has been written, unless the upload is finished."""
        with self._lock:
            if self._started and not self._ended:
                self._library.discard(self._tenant, self._upload.id, self._upload.parts)
            self._ended = True

    def _write(self, data: bytes | bytearray) -> None:
        self._count(data)
        store = self._library.store
        if not self._upload.parts:
            parts = store.begin_parts(self._key)
            self._upload = self._upload.model_copy(update={"parts": parts})
            self._start()
        self._etags.append(store.put_part(self._key, self._upload.parts, len(self._etags) + 1, data))

    def _finish(self, rest: bytes | bytearray) -> MediaRecord:
        store, small = self._library.store, None
        if self._upload.parts:
            if rest:
                self._write(rest)
            store.finish_parts(self._key, self._upload.parts, self._etags)
            self._upload = self._upload.model_copy(update={"parts": ""})
        else:
            self._count(rest)
            small = bytes(rest)
            self._start()
            store.put(self._key, small, "application/octet-stream")
        record = self._library.register(self._tenant, self._upload, self._size, self._hash.hexdigest(), small)
        store.delete(upload_key(self._tenant, self._upload.id))
        return record

    def _start(self) -> None:
        self._library.write_upload(self._tenant, self._upload)
        self._started = True

    def _count(self, data: bytes | bytearray) -> None:
        if self._ended:
            raise RuntimeError("the upload has ended")
        self._size += len(data)
        self._library.check_size(self._size)
        self._hash.update(data)


def create_multipart(library: MediaLibrary, tenant: str, filename: str, size: int) -> tuple[UploadRecord, list[str]]:
    """Creates an upload of `size` bytes that bypasses the gateway. Returns it, and a URL to PUT each part to, in order.

    Raises InvalidInput if the size is over the limit.
    """
    library.check_size(size)
    part_bytes = max(_MIN_PART_BYTES, -(-size // _MAX_PARTS // MIB) * MIB)
    upload = library.new_upload(filename=filename, size=size)
    key = content_key(tenant, upload.id)
    parts = library.store.begin_parts(key)
    upload = upload.model_copy(update={"parts": parts, "part_bytes": part_bytes})
    library.write_upload(tenant, upload)
    seconds = int(library.settings.upload_seconds)
    count = -(-size // part_bytes)
    return upload, [library.store.presigned_part(key, parts, number, seconds) for number in range(1, count + 1)]


def complete_multipart(library: MediaLibrary, tenant: str, upload_id: str, etags: Sequence[str]) -> MediaRecord:
    """Joins the parts that a client has written and registers the content. Idempotent.

    Raises:
        NotFound: There is no such upload, or it has timed out.
        InvalidInput: Parts are missing or differ from what was announced, or the content is not media. If all parts
            were there the upload has ended; otherwise it may be continued.
    """
    upload = _find(library, tenant, upload_id)
    if upload.media_id:
        return library.get(tenant, upload.media_id)
    key, count = content_key(tenant, upload_id), -(-upload.bytes // upload.part_bytes)
    if len(etags) != count:
        raise InvalidInput("parts", f"{len(etags)} parts were listed where {count} are expected")
    try:
        library.store.finish_parts(key, upload.parts, etags)
        size, sha256 = _digest(library, key)
    except InvalidParts as error:
        raise InvalidInput("parts", str(error)) from error
    except ObjectMissing as error:
        raise _unknown(upload_id) from error
    try:
        if size != upload.bytes:
            raise InvalidInput("parts", f"they hold {size:,} bytes where {upload.bytes:,} were announced")
        record = library.register(tenant, upload, size, sha256)
    except InvalidInput:
        library.discard(tenant, upload_id)
        raise
    library.write_upload(tenant, upload.model_copy(update={"media_id": record.id}))
    return record


def abort_multipart(library: MediaLibrary, tenant: str, upload_id: str) -> None:
    """Discards an upload. Raises NotFound if there is none, or if it is complete."""
    upload = _find(library, tenant, upload_id)
    if upload.media_id:
        raise _unknown(upload_id)
    library.discard(tenant, upload_id, upload.parts)


def _find(library: MediaLibrary, tenant: str, upload_id: str) -> UploadRecord:
    if not is_upload_id(upload_id):
        raise _unknown(upload_id)
    try:
        upload = UploadRecord.model_validate_json(library.store.get(upload_key(tenant, upload_id)))
    except ObjectMissing as error:
        raise _unknown(upload_id) from error
    if not upload.part_bytes or upload.expires_at <= library.clock():
        raise _unknown(upload_id)
    return upload


def _unknown(upload_id: str) -> NotFound:
    return NotFound(f"There is no upload {upload_id[:60]!r}.")


def _digest(library: MediaLibrary, key: str) -> tuple[int, str]:
    """Size and SHA-256 (hex) of content in the store."""
    found, size = hashlib.sha256(), 0
    with library.store.open(key, _HASH_BLOCK_BYTES) as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            found.update(block)
            size += len(block)
    return size, found.hexdigest()
