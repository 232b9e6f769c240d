"""Free disk space of an object store on this machine, checked before every write so that none fails midway.

After a write to one of its indexes has failed on a full disk, SeaweedFS never writes to that index again.
"""

import os
from contextlib import suppress
from pathlib import Path

from services.shared.storage.store_errors import StoreFull

_FAILED = "write-failed"


class DiskSpace:
    """The disk space that writes may use.

    Args:
        folder: A folder on the disk; None for a remote store, which reports itself that it is full.
        reserve_bytes: Bytes to leave free.
    """

    def __init__(self, folder: Path | None, reserve_bytes: int) -> None:
        self._folder = folder
        self._reserve_bytes = reserve_bytes

    def check(self, size: int = 0) -> None:
        """Raises StoreFull if writing `size` more bytes would use the reserve; OSError."""
        if self._folder is not None and free_bytes(self._folder) < self._reserve_bytes + size:
            raise StoreFull

    def note_failure(self) -> None:
        """Marks that the store failed to write despite free space, for its supervisor."""
        if self._folder is not None:
            with suppress(OSError):  # the disk itself is failing
                failure_marker(self._folder).touch(mode=0o600)


def free_bytes(folder: Path) -> int:
    """Free bytes on the folder's disk."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def failure_marker(folder: Path) -> Path:
    """The file that marks a failed write."""
    return folder / _FAILED
