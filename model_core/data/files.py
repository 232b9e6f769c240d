"""Atomic file writes: to a temporary file, flushed to disk, renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_core.data.data_errors import disk_failures


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` and renames it at the end of the block; a failure leaves no file.

    Raises:
        DataError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with disk_failures(path):
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Removes temporary files that a killed run left in a folder; no other process may be writing there."""
    for partial in folder.glob(".*.partial-*"):
        partial.unlink(missing_ok=True)
