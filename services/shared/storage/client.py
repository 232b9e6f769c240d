"""The object store: whole objects, ranges, listings, and multipart uploads.

Every object is written as a whole by one writer: `put` replaces, `put_new` writes only if the key is free. Transient
errors are retried here, so a caller that gets StoreUnavailable need not retry at once.
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

from services.shared.storage.disk_space import DiskSpace
from services.shared.storage.settings import StoreSettings
from services.shared.storage.store_errors import (
    MISSING_CODES,
    ObjectMissing,
    StoreFull,
    StoreUnavailable,
    raise_for_status,
    translate,
)
from services.shared.telemetry import get_logger

log = get_logger(__name__)

JSON = "application/json"
BLOCK_BYTES = 2**20  # read by `open` at a time

_ResultT = TypeVar("_ResultT")
_Fields = dict[str, str | list[str] | tuple[str]]
_SIGNED_SECONDS = 300  # validity of our own presigned requests
_CONNECTIONS = 32
_FIRST_BACKOFF_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Metadata of an object: `size` in bytes, `modified` in UTC, `etag` without quotes."""

    key: str
    size: int
    etag: str
    modified: datetime


class ObjectStore:
    """A bucket of an S3 store. Blocking; may be shared by threads, but not across a fork.

    Every method raises StoreUnavailable if the store fails or cannot be reached, and every write StoreFull if there is
    no space left.
    """

    def __init__(self, settings: StoreSettings) -> None:
        self._bucket = settings.store_bucket
        self._tries = settings.store_tries
        self._disk_space = DiskSpace(settings.store_folder, settings.store_reserve_bytes)
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
            access_key=settings.store_access_key if secret else None,  # anonymous without a secret
            secret_key=secret or None,
            secure=secure,
            region=settings.store_region,
            http_client=self._http,
        )

    def check(self) -> None:
        """Ensures that the bucket exists."""
        self._retrying(self._make_bucket)

    def is_full(self) -> bool:
        """Whether a store on this machine is out of disk space; a remote store reports that with each write instead."""
        try:
            self._disk_space.check()
        except StoreFull:
            return True
        except OSError as error:
            raise StoreUnavailable from error
        return False

    def put(self, key: str, data: bytes, content_type: str = JSON, *, may_use_reserve: bool = False) -> None:
        """Writes or replaces an object.

        Args:
            may_use_reserve: Writes even if only the reserve is left; for small objects that deletions need.
        """

        def write() -> None:
            self._client.put_object(self._bucket, key, io.BytesIO(data), len(data), content_type)

        self._retrying(write, size=None if may_use_reserve else len(data))

    def put_new(self, key: str, data: bytes, content_type: str = JSON) -> bool:
        """Writes an object if the key is free. Returns whether it did: of several concurrent writers, one gets True.

        A writer that retries because the response to its successful write was lost finds its own bytes, and gets True.
        """
        headers = {"If-None-Match": "*", "Content-Type": content_type}
        tries = 0

        def write() -> bool:
            nonlocal tries
            tries += 1
            response = self._request("PUT", key, body=data, headers=headers)
            if response.status == HTTPStatus.PRECONDITION_FAILED:
                return False
            raise_for_status(response)
            return True

        return self._retrying(write, key, len(data)) or (tries > 1 and self.get(key) == data)

    def get(self, key: str) -> bytes:
        """An object's bytes. Raises ObjectMissing."""
        return self._retrying(lambda: self._read(key, 0, 0, {}), key)

    def stat(self, key: str) -> StoredObject | None:
        """Metadata of an object; None if there is none."""
        try:
            return _stored(self._retrying(lambda: self._client.stat_object(self._bucket, key), key))
        except ObjectMissing:
            return None

    def open(self, key: str, block_bytes: int = BLOCK_BYTES) -> BinaryIO:
        """An object as a seekable file that is read on demand and buffers `block_bytes`.

        Raises ObjectMissing, also while reading if the object has been deleted or replaced since.
        """
        found = self.stat(key)
        if found is None:
            raise ObjectMissing(key)
        return cast(BinaryIO, io.BufferedReader(_ObjectFile(self._read_range, found), block_bytes))

    def list(self, prefix: str, after: str = "") -> Iterator[StoredObject]:
        """All objects whose key starts with `prefix`, recursively; only those after the key `after`.

        In key order within a folder (stores differ in whether a folder "a/" sorts before or after its neighbour "a-b").
        """
        for each in self._listed(prefix, after, recursive=True):
            yield _stored(each)

    def folders(self, prefix: str) -> Iterator[str]:
        """Names of the folders directly below `prefix`, which ends with "/"; without prefix and slash, in order.

        A folder may remain for a while after its last object was deleted.
        """
        for each in self._listed(prefix, "", recursive=False):
            if each.is_dir:
                yield str(each.object_name).removeprefix(prefix).rstrip("/")

    def delete(self, key: str) -> None:
        """Deletes an object if it exists."""
        self._retrying(lambda: self._client.remove_object(self._bucket, key))

    def delete_all(self, prefix: str) -> None:
        """Deletes every object whose key starts with `prefix`. Safe to repeat after a failure."""
        keys = [each.key for each in self.list(prefix)]

        def remove() -> None:
            errors = list(self._client.remove_objects(self._bucket, [DeleteObject(key) for key in keys]))
            if left := [error for error in errors if error.code not in MISSING_CODES]:
                log.error("objects were not deleted", count=len(left), first=left[0].name, code=left[0].code)
                raise StoreUnavailable("the object store did not delete everything")

        if keys:
            self._retrying(remove)

    def begin_parts(self, key: str, content_type: str = "application/octet-stream") -> str:
        """Starts a multipart upload of `key` and returns its id. Only `finish_parts` creates the object."""

        def begin() -> str:
            response = self._request("POST", key, {"uploads": ""}, headers={"Content-Type": content_type})
            upload = ElementTree.fromstring(raise_for_status(response).data).findtext("{*}UploadId")
            if not upload:
                raise StoreUnavailable("the object store returned no upload id")
            return upload

        return self._retrying(begin, key, 0)

    def put_part(self, key: str, upload: str, number: int, data: bytes | bytearray | memoryview) -> str:
        """Writes part `number` (from 1; at least 5 MiB unless it is last). Returns its etag. Raises ObjectMissing."""
        query = {"uploadId": upload, "partNumber": str(number)}

        def write() -> str:
            response = raise_for_status(self._request("PUT", key, query, body=data))
            return str(response.headers["etag"]).strip('"')

        return self._retrying(write, key, len(data))

    def finish_parts(self, key: str, upload: str, etags: Sequence[str]) -> None:
        """Joins the parts into one object; `etags` in order. Safe to repeat after a failure.

        Raises:
            InvalidParts: The parts differ from those that were written, or one of them is too small.
            ObjectMissing: There is neither such an upload nor such an object.
        """
        root = ElementTree.Element("CompleteMultipartUpload")
        for number, etag in enumerate(etags, 1):
            part = ElementTree.SubElement(root, "Part")
            ElementTree.SubElement(part, "PartNumber").text = str(number)
            ElementTree.SubElement(part, "ETag").text = f'"{etag}"'
        body = ElementTree.tostring(root)

        def finish() -> None:
            headers = {"Content-Type": "application/xml"}
            response = raise_for_status(self._request("POST", key, {"uploadId": upload}, body=body, headers=headers))
            if b"<Error" in response.data:  # S3 may fail after it has sent status 200
                raise S3Error.fromxml(response)

        try:
            self._retrying(finish, key, 0)
        except ObjectMissing:
            if self.stat(key) is None:  # it exists if an earlier attempt succeeded
                raise

    def abort_parts(self, key: str, upload: str) -> None:
        """Discards the parts of an upload, unless it does not exist or is finished."""
        try:
            self._retrying(lambda: raise_for_status(self._request("DELETE", key, {"uploadId": upload})), key)
        except ObjectMissing:
            return

    def presigned_part(self, key: str, upload: str, number: int, seconds: int) -> str:
        """A URL at the public endpoint to which anyone can PUT part `number` for `seconds`."""
        self._disk_space.check()
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
        """Makes a presigned request for which minio's client has no public method."""
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
        return self._retrying(lambda: self._read(of.key, offset, length, {"If-Match": f'"{of.etag}"'}), of.key)

    def _listed(self, prefix: str, after: str, *, recursive: bool) -> Iterator[Object]:
        """A listing that resumes after the last object seen if it is interrupted."""
        seen = after
        objects: Iterator[Object] | None = None

        def following() -> Object | None:
            nonlocal objects
            if objects is None:
                objects = self._client.list_objects(self._bucket, prefix, recursive=recursive, start_after=seen or None)
            try:
                return next(objects, None)
            except Exception:
                objects = None  # a generator that has raised is finished; the next attempt starts a new one
                raise

        while (each := self._retrying(following)) is not None:
            key = str(each.object_name)
            if key != seen:
                yield each
            seen = key

    def _retrying(self, call: Callable[[], _ResultT], key: str = "", size: int | None = None) -> _ResultT:
        """Returns what `call` returns; retries transient errors with exponential back-off.

        Args:
            key: Of the object, for ObjectMissing.
            size: Bytes that the call writes: it is not made, or retried, without the disk space. None if it need not be
                checked.
        """
        backoff = _FIRST_BACKOFF_SECONDS
        for left in reversed(range(self._tries)):
            try:
                if size is not None:
                    self._disk_space.check(size)
                try:
                    return call()
                except S3Error as error:
                    if error.code != "NoSuchBucket":
                        raise
                    self._make_bucket()  # a new store
                    return call()
            except (HTTPError, MinioException, OSError) as error:
                translated, transient = translate(error, key)
                if not (left and transient):
                    if isinstance(translated, StoreUnavailable):
                        if size is not None:
                            self._disk_space.check(size)
                            if isinstance(error, S3Error) and transient:
                                self._disk_space.note_failure()
                        log.warning("the object store failed", reason=str(error)[:300])
                    raise translated from error
            time.sleep(backoff * random.uniform(0.5, 1.0))
            backoff *= 2
        raise AssertionError("unreachable")


class _ObjectFile(io.RawIOBase):
    """An object as a raw file; every read is of the version that was opened."""

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
            raise ValueError("negative seek position")
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
