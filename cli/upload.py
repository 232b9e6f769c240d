"""A file on its way to the gateway: small ones in one request, large ones in parts, several at a time.

Parts go straight to the object store, past the gateway. What is done of them is kept under LYRA_HOME, so an upload that
broke off goes on where it was, when the same file is uploaded again.
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

DIRECT_BYTES = 64 * 2**20  # from here on in parts
_AT_A_TIME = 4
_BLOCK_BYTES = 256 * 1024
_PART_TRIES = 12
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 15.0
_STORE_TIMEOUT = httpx.Timeout(60.0, connect=5.0)
_KEPT_SECONDS = 7 * 86_400.0
_GO_ON = "run the same command again: it goes on with the parts that are missing"
_ANEW = "run the same command again: it begins anew"


class StoreOutOfReach(CommandFailed):
    """The object store does not answer at the address that the gateway gives for it."""


class PartRefused(CommandFailed):
    """The object store will never take a part, so the upload is over."""


@dataclass(slots=True)
class UploadState:
    """An upload in parts, as far as it is.

    Attributes:
        urls: Where each part is to be PUT, in order.
        etags: Of the parts that the store has, by their number, from 1.
    """

    id: str
    part_bytes: int
    urls: list[str]
    expires_at: float
    etags: dict[int, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> "UploadState":
        """Raises ValueError, TypeError, KeyError, AttributeError for what is none."""
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
        gateway: To upload to.
        path: Of the file.
        on_bytes: Called with how many bytes more have left, from any thread; fewer, where some have to leave again.
        on_detour: Called with a line for people where a large file has to take the way through the gateway.
        direct_bytes: Size from which on a file is uploaded in parts.

    Raises:
        CommandFailed: it was refused, or broke off.
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
    """Counts bytes that leave; takes them back where the body fails."""
    told = 0

    def count(sent: int) -> None:
        nonlocal told
        told += sent
        on_bytes(sent)

    try:
        yield count
    except BaseException:
        on_bytes(-told)
        raise


class _CountedFile(io.FileIO):
    """A file that tells what was read of it."""

    def __init__(self, path: Path, on_bytes: OnBytes) -> None:
        super().__init__(path)
        self._on_bytes = on_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        data: bytes = super().read(-1 if size is None else size) or b""
        self._on_bytes(len(data))
        return data


class _PartsUpload:
    """One upload in parts."""

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
            # A client of its own: the store must not see the key of the gateway.
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
        with ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="upload") as pool:
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
        """Writes one part, a few times where that fails for no lasting reason."""
        for tried in range(1, _PART_TRIES + 1):
            try:
                etag = self._put(store, state, number, count)
                break
            except TryLater as failure:
                if tried == _PART_TRIES:
                    raise CommandFailed(failure.message, _GO_ON) from failure
                self._stop.wait(min(_FIRST_PAUSE_SECONDS * 2 ** (tried - 1), _LONGEST_PAUSE_SECONDS))
        with self._keeping:
            state.etags[number] = etag
            self._keep(state)

    def _put(self, store: httpx.Client, state: UploadState, number: int, on_bytes: OnBytes) -> str:
        """The ETag of a part that the store has taken. Raises TryLater where it may take it later."""
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
            raise PartRefused(text, _ANEW)

    def _blocks(self, where: range, count: OnBytes) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            file.seek(where.start)
            left = len(where)
            while left:
                data = file.read(min(left, _BLOCK_BYTES))
                if not data:
                    raise CommandFailed(f"{self._path} became shorter while it was uploaded")
                if self._stop.is_set():
                    raise CommandFailed("the upload was stopped", _GO_ON)
                left -= len(data)
                yield data
                count(len(data))

    def _range(self, state: UploadState, number: int) -> range:
        """Where a part lies in the file."""
        start = (number - 1) * state.part_bytes
        return range(start, min(start + state.part_bytes, self._status.st_size))

    def _complete(self, state: UploadState) -> dict[str, Any]:
        now = self._path.stat()
        if (now.st_size, now.st_mtime_ns) != (self._status.st_size, self._status.st_mtime_ns):
            self._give_up(state)
            raise CommandFailed(f"{self._path} changed while it was uploaded", "upload it again when it is whole")
        parts = [{"number": number, "etag": state.etags[number]} for number in sorted(state.etags)]
        try:
            response = self._gateway.request("POST", f"/v1/media/uploads/{state.id}/complete", json={"parts": parts})
        except TryLater as failure:
            raise TryLater(failure.message, _GO_ON, after_seconds=failure.after_seconds) from failure
        except Refused as refusal:
            self._file.unlink(missing_ok=True)
            if refusal.status == HTTPStatus.NOT_FOUND:
                raise CommandFailed("the upload took too long and was thrown away", _ANEW) from refusal
            raise
        self._file.unlink(missing_ok=True)
        media: dict[str, Any] = response.json()
        return media

    def _give_up(self, state: UploadState) -> None:
        self._file.unlink(missing_ok=True)
        with suppress(CommandFailed):  # else the gateway sweeps it when its time is over
            self._gateway.request("DELETE", f"/v1/media/uploads/{state.id}")

    def _keep(self, state: UploadState) -> None:
        from services.shared.private_files import PrivateFile

        self._file.parent.mkdir(parents=True, exist_ok=True)
        PrivateFile(self._file).write(state.to_json())


def state_file(url: str, path: Path) -> Path:
    """Where the state of an upload of this very file to this gateway is kept."""
    status = path.stat()
    what = f"{url}\n{path.resolve()}\n{status.st_size}\n{status.st_mtime_ns}"
    return lyra_home() / "uploads" / f"{hashlib.sha256(what.encode()).hexdigest()[:32]}.json"


def _load(file: Path) -> UploadState | None:
    """An upload that can go on. Forgets those that are long over."""
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
