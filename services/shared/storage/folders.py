"""Downloads folders of weights and adapters from the object store and verifies their checksums.

    python -m services.shared.storage.folders fetch --home /var/lib/lyra weights/nano adapters/legal
    python -m services.shared.storage.folders verify --home /var/lib/lyra weights/nano

`lyra cluster weights sync` uploads such a folder: its files, and last `SHA256SUMS` in the format of `sha256sum`. On
Kubernetes this module runs before a model service starts. `LYRA_STORE_...` variables configure the store.
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
_BLOCK_BYTES = 8 * 2**20  # read from the store at a time, per file
_CONCURRENT_FILES = 4
_ATTEMPTS = 3  # the folder may be written while it is read


class FolderCorrupt(RuntimeError):
    """A folder is missing or does not match its checksums."""


def read_sums(text: str, folder: str) -> dict[str, str]:
    """Parses the output of `sha256sum`: SHA-256 by file name. Raises FolderCorrupt."""
    sums: dict[str, str] = {}
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        name = PurePosixPath(found["file"]) if found else PurePosixPath("..")
        if found is None or name.is_absolute() or ".." in name.parts:
            raise FolderCorrupt(
                f"{folder}/{SUMS} has a line that is not a checksum of a file in the folder: {line[:200]!r}"
            )
        sums[found["file"]] = found["sum"]
    if not sums:
        raise FolderCorrupt(f"{folder}/{SUMS} names no files")
    return sums


def fetch(store: ObjectStore, folder: str, home: Path) -> int:
    """Downloads a folder to `<home>/<folder>`; existing files that match their checksums are kept.

    Args:
        folder: Such as "weights/nano".

    Returns:
        Bytes read from the store.

    Raises:
        FolderCorrupt: The folder is not in the store, or still does not match its checksums after several attempts.
        StoreUnavailable: The store cannot be reached, or the credentials are wrong.
    """
    for attempts_left in reversed(range(_ATTEMPTS)):
        try:
            return _fetch(store, folder, home)
        except FolderCorrupt as error:
            if not attempts_left:
                raise
            log.warning(
                "the folder does not match its checksums; it may be being written", folder=folder, reason=str(error)
            )
    raise AssertionError("unreachable")


def verify(folder: str, home: Path) -> int:
    """Verifies the checksums in `<home>/<folder>`. Returns the number of files. Raises FolderCorrupt."""
    path = home / folder
    try:
        sums = read_sums((path / SUMS).read_text(), folder)
    except (FileNotFoundError, NotADirectoryError):
        raise FolderCorrupt(
            f"{path}/{SUMS} is missing: create it with `sha256sum`, or set weights.verify to false"
        ) from None
    for name, wanted in sums.items():
        if (found := _sum_of(path / name)) != wanted:
            raise FolderCorrupt(f"{folder}/{name} {'is missing' if found is None else 'does not match its checksum'}")
    return len(sums)


def _fetch(store: ObjectStore, folder: str, home: Path) -> int:
    try:
        text = store.get(f"{folder}/{SUMS}").decode(errors="replace")
    except ObjectMissing:
        hint = "upload it with `lyra cluster weights sync`"
        raise FolderCorrupt(f"{folder}/{SUMS} is not in the object store: {hint}") from None
    sums = read_sums(text, folder)
    with ThreadPoolExecutor(_CONCURRENT_FILES, thread_name_prefix="file") as threads:
        sizes = list(threads.map(lambda item: _fetch_file(store, folder, home, *item), sums.items()))
    (home / folder / SUMS).write_text(text)
    log.info("folder downloaded", folder=folder, files=len(sums), bytes_read=sum(sizes))
    return sum(sizes)


def _fetch_file(store: ObjectStore, folder: str, home: Path, name: str, wanted: str) -> int:
    """Downloads one file atomically. Returns the bytes read."""
    target = home / folder / name
    if _sum_of(target) == wanted:
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        with store.open(f"{folder}/{name}", _BLOCK_BYTES) as source, part.open("wb") as sink:
            found = _copied(source, sink)
        if found != wanted:
            raise FolderCorrupt(f"{folder}/{name} in the object store does not match its checksum")
        part.replace(target)
    except ObjectMissing:
        raise FolderCorrupt(f"{folder}/{name} is not in the object store") from None
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
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder of weights or adapters such as weights/nano")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 if every folder is complete and verified, 1 if one is not."""
    parser = argparse.ArgumentParser(PROGRAM, description="Downloads and verifies folders of weights and adapters.")
    parser.add_argument("action", choices=("fetch", "verify"))
    parser.add_argument("folders", nargs="+", type=_folder, metavar="FOLDER", help="weights/NAME or adapters/NAME")
    parser.add_argument("--home", type=Path, required=True, help="LYRA_HOME of the service")
    given = parser.parse_args(arguments)
    telemetry.configure_logging("info", "json", "folders")
    try:
        store = ObjectStore(StoreSettings()) if given.action == "fetch" else None
        for folder in given.folders:
            if store is None:
                log.info("folder verified", folder=folder, files=verify(folder, given.home))
            else:
                fetch(store, folder, given.home)
    except ValidationError as error:
        for mistake in error.errors():
            print(f"{PROGRAM}: LYRA_{str(mistake['loc'][0]).upper()}: {mistake['msg']}", file=sys.stderr)
        return 2
    except (FolderCorrupt, StoreUnavailable, OSError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
