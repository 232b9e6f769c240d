"""Uploads weights and adapters to the object store, from which model services fetch them at startup.

weights/{name}/{file}           a checkpoint, or the parts of nano
weights/{name}/SHA256SUMS       in the format of `sha256sum`; written last, so it marks a complete upload
adapters/{name}/...             likewise

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
from services.shared.storage.folders import SUMS, FolderCorrupt
from services.shared.storage.folders import read_sums as parse_sums
from services.shared.storage.store_errors import ObjectMissing

_UPLOADED = "SHA256SUMS.part"  # files that an interrupted sync has uploaded
_PART_BYTES = 64 * 2**20
_CONCURRENT_PARTS = 4
_BINARY = "application/octet-stream"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

OnBytes = Callable[[int], None]


class Prefix(StrEnum):
    """Key prefix: weights of models, or adapters."""

    WEIGHTS = "weights"
    ADAPTERS = "adapters"


@dataclass(frozen=True, slots=True)
class File:
    """A file of a folder. `name` is its relative path with "/"; `size` in bytes; `sha256` in hexadecimal."""

    name: str
    path: Path
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SyncPlan:
    """What a sync would do.

    Attributes:
        prefix: Prefix of all keys, as in "weights/nano/".
        files: All files of the folder.
        to_upload: Those that are missing in the store or differ.
        to_delete: Files in the store that are not in the folder.
    """

    prefix: str
    files: tuple[File, ...]
    to_upload: tuple[File, ...]
    to_delete: tuple[str, ...]

    @property
    def bytes_to_upload(self) -> int:
        """Total size of `to_upload`."""
        return sum(file.size for file in self.to_upload)


def scan_folder(folder: Path) -> tuple[File, ...]:
    """All files of a folder and its subfolders with their hashes, except hidden ones.

    Raises:
        ClusterError: It is not a folder, contains no files, or a file cannot be read.
    """
    if not folder.is_dir():
        raise ClusterError(f"{folder} is not a folder", "pass the folder of a checkpoint, or `nano`")
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(folder)))
    files = []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if "\n" in name or "\\" in name:
            raise ClusterError(f"{SUMS} cannot represent the name of {path}", "rename it")
        if name in (SUMS, _UPLOADED):
            continue
        try:
            files.append(File(name, path, path.stat().st_size, _sha256(path)))
        except OSError as error:
            raise ClusterError(f"{path} cannot be read: {error.strerror}") from error
    if not files:
        raise ClusterError(f"{folder} contains no files", "pass the folder of a checkpoint, or `nano`")
    return tuple(files)


def plan_sync(store: ObjectStore, kind: Prefix, name: str, files: tuple[File, ...]) -> SyncPlan:
    """Compares files with those in the store. Raises ClusterError for an invalid name."""
    if not _NAME.fullmatch(name):
        raise ClusterError(
            f"{name!r} is not a valid name for {kind}", "use at most 63 letters, digits, '.', '_' and '-'"
        )
    prefix = f"{kind}/{name}/"
    sizes = {each.key.removeprefix(prefix): each.size for each in store.list(prefix)}
    hashes = read_sums(store, prefix + SUMS) | read_sums(store, prefix + _UPLOADED)
    to_upload = [file for file in files if (sizes.get(file.name), hashes.get(file.name)) != (file.size, file.sha256)]
    expected = {file.name for file in files} | {SUMS, _UPLOADED}
    return SyncPlan(prefix, files, tuple(to_upload), tuple(sorted(sizes.keys() - expected)))


def sync(store: ObjectStore, plan: SyncPlan, on_bytes: OnBytes = lambda count: None) -> None:
    """Uploads missing files, then SHA256SUMS, then deletes files that are not in the folder.

    Readers that see a mixture find mismatching hashes and retry. An interrupted sync resumes where it stopped.

    Raises:
        StoreUnavailable: See ObjectStore.
        ClusterError: A file changed during the upload.
    """
    done = {file.name: file.sha256 for file in plan.files if file not in plan.to_upload}
    for file in plan.to_upload:
        _upload(store, plan.prefix + file.name, file, on_bytes)
        done[file.name] = file.sha256
        store.put(plan.prefix + _UPLOADED, _sums(done), "text/plain")
    store.put(plan.prefix + SUMS, _sums({file.name: file.sha256 for file in plan.files}), "text/plain")
    for name in (*plan.to_delete, _UPLOADED):
        store.delete(plan.prefix + name)


def read_sums(store: ObjectStore, key: str) -> dict[str, str]:
    """Hashes by file; empty if the object is missing or malformed, so that everything is uploaded again."""
    try:
        return parse_sums(store.get(key).decode(errors="replace"), key)
    except (ObjectMissing, FolderCorrupt):
        return {}


def _sums(files: Mapping[str, str]) -> bytes:
    return "".join(f"{files[name]}  {name}\n" for name in sorted(files)).encode()


def _upload(store: ObjectStore, key: str, file: File, on_bytes: OnBytes) -> None:
    digest = hashlib.sha256()
    try:
        if file.size <= _PART_BYTES:
            data = file.path.read_bytes()
            digest.update(data)
            _check_unchanged(file, digest)
            store.put(key, data, _BINARY)
            on_bytes(len(data))
            return
        upload = store.begin_parts(key, _BINARY)
        try:
            etags = _upload_parts(store, key, upload, file, digest, on_bytes)
            _check_unchanged(file, digest)
            store.finish_parts(key, upload, etags)
        except BaseException:
            store.abort_parts(key, upload)
            raise
    except OSError as error:
        raise ClusterError(f"{file.path} cannot be read: {error.strerror}") from error


def _upload_parts(
    store: ObjectStore, key: str, upload: str, file: File, digest: "hashlib._Hash", on_bytes: OnBytes
) -> list[str]:
    """Uploads a file in parts; returns their etags in order."""

    def upload_part(number: int, data: bytes) -> str:
        etag = store.put_part(key, upload, number, data)
        on_bytes(len(data))
        return etag

    etags: list[str] = []
    with ThreadPoolExecutor(_CONCURRENT_PARTS, thread_name_prefix="part") as threads:
        pending = []
        for number, data in enumerate(_parts(file.path), 1):
            digest.update(data)
            pending.append(threads.submit(upload_part, number, data))
            if len(pending) == _CONCURRENT_PARTS:  # bounds the parts in memory
                etags.append(pending.pop(0).result())
        etags += [each.result() for each in pending]
    return etags


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as opened:
        while data := opened.read(_PART_BYTES):
            yield data


def _check_unchanged(file: File, digest: "hashlib._Hash") -> None:
    if digest.hexdigest() != file.sha256:
        raise ClusterError(f"{file.path} changed during the upload", "sync again when it is no longer being written")


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
