"""Room on the disk of an object store on this machine: looked at before every write, so that none fails half-way.

SeaweedFS writes no more, for good, to an index whose own write has failed on a full disk.
"""

import os
from contextlib import suppress
from pathlib import Path

from services.shared.storage.store_errors import StoreFull

_FAILED = "write-failed"


class Room:
    """The room that writes may take.

    Args:
        folder: On the disk; None where the store is elsewhere, and says itself that it is full.
        reserve_bytes: That are left free.
    """

    def __init__(self, folder: Path | None, reserve_bytes: int) -> None:
        self._folder = folder
        self._reserve_bytes = reserve_bytes

    def check(self, size: int = 0) -> None:
        """Returns where `size` bytes more leave the reserve free. Raises StoreFull, OSError."""
        if self._folder is not None and free_bytes(self._folder) < self._reserve_bytes + size:
            raise StoreFull

    def note_failure(self) -> None:
        """The store has failed to write although there is room: whoever runs it shall know."""
        if self._folder is not None:
            with suppress(OSError):  # it is a disk that fails
                failure_mark(self._folder).touch(mode=0o600)


def free_bytes(folder: Path) -> int:
    """Bytes that may still be written to the folder's disk."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def failure_mark(folder: Path) -> Path:
    """The file that tells of a write that has failed."""
    return folder / _FAILED
