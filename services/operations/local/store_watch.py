"""Tells when the object store has to start anew: SeaweedFS writes no more after a write has failed on a full disk.

Its index has eight parts, each of which goes read-only on its own, so that one write that goes through proves nothing.
"""

import time
from collections.abc import Callable
from pathlib import Path

from services.shared.storage.room import failure_mark, free_bytes

# Under this share of the reserve a write may have failed, or SeaweedFS have closed its volumes, which it does at 1 %
# of the disk and takes back after a minute.
_LOW_SHARE = 0.85
_PAUSE_SECONDS = 15.0  # between two starts for writes that fail while there is room


class StoreWatch:
    """Watches the disk, and for writes that failed.

    Args:
        folder: Of the store's data.
        reserve_bytes: Under which nobody writes.
        is_ready: Whether the store takes requests.
    """

    def __init__(self, folder: Path, reserve_bytes: int, is_ready: Callable[[], bool]) -> None:
        self._folder = folder
        self._reserve_bytes = reserve_bytes
        self._is_ready = is_ready
        self._was_full = False
        self._ready = False
        self._started = -_PAUSE_SECONDS

    def note_start(self) -> None:
        """The store has been started."""
        self._was_full, self._ready, self._started = False, False, time.monotonic()

    def must_restart(self) -> str:
        """Why the store has to start anew now; empty where it has not to."""
        free = free_bytes(self._folder)
        self._was_full |= free < _LOW_SHARE * self._reserve_bytes
        if free < self._reserve_bytes:
            return ""
        if self._was_full:
            return "its disk was full and has room again"
        if not self._ready:
            # What fails while it starts says nothing.
            self._ready = self._is_ready()
            if self._ready:
                failure_mark(self._folder).unlink(missing_ok=True)
            return ""
        failed = failure_mark(self._folder).exists() and time.monotonic() - self._started > _PAUSE_SECONDS
        return "it fails to write although there is room" if failed else ""
