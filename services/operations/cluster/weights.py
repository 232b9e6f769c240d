"""Weights and adapters in the object store, where model services fetch them from when they start.

weights/{name}/{file}           a checkpoint, or the parts of nano
weights/{name}/SHA256SUMS       as of `sha256sum`; written last: all of it is there
adapters/{name}/...             in the same way

`services.shared.storage.folders` reads them.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from services.operations.cluster.cluster_errors import ClusterError
from services.shared.storage.client import ObjectStore
from services.shared.storage.folders import SUMS, FolderBroken
from services.shared.storage.folders import read_sums as parse_sums
from services.shared.storage.store_errors import ObjectMissing

_DONE = "SHA256SUMS.part"  # of a sync that was interrupted: what it had sent
_PART_BYTES = 64 * 2**20
_PARTS_AT_ONCE = 4
_BINARY = "application/octet-stream"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

OnBytes = Callable[[int], None]


class Shelf(StrEnum):
    """What is kept: whole models, or adapters for them."""

    WEIGHTS = "weights"
    ADAPTERS = "adapters"


@dataclass(frozen=True, slots=True)
class File:
    """A file of a folder. `name` is its path below the folder, with "/"; `sha256` in hexadecimal."""

    name: str
    path: Path
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SyncPlan:
    """What a sync would do.

    Attributes:
        prefix: Of all keys, as in "weights/nano/".
        files: All that will be there.
        to_send: Of them, those that are not there yet, or differ.
        to_delete: Files that are there and are not among `files`.
    """

    prefix: str
    files: tuple[File, ...]
    to_send: tuple[File, ...]
    to_delete: tuple[str, ...]

    @property
    def bytes_to_send(self) -> int:
        return sum(file.size for file in self.to_send)


def folder_files(folder: Path) -> tuple[File, ...]:
    """All files of a folder and the folders in it, with their hashes; hidden ones are left out.

    Raises:
        ClusterError: it is no folder, holds no files, or one of them cannot be read.
    """
    if not folder.is_dir():
        raise ClusterError(f"{folder} is no folder", "name the folder of a checkpoint, or `nano`")
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path.relative_to(folder)))
    files = []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if "\n" in name or "\\" in name:
            raise ClusterError(f"{path} has a name that {SUMS} cannot hold", "rename it")
        if name in (SUMS, _DONE):
            continue
        try:
            files.append(File(name, path, path.stat().st_size, _sha256(path)))
        except OSError as error:
            raise ClusterError(f"{path} cannot be read: {error.strerror}") from error
    if not files:
        raise ClusterError(f"{folder} holds no files", "name the folder of a checkpoint, or `nano`")
    return tuple(files)


def plan_sync(store: ObjectStore, shelf: Shelf, name: str, files: tuple[File, ...]) -> SyncPlan:
    """Compares files with what the store has under a name. Raises ClusterError for a name that is none."""
    if not _NAME.fullmatch(name):
        raise ClusterError(f"{name!r} is no name for {shelf}", "letters, digits, '.', '_' and '-', at most 63 of them")
    prefix = f"{shelf}/{name}/"
    there = {each.key.removeprefix(prefix): each.size for each in store.list(prefix)}
    known = read_sums(store, prefix + SUMS) | read_sums(store, prefix + _DONE)
    to_send = [file for file in files if (there.get(file.name), known.get(file.name)) != (file.size, file.sha256)]
    kept = {file.name for file in files} | {SUMS, _DONE}
    return SyncPlan(prefix, files, tuple(to_send), tuple(sorted(there.keys() - kept)))


def sync(store: ObjectStore, plan: SyncPlan, on_bytes: OnBytes = lambda count: None) -> None:
    """Sends what is missing, then the sums, then deletes what no longer belongs there.

    Whoever reads meanwhile finds sums that do not fit and tries again. An interrupted sync goes on where it was.

    Raises:
        StoreUnavailable: as ObjectStore does.
        ClusterError: a file changed while it was sent.
    """
    done = {file.name: file.sha256 for file in plan.files if file not in plan.to_send}
    for file in plan.to_send:
        _send(store, plan.prefix + file.name, file, on_bytes)
        done[file.name] = file.sha256
        store.put(plan.prefix + _DONE, _sums(done), "text/plain")
    store.put(plan.prefix + SUMS, _sums({file.name: file.sha256 for file in plan.files}), "text/plain")
    for name in (*plan.to_delete, _DONE):
        store.delete(plan.prefix + name)


def read_sums(store: ObjectStore, key: str) -> dict[str, str]:
    """Hashes by file; none where there is no such object, or it holds something else: then all is sent again."""
    try:
        return parse_sums(store.get(key).decode(errors="replace"), key)
    except (ObjectMissing, FolderBroken):
        return {}


def _sums(files: Mapping[str, str]) -> bytes:
    return "".join(f"{files[name]}  {name}\n" for name in sorted(files)).encode()


def _send(store: ObjectStore, key: str, file: File, on_bytes: OnBytes) -> None:
    digest = hashlib.sha256()
    try:
        if file.size <= _PART_BYTES:
            data = file.path.read_bytes()
            digest.update(data)
            _unchanged(file, digest)
            store.put(key, data, _BINARY)
            on_bytes(len(data))
            return
        upload = store.begin_parts(key, _BINARY)
        try:
            etags = _send_parts(store, key, upload, file, digest, on_bytes)
            _unchanged(file, digest)
            store.finish_parts(key, upload, etags)
        except BaseException:
            store.abort_parts(key, upload)
            raise
    except OSError as error:
        raise ClusterError(f"{file.path} cannot be read: {error.strerror}") from error


def _send_parts(
    store: ObjectStore, key: str, upload: str, file: File, digest: "hashlib._Hash", on_bytes: OnBytes
) -> list[str]:
    """Sends a file some parts at a time; returns their etags in order."""

    def send(number: int, data: bytes) -> str:
        etag = store.put_part(key, upload, number, data)
        on_bytes(len(data))
        return etag

    etags: list[str] = []
    with ThreadPoolExecutor(_PARTS_AT_ONCE, thread_name_prefix="part") as threads:
        pending = []
        for number, data in enumerate(_pieces(file.path), 1):
            digest.update(data)
            pending.append(threads.submit(send, number, data))
            if len(pending) == _PARTS_AT_ONCE:  # so that no more than these are in memory
                etags.append(pending.pop(0).result())
        etags += [each.result() for each in pending]
    return etags


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as opened:
        while data := opened.read(_PART_BYTES):
            yield data


def _unchanged(file: File, digest: "hashlib._Hash") -> None:
    if digest.hexdigest() != file.sha256:
        raise ClusterError(f"{file.path} changed while it was sent", "sync again when nobody writes to it")


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
