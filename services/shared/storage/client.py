"""The object store, as much of it as the platform needs: whole objects, ranges, lists, and uploads in parts.

Every object is written whole by one writer: `put` replaces, `put_new` writes only where nothing is. What fails for a
moment is tried again here, so a caller that gets StoreUnavailable has waited already.
"""

import io
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, BinaryIO, TypeVar, cast
from xml.etree import ElementTree

import urllib3
from minio import Minio
from minio.datatypes import Object
from minio.deleteobjects import DeleteObject
from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError

from services.shared.storage.room import Room
from services.shared.storage.settings import StoreSettings
from services.shared.storage.store_errors import (
    MISSING_CODES,
    ObjectMissing,
    StoreFull,
    StoreUnavailable,
    meaning,
    raise_for,
)
from services.shared.telemetry import get_logger

log = get_logger(__name__)

JSON = "application/json"
BLOCK_BYTES = 2**20  # what `open` reads at a time

_ResultT = TypeVar("_ResultT")
_Fields = dict[str, str | list[str] | tuple[str]]
_SIGNED_SECONDS = 300  # that our own signed requests stay valid
_CONNECTIONS = 32
_FIRST_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a list or `stat` tells of an object. `size` in bytes, `modified` in UTC, `etag` without quotes."""

    key: str
    size: int
    etag: str
    modified: datetime


class ObjectStore:
    """A bucket of an S3 store. Blocking; may be shared by threads, but not taken through a fork.

    Every method raises StoreUnavailable where the store cannot do its work at the moment, StoreFull where there is no
    room left for what is written.
    """

    def __init__(self, settings: StoreSettings) -> None:
        self._bucket = settings.store_bucket
        self._tries = settings.store_tries
        self._room = Room(settings.store_folder, settings.store_reserve_bytes)
        timeout = urllib3.Timeout(connect=settings.store_connect_seconds, read=settings.store_seconds)
        self._http = urllib3.PoolManager(timeout=timeout, maxsize=_CONNECTIONS, retries=False)
        public_secure = settings.store_public_secure
        self._client = self._connect(settings, settings.store_endpoint, settings.store_secure)
        self._public = self._connect(
            settings,
            settings.store_public_endpoint or settings.store_endpoint,
            settings.store_secure if public_secure is None else public_secure,
        )

    def _connect(self, settings: StoreSettings, endpoint: str, secure: bool) -> Minio:
        secret = settings.store_secret_key.get_secret_value()
        return Minio(
            endpoint,
            access_key=settings.store_access_key if secret else None,  # without a secret, as nobody
            secret_key=secret or None,
            secure=secure,
            region=settings.store_region,
            http_client=self._http,
        )

    def check(self) -> None:
        """Returns when the bucket is there; makes it where it is not."""
        self._tried(self._make_bucket)

    def is_full(self) -> bool:
        """Whether a store on this machine takes nothing more for want of room; one elsewhere says so when asked."""
        try:
            self._room.check()
        except StoreFull:
            return True
        except OSError as error:
            raise StoreUnavailable from error
        return False

    def put(self, key: str, data: bytes, content_type: str = JSON, *, makes_room: bool = False) -> None:
        """Writes an object, in the place of one that has this key.

        `makes_room`: it is small, and what makes room needs it, so that it may take of the reserve.
        """

        def write() -> None:
            self._client.put_object(self._bucket, key, io.BytesIO(data), len(data), content_type)

        self._tried(write, size=None if makes_room else len(data))

    def put_new(self, key: str, data: bytes, content_type: str = JSON) -> bool:
        """Writes an object if none has this key. Returns whether it did: of several writers at once, one gets True.

        A writer whose first try was heard without its hearing of it finds its own bytes there, and gets True as well.
        """
        headers = {"If-None-Match": "*", "Content-Type": content_type}
        tries = 0

        def write() -> bool:
            nonlocal tries
            tries += 1
            response = self._request("PUT", key, body=data, headers=headers)
            if response.status == HTTPStatus.PRECONDITION_FAILED:
                return False
            raise_for(response)
            return True

        return self._tried(write, key, len(data)) or (tries > 1 and self.get(key) == data)

    def get(self, key: str) -> bytes:
        """An object's bytes. Raises ObjectMissing."""
        return self._tried(lambda: self._read(key, 0, 0, {}), key)

    def stat(self, key: str) -> StoredObject | None:
        """Size and time of an object; None where there is none."""
        try:
            return _stored(self._tried(lambda: self._client.stat_object(self._bucket, key), key))
        except ObjectMissing:
            return None

    def open(self, key: str, block_bytes: int = BLOCK_BYTES) -> BinaryIO:
        """An object as a seekable file, read in blocks as they are asked for; holds `block_bytes` at a time.

        Raises ObjectMissing, also while it is read where the object was deleted or replaced since.
        """
        found = self.stat(key)
        if found is None:
            raise ObjectMissing(key)
        return cast(BinaryIO, io.BufferedReader(_ObjectFile(self._read_range, found), block_bytes))

    def list(self, prefix: str, after: str = "") -> Iterator[StoredObject]:
        """All objects whose key begins with `prefix`, also in folders below; only what comes after the key `after`.

        In key order within a folder (a store may sort a folder "a/" before or after its neighbour "a-b").
        """
        for each in self._listed(prefix, after, recursive=True):
            yield _stored(each)

    def folders(self, prefix: str) -> Iterator[str]:
        """Names of the folders right under `prefix`, which ends with "/"; without prefix and slash, in order.

        A folder that has lost its last object may still be there for a while.
        """
        for each in self._listed(prefix, "", recursive=False):
            if each.is_dir:
                yield str(each.object_name).removeprefix(prefix).rstrip("/")

    def delete(self, key: str) -> None:
        """Deletes an object; one that is not there is no error."""
        self._tried(lambda: self._client.remove_object(self._bucket, key))

    def delete_all(self, prefix: str) -> None:
        """Deletes every object whose key begins with `prefix`. Safe to call again after it failed midway."""
        keys = [each.key for each in self.list(prefix)]

        def remove() -> None:
            errors = list(self._client.remove_objects(self._bucket, [DeleteObject(key) for key in keys]))
            if left := [error for error in errors if error.code not in MISSING_CODES]:
                log.error("objects were not deleted", count=len(left), first=left[0].name, code=left[0].code)
                raise StoreUnavailable("the object store did not delete everything")

        if keys:
            self._tried(remove)

    def begin_parts(self, key: str, content_type: str = "application/octet-stream") -> str:
        """Begins to write `key` in parts. Returns the id of this upload; only `finish_parts` makes it an object."""

        def begin() -> str:
            response = self._request("POST", key, {"uploads": ""}, headers={"Content-Type": content_type})
            upload = ElementTree.fromstring(raise_for(response).data).findtext("{*}UploadId")
            if not upload:
                raise StoreUnavailable("the object store gave an upload no id")
            return upload

        return self._tried(begin, key, 0)

    def put_part(self, key: str, upload: str, number: int, data: bytes | bytearray | memoryview) -> str:
        """Writes part `number` (from 1; all but the last at least 5 MiB). Returns its etag. Raises ObjectMissing."""
        query = {"uploadId": upload, "partNumber": str(number)}

        def write() -> str:
            response = raise_for(self._request("PUT", key, query, body=data))
            return str(response.headers["etag"]).strip('"')

        return self._tried(write, key, len(data))

    def finish_parts(self, key: str, upload: str, etags: Sequence[str]) -> None:
        """Makes the parts, whose etags come in order, one object. Safe to call again after it failed.

        Raises:
            PartsRefused: The parts are not those that were written, or one of them is too small.
            ObjectMissing: There is no such upload, and no such object either.
        """
        root = ElementTree.Element("CompleteMultipartUpload")
        for number, etag in enumerate(etags, 1):
            part = ElementTree.SubElement(root, "Part")
            ElementTree.SubElement(part, "PartNumber").text = str(number)
            ElementTree.SubElement(part, "ETag").text = f'"{etag}"'
        body = ElementTree.tostring(root)

        def finish() -> None:
            headers = {"Content-Type": "application/xml"}
            response = raise_for(self._request("POST", key, {"uploadId": upload}, body=body, headers=headers))
            if b"<Error" in response.data:  # S3 may find out after it has said 200
                raise S3Error.fromxml(response)

        try:
            self._tried(finish, key, 0)
        except ObjectMissing:
            if self.stat(key) is None:  # it is there where an earlier try was heard
                raise

    def abort_parts(self, key: str, upload: str) -> None:
        """Throws the parts of an upload away; one that is not there, or is finished, is no error."""
        try:
            self._tried(lambda: raise_for(self._request("DELETE", key, {"uploadId": upload})), key)
        except ObjectMissing:
            return

    def presigned_part(self, key: str, upload: str, number: int, seconds: int) -> str:
        """A URL that takes part `number` by PUT for `seconds`, from whoever has it, at the public endpoint."""
        self._room.check()
        query: _Fields = {"uploadId": upload, "partNumber": str(number)}
        expires = timedelta(seconds=seconds)
        return self._public.get_presigned_url("PUT", self._bucket, key, expires, extra_query_params=query)

    def _make_bucket(self) -> None:
        if not self._client.bucket_exists(self._bucket):
            try:
                self._client.make_bucket(self._bucket)
            except S3Error as error:
                if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise

    def _request(
        self,
        method: str,
        key: str,
        query: dict[str, str] | None = None,
        body: bytes | bytearray | memoryview | None = None,
        headers: dict[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """A request that the client has no public method for, signed by it."""
        url = self._client.get_presigned_url(
            method, self._bucket, key, timedelta(seconds=_SIGNED_SECONDS), extra_query_params=dict(query or {})
        )
        return self._http.request(method, url, body=cast(bytes | None, body), headers=headers)

    def _read(self, key: str, offset: int, length: int, headers: _Fields) -> bytes:
        response = self._client.get_object(self._bucket, key, offset, length, headers)
        try:
            return response.read()
        finally:
            response.close()
            response.release_conn()

    def _read_range(self, of: StoredObject, offset: int, length: int) -> bytes:
        return self._tried(lambda: self._read(of.key, offset, length, {"If-Match": f'"{of.etag}"'}), of.key)

    def _listed(self, prefix: str, after: str, *, recursive: bool) -> Iterator[Object]:
        """A list that goes on behind what it has seen where it was interrupted."""
        seen = after
        objects: Iterator[Object] | None = None

        def following() -> Object | None:
            nonlocal objects
            if objects is None:
                objects = self._client.list_objects(self._bucket, prefix, recursive=recursive, start_after=seen or None)
            try:
                return next(objects, None)
            except Exception:
                objects = None  # a generator that raised is over; the next try begins a new one
                raise

        while (each := self._tried(following)) is not None:
            key = str(each.object_name)
            if key != seen:
                yield each
            seen = key

    def _tried(self, call: Callable[[], _ResultT], key: str = "", size: int | None = None) -> _ResultT:
        """What `call` returns; where the store stumbles, another try after a pause that grows.

        `size` in bytes where the call writes: it is not made, nor tried again, while there is no room.
        """
        pause = _FIRST_PAUSE_SECONDS
        for left in reversed(range(self._tries)):
            try:
                if size is not None:
                    self._room.check(size)
                try:
                    return call()
                except S3Error as error:
                    if error.code != "NoSuchBucket":
                        raise
                    self._make_bucket()  # a store that is new
                    return call()
            except (HTTPError, MinioException, OSError) as error:
                meant, may_pass = meaning(error, key)
                if not (left and may_pass):
                    if isinstance(meant, StoreUnavailable):
                        if size is not None:
                            self._room.check(size)
                            if isinstance(error, S3Error) and may_pass:
                                self._room.note_failure()
                        log.warning("the object store does not do its work", reason=str(error)[:300])
                    raise meant from error
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause *= 2
        raise AssertionError("unreachable")


class _ObjectFile(io.RawIOBase):
    """An object, read where the reader is; the same version from the first byte to the last."""

    def __init__(self, read: Callable[[StoredObject, int, int], bytes], of: StoredObject) -> None:
        self._read = read
        self._of = of
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._of.size}[whence]
        if start + offset < 0:
            raise ValueError("seek before the beginning")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._of.size - self._position)
        if length <= 0:
            return 0
        data = self._read(self._of, self._position, length)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _stored(each: Object) -> StoredObject:
    modified = each.last_modified or datetime.fromtimestamp(0, UTC)
    return StoredObject(str(each.object_name), each.size or 0, (each.etag or "").strip('"'), modified)
