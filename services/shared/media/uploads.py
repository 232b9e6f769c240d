"""Two ways in: a stream that goes through the gateway, and parts that a client writes to the object store itself."""

import hashlib
from collections.abc import Sequence
from threading import Lock

from services.shared.media.library import MediaLibrary
from services.shared.media.records import MediaRecord, UploadRecord, content_key, is_upload_id, upload_key
from services.shared.media.settings import MIB
from services.shared.service_errors import InvalidInput, NotFound
from services.shared.storage.store_errors import ObjectMissing, PartsRefused

STREAM_PART_BYTES = 8 * MIB  # what a stream holds before it writes
_LEAST_PART_BYTES = 16 * MIB
_MOST_PARTS = 1_000
_HASH_BLOCK_BYTES = 8 * MIB


class StreamedUpload:
    """Content that comes in pieces, hashed and written as it comes.

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
        self._begun = self._over = False
        self._lock = Lock()

    def write(self, data: bytes | bytearray) -> None:
        """Stores a piece, of at least 5 MiB. Raises InvalidInput where it all becomes too large."""
        with self._lock:
            self._write(data)

    def finish(self, rest: bytes | bytearray) -> MediaRecord:
        """Stores the last piece, of any size, and makes it all media. Raises InvalidInput where that cannot be."""
        with self._lock:
            record = self._finish(rest)
            self._over = True
            return record

    def abort(self) -> None:
        """Leaves nothing behind of what is not finished."""
        with self._lock:
            if self._begun and not self._over:
                self._library.discard(self._tenant, self._upload.id, self._upload.parts)
            self._over = True

    def _write(self, data: bytes | bytearray) -> None:
        self._count(data)
        store = self._library.store
        if not self._upload.parts:
            parts = store.begin_parts(self._key)
            self._upload = self._upload.model_copy(update={"parts": parts})
            self._begin()
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
            self._begin()
            store.put(self._key, small, "application/octet-stream")
        record = self._library.admit(self._tenant, self._upload, self._size, self._hash.hexdigest(), small)
        store.delete(upload_key(self._tenant, self._upload.id))
        return record

    def _begin(self) -> None:
        self._library.write_upload(self._tenant, self._upload)
        self._begun = True

    def _count(self, data: bytes | bytearray) -> None:
        if self._over:
            raise RuntimeError("the upload is over")
        self._size += len(data)
        self._library.check_size(self._size)
        self._hash.update(data)


def offer_parts(library: MediaLibrary, tenant: str, filename: str, size: int) -> tuple[UploadRecord, list[str]]:
    """Begins an upload of `size` bytes that goes past the gateway. Returns it, and a URL to PUT each part to, in order.

    Raises InvalidInput where the size is over the limit.
    """
    library.check_size(size)
    part_bytes = max(_LEAST_PART_BYTES, -(-size // _MOST_PARTS // MIB) * MIB)
    upload = library.new_upload(filename=filename, size=size)
    key = content_key(tenant, upload.id)
    parts = library.store.begin_parts(key)
    upload = upload.model_copy(update={"parts": parts, "part_bytes": part_bytes})
    library.write_upload(tenant, upload)
    seconds = int(library.settings.upload_seconds)
    count = -(-size // part_bytes)
    return upload, [library.store.presigned_part(key, parts, number, seconds) for number in range(1, count + 1)]


def complete(library: MediaLibrary, tenant: str, upload_id: str, etags: Sequence[str]) -> MediaRecord:
    """Makes parts that a client has written media. Asked again, it answers the same.

    Raises:
        NotFound: There is no such upload; also after its time.
        InvalidInput: Parts are missing or differ from what was announced, or this is no media. Where all the parts were
            there the upload is over; else it may go on.
    """
    upload = _find(library, tenant, upload_id)
    if upload.media_id:
        return library.get(tenant, upload.media_id)
    key, count = content_key(tenant, upload_id), -(-upload.bytes // upload.part_bytes)
    if len(etags) != count:
        raise InvalidInput("parts", f"{len(etags)} parts were named where there are {count}")
    try:
        library.store.finish_parts(key, upload.parts, etags)
        size, sha256 = _digest(library, key)
    except PartsRefused as error:
        raise InvalidInput("parts", str(error)) from error
    except ObjectMissing as error:
        raise _unknown(upload_id) from error
    try:
        if size != upload.bytes:
            raise InvalidInput("parts", f"they hold {size:,} bytes where {upload.bytes:,} were announced")
        record = library.admit(tenant, upload, size, sha256)
    except InvalidInput:
        library.discard(tenant, upload_id)
        raise
    library.write_upload(tenant, upload.model_copy(update={"media_id": record.id}))
    return record


def give_up(library: MediaLibrary, tenant: str, upload_id: str) -> None:
    """Throws an upload away. Raises NotFound where there is none, or where it is complete."""
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
