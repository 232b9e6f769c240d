"""Files that are whole or not there: written aside, flushed to the disk, renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_core.data.data_errors import disk_failures


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to, and renames it when the block ends; a failure leaves nothing.

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
    """Removes what a killed run left of `written_aside` in a folder; no other process may be writing there."""
    for partial in folder.glob(".*.partial-*"):
        partial.unlink(missing_ok=True)
