"""File uploads: small files in one request, large ones as multipart uploads with several parts in parallel.

Parts go directly to the object store. The state is kept in LYRA_HOME, so that uploading the same file again resumes an
interrupted upload.
"""

import hashlib
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from cli.client import GatewayClient, Refused, TryLater
from cli.connection import lyra_home
from cli.failure import CommandFailed

OnBytes = Callable[[int], None]

DIRECT_BYTES = 64 * 2**20  # size from which files are uploaded in parts
_PARALLEL_PARTS = 4
_BLOCK_BYTES = 256 * 1024
_PART_ATTEMPTS = 12
_FIRST_PAUSE_SECONDS = 0.2
_MAX_PAUSE_SECONDS = 15.0
_STORE_TIMEOUT = httpx.Timeout(60.0, connect=5.0)
_KEPT_SECONDS = 7 * 86_400.0
_RESUME = "run the same command again to upload the missing parts"
_RESTART = "run the same command again to start over"


class StoreOutOfReach(CommandFailed):
    """The object store is unreachable at the address that the gateway gives."""


class PartRefused(CommandFailed):
    """The object store refused a part for good, so the upload failed."""


@dataclass(slots=True)
class UploadState:
    """The state of a multipart upload.

    Attributes:
        urls: URL to PUT each part to, in order.
        etags: ETags of uploaded parts, by number, from 1.
    """

    id: str
    part_bytes: int
    urls: list[str]
    expires_at: float
    etags: dict[int, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> "UploadState":
        """Raises ValueError, TypeError, KeyError or AttributeError for anything else."""
        read = json.loads(text)
        etags = {int(number): str(etag) for number, etag in read.pop("etags").items()}
        return cls(etags=etags, **read)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def upload_file(
    gateway: GatewayClient,
    path: Path,
    on_bytes: OnBytes,
    on_detour: Callable[[str], None],
    direct_bytes: int = DIRECT_BYTES,
) -> dict[str, Any]:
    """Uploads a file; returns the media object.

    Args:
        gateway: Client of the gateway.
        path: The file.
        on_bytes: Called from any thread with the number of further bytes sent; negative if bytes must be sent again.
        on_detour: Called with a message for the user if a large file must go through the gateway.
        direct_bytes: Size from which files are uploaded in parts.

    Raises:
        CommandFailed: the upload was refused or interrupted.
    """
    size = path.stat().st_size
    if size == 0:
        raise CommandFailed(f"{path} is empty")
    if size >= direct_bytes:
        try:
            return _PartsUpload(gateway, path, on_bytes).run()
        except StoreOutOfReach as error:
            on_detour(f"{error.message}; the file goes through the gateway instead")
    return _upload_whole(gateway, path, on_bytes)


def _upload_whole(gateway: GatewayClient, path: Path, on_bytes: OnBytes) -> dict[str, Any]:
    with _counted(on_bytes) as count, _CountedFile(path, count) as file:
        media: dict[str, Any] = gateway.request("POST", "/v1/media", files={"file": (path.name, file)}).json()
        return media


@contextmanager
def _counted(on_bytes: OnBytes) -> Iterator[OnBytes]:
    """Counts bytes sent; subtracts them again if the block fails."""
    counted = 0

    def count(sent: int) -> None:
        nonlocal counted
        counted += sent
        on_bytes(sent)

    try:
        yield count
    except BaseException:
        on_bytes(-counted)
        raise


class _CountedFile(io.FileIO):
    """A file that reports the number of bytes read."""

    def __init__(self, path: Path, on_bytes: OnBytes) -> None:
        super().__init__(path)
        self._on_bytes = on_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        data: bytes = super().read(-1 if size is None else size) or b""
        self._on_bytes(len(data))
        return data


class _PartsUpload:
    """One multipart upload."""

    def __init__(self, gateway: GatewayClient, path: Path, on_bytes: OnBytes) -> None:
        self._gateway = gateway
        self._path = path
        self._on_bytes = on_bytes
        self._status = path.stat()
        self._file = state_file(gateway.url, path)
        self._keeping = threading.Lock()
        self._stop = threading.Event()

    def run(self) -> dict[str, Any]:
        """Returns the media object. Raises CommandFailed."""
        state = _load(self._file) or self._begin()
        with _counted(self._on_bytes) as count:
            # A separate client, since the store must not see the gateway's key.
            with httpx.Client(timeout=_STORE_TIMEOUT, trust_env=False) as store:
                try:
                    self._send_all(store, state, count)
                except (StoreOutOfReach, PartRefused):
                    self._give_up(state)
                    raise
            return self._complete(state)

    def _begin(self) -> UploadState:
        wanted = {"filename": self._path.name, "bytes": self._status.st_size}
        offered = self._gateway.request("POST", "/v1/media/uploads", json=wanted).json()
        urls = [part["url"] for part in sorted(offered["parts"], key=lambda part: part["number"])]
        state = UploadState(offered["id"], offered["part_bytes"], urls, offered["expires_at"])
        self._keep(state)
        return state

    def _send_all(self, store: httpx.Client, state: UploadState, count: OnBytes) -> None:
        numbers = range(1, len(state.urls) + 1)
        count(sum(len(self._range(state, number)) for number in numbers if number in state.etags))
        with ThreadPoolExecutor(_PARALLEL_PARTS, thread_name_prefix="upload") as pool:
            missing = [number for number in numbers if number not in state.etags]
            try:
                sent = [pool.submit(self._send, store, state, number, count) for number in missing]
                for each in wait(sent, return_when=FIRST_EXCEPTION).done:
                    each.result()
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _send(self, store: httpx.Client, state: UploadState, number: int, count: OnBytes) -> None:
        """Uploads one part, with retries for temporary failures."""
        for attempt in range(1, _PART_ATTEMPTS + 1):
            try:
                etag = self._put(store, state, number, count)
                break
            except TryLater as failure:
                if attempt == _PART_ATTEMPTS:
                    raise CommandFailed(failure.message, _RESUME) from failure
                self._stop.wait(min(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1), _MAX_PAUSE_SECONDS))
        with self._keeping:
            state.etags[number] = etag
            self._keep(state)

    def _put(self, store: httpx.Client, state: UploadState, number: int, on_bytes: OnBytes) -> str:
        """Uploads one part and returns its ETag. Raises TryLater for temporary failures."""
        url, where = state.urls[number - 1], self._range(state, number)
        with _counted(on_bytes) as count:
            try:
                length = {"Content-Length": str(len(where))}
                response = store.put(url, content=self._blocks(where, count), headers=length)
            except httpx.ConnectError as error:
                if not state.etags:
                    host = httpx.URL(url).netloc.decode()
                    raise StoreOutOfReach(f"the object store cannot be reached at {host}") from error
                raise TryLater("the object store cannot be reached") from error
            except httpx.HTTPError as error:
                raise TryLater(f"the connection to the object store broke ({error})") from error
            if response.is_success:
                return str(response.headers["ETag"]).strip('"')
            text = f"the object store refused part {number} (HTTP {response.status_code})"
            if response.status_code >= 500 or response.status_code in (408, 429):
                raise TryLater(text)
            raise PartRefused(text, _RESTART)

    def _blocks(self, where: range, count: OnBytes) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            file.seek(where.start)
            left = len(where)
            while left:
                data = file.read(min(left, _BLOCK_BYTES))
                if not data:
                    raise CommandFailed(f"{self._path} became shorter while it was uploaded")
                if self._stop.is_set():
                    raise CommandFailed("the upload was stopped", _RESUME)
                left -= len(data)
                yield data
                count(len(data))

    def _range(self, state: UploadState, number: int) -> range:
        """The range of a part in the file."""
        start = (number - 1) * state.part_bytes
        return range(start, min(start + state.part_bytes, self._status.st_size))

    def _complete(self, state: UploadState) -> dict[str, Any]:
        now = self._path.stat()
        if (now.st_size, now.st_mtime_ns) != (self._status.st_size, self._status.st_mtime_ns):
            self._give_up(state)
            raise CommandFailed(f"{self._path} changed while it was uploaded", "upload it again when it is complete")
        parts = [{"number": number, "etag": state.etags[number]} for number in sorted(state.etags)]
        try:
            response = self._gateway.request("POST", f"/v1/media/uploads/{state.id}/complete", json={"parts": parts})
        except TryLater as failure:
            raise TryLater(failure.message, _RESUME, after_seconds=failure.after_seconds) from failure
        except Refused as refusal:
            self._file.unlink(missing_ok=True)
            if refusal.status == HTTPStatus.NOT_FOUND:
                raise CommandFailed("the upload expired", _RESTART) from refusal
            raise
        self._file.unlink(missing_ok=True)
        media: dict[str, Any] = response.json()
        return media

    def _give_up(self, state: UploadState) -> None:
        self._file.unlink(missing_ok=True)
        with suppress(CommandFailed):  # otherwise the gateway deletes it when it expires
            self._gateway.request("DELETE", f"/v1/media/uploads/{state.id}")

    def _keep(self, state: UploadState) -> None:
        from services.shared.private_files import PrivateFile

        self._file.parent.mkdir(parents=True, exist_ok=True)
        PrivateFile(self._file).write(state.to_json())


def state_file(url: str, path: Path) -> Path:
    """Path of the state of an upload of this version of a file to this gateway."""
    status = path.stat()
    what = f"{url}\n{path.resolve()}\n{status.st_size}\n{status.st_mtime_ns}"
    return lyra_home() / "uploads" / f"{hashlib.sha256(what.encode()).hexdigest()[:32]}.json"


def _load(file: Path) -> UploadState | None:
    """The state of a resumable upload, if there is one. Deletes old ones."""
    if not file.parent.is_dir():
        return None
    for old in file.parent.glob("*.json"):
        if time.time() - old.stat().st_mtime > _KEPT_SECONDS:
            old.unlink(missing_ok=True)
    try:
        state = UploadState.from_json(file.read_text())
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return state if state.expires_at > time.time() else None
