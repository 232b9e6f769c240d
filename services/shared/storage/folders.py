"""Folders of weights and adapters, from the object store to a disk, held against their sums.

    python -m services.shared.storage.folders fetch --home /var/lib/lyra weights/nano adapters/legal
    python -m services.shared.storage.folders verify --home /var/lib/lyra weights/nano

`lyra cluster weights sync` writes such a folder: its files, and last of all `SHA256SUMS` as of `sha256sum`. On
Kubernetes this runs before a model service starts. The store is that of the `LYRA_STORE_...` variables.
"""

import argparse
import hashlib
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pydantic import ValidationError

from services.shared import telemetry
from services.shared.storage.client import ObjectStore
from services.shared.storage.settings import StoreSettings
from services.shared.storage.store_errors import ObjectMissing, StoreUnavailable

log = telemetry.get_logger(__name__)

SUMS = "SHA256SUMS"
PROGRAM = "python -m services.shared.storage.folders"
_LINE = re.compile(r"(?P<sum>[0-9a-f]{64}) [ *](?P<file>.+)")
_FOLDER = re.compile(r"(weights|adapters)/[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_BLOCK_BYTES = 8 * 2**20  # read from the store at a time, by each of:
_FILES_AT_ONCE = 4
_TRIES = 3  # of a folder that is written while it is read


class FolderBroken(RuntimeError):
    """A folder is not there, or not as its sums say."""


def read_sums(text: str, folder: str) -> dict[str, str]:
    """SHA-256 by file, as `sha256sum` writes them. Raises FolderBroken where it is something else."""
    sums: dict[str, str] = {}
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        name = PurePosixPath(found["file"]) if found else PurePosixPath("..")
        if found is None or name.is_absolute() or ".." in name.parts:
            raise FolderBroken(f"{folder}/{SUMS} has a line that is no sum of a file in the folder: {line[:200]!r}")
        sums[found["file"]] = found["sum"]
    if not sums:
        raise FolderBroken(f"{folder}/{SUMS} names no files")
    return sums


def fetch(store: ObjectStore, folder: str, home: Path) -> int:
    """Brings a folder to `<home>/<folder>`; files that are there already and are right are kept.

    Args:
        folder: As in "weights/nano".

    Returns:
        Bytes that were read from the store.

    Raises:
        FolderBroken: it is not in the store, or a file there is not what its sum says, also not when tried again.
        StoreUnavailable: the store cannot be reached, or its credentials are wrong.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            return _fetch(store, folder, home)
        except FolderBroken as error:
            if not tries_left:
                raise
            log.warning(
                "the folder is not as its sums say; somebody may be writing it", folder=folder, reason=str(error)
            )
    raise AssertionError("unreachable")


def verify(folder: str, home: Path) -> int:
    """Holds `<home>/<folder>` against the sums in it. Returns the number of files. Raises FolderBroken."""
    place = home / folder
    try:
        sums = read_sums((place / SUMS).read_text(), folder)
    except (FileNotFoundError, NotADirectoryError):
        raise FolderBroken(
            f"{place}/{SUMS} is not there: write it with `sha256sum`, or set weights.verify to false"
        ) from None
    for name, wanted in sums.items():
        if (found := _sum_of(place / name)) != wanted:
            raise FolderBroken(f"{folder}/{name} {'is not there' if found is None else 'is not what its sum says'}")
    return len(sums)


def _fetch(store: ObjectStore, folder: str, home: Path) -> int:
    try:
        text = store.get(f"{folder}/{SUMS}").decode(errors="replace")
    except ObjectMissing:
        hint = "`lyra cluster weights sync` writes it"
        raise FolderBroken(f"{folder}/{SUMS} is not in the object store: {hint}") from None
    sums = read_sums(text, folder)
    with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="file") as threads:
        sizes = list(threads.map(lambda item: _bring(store, folder, home, *item), sums.items()))
    (home / folder / SUMS).write_text(text)
    log.info("folder is here", folder=folder, files=len(sums), bytes_read=sum(sizes))
    return sum(sizes)


def _bring(store: ObjectStore, folder: str, home: Path, name: str, wanted: str) -> int:
    """One file, which appears whole or not at all."""
    target = home / folder / name
    if _sum_of(target) == wanted:
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        with store.open(f"{folder}/{name}", _BLOCK_BYTES) as source, part.open("wb") as sink:
            found = _copied(source, sink)
        if found != wanted:
            raise FolderBroken(f"{folder}/{name} in the object store is not what its sum says")
        part.replace(target)
    except ObjectMissing:
        raise FolderBroken(f"{folder}/{name} is not in the object store") from None
    finally:
        part.unlink(missing_ok=True)
    return target.stat().st_size


def _sum_of(path: Path) -> str | None:
    try:
        with path.open("rb") as source:
            return hashlib.file_digest(source, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _copied(source: BinaryIO, sink: BinaryIO) -> str:
    """Copies a file; returns its SHA-256."""
    digest = hashlib.sha256()
    while block := source.read(_BLOCK_BYTES):
        digest.update(block)
        sink.write(block)
    return digest.hexdigest()


def _folder(text: str) -> str:
    if not _FOLDER.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no folder of weights or adapters, as in weights/nano")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 when every folder is there and right, 1 when one is not."""
    parser = argparse.ArgumentParser(PROGRAM, description="Folders of weights and adapters: fetched, and verified.")
    parser.add_argument("action", choices=("fetch", "verify"))
    parser.add_argument("folders", nargs="+", type=_folder, metavar="FOLDER", help="weights/NAME or adapters/NAME")
    parser.add_argument("--home", type=Path, required=True, help="LYRA_HOME of the service")
    given = parser.parse_args(arguments)
    telemetry.configure_logging("info", "json", "folders")
    try:
        store = ObjectStore(StoreSettings()) if given.action == "fetch" else None
        for folder in given.folders:
            if store is None:
                log.info("folder is right", folder=folder, files=verify(folder, given.home))
            else:
                fetch(store, folder, given.home)
    except ValidationError as error:
        for mistake in error.errors():
            print(f"{PROGRAM}: LYRA_{str(mistake['loc'][0]).upper()}: {mistake['msg']}", file=sys.stderr)
        return 2
    except (FolderBroken, StoreUnavailable, OSError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
