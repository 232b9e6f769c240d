"""Decides when to restart the object store: after a failed write on a full disk, SeaweedFS stays read-only.

Its index has eight parts, each of which becomes read-only on its own, so a single successful write proves nothing.
"""

import time
from collections.abc import Callable
from pathlib import Path

from services.shared.storage.disk_space import failure_marker, free_bytes

# Below this share of the reserve, a write may have failed, or SeaweedFS may have made its volumes read-only, which it
# does at 1 % of the disk and reverts after a minute.
_LOW_SHARE = 0.85
_MIN_UPTIME_SECONDS = 15.0  # between restarts because of writes that fail although there is space


class StoreWatch:
    """Watches free disk space and failed writes.

    Args:
        folder: Data folder of the store.
        reserve_bytes: Free space below which nothing is written.
        is_ready: Whether the store accepts requests.
    """

    def __init__(self, folder: Path, reserve_bytes: int, is_ready: Callable[[], bool]) -> None:
        self._folder = folder
        self._reserve_bytes = reserve_bytes
        self._is_ready = is_ready
        self._was_full = False
        self._ready = False
        self._started = -_MIN_UPTIME_SECONDS

    def on_start(self) -> None:
        """Must be called when the store has been started."""
        self._was_full, self._ready, self._started = False, False, time.monotonic()

    def restart_reason(self) -> str:
        """Why the store must be restarted now; empty if it need not be."""
        free = free_bytes(self._folder)
        self._was_full |= free < _LOW_SHARE * self._reserve_bytes
        if free < self._reserve_bytes:
            return ""
        if self._was_full:
            return "its disk was full and has space again"
        if not self._ready:
            # Failures during startup are meaningless.
            self._ready = self._is_ready()
            if self._ready:
                failure_marker(self._folder).unlink(missing_ok=True)
            return ""
        failed = failure_marker(self._folder).exists() and time.monotonic() - self._started > _MIN_UPTIME_SECONDS
        return "writes fail although there is space" if failed else ""
