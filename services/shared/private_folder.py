"""Folders that their owner alone can enter: tenants' media, keys and logs are nobody else's business."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class FolderNotPrivate(Exception):
    """Others can enter a folder that must be private, and it is not ours to close it."""


def make_private(folder: Path) -> None:
    """Makes the folder, where it is missing, and closes it to everybody but its owner (0700). What lies in it stays.

    Raises:
        FolderNotPrivate: others can enter it, and it belongs to another user or is shared by design, as /tmp is.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if not status.st_mode & _OTHERS:
        return
    if status.st_uid != os.geteuid() or status.st_mode & stat.S_ISVTX:
        raise FolderNotPrivate(
            f"{folder} is open to other users of this machine and "
            + ("is a folder that all of them share" if status.st_mode & stat.S_ISVTX else "belongs to one of them")
            + "; name another with LYRA_HOME, or let its owner `chmod 700` it"
        )
    folder.chmod(0o700)


def close_to_others(folder: Path) -> None:
    """Takes from everybody but the owner what they may do with the folder and all below it that is ours.

    Links are not followed.
    """
    for path in (folder, *_below(folder)):
        status = path.lstat()
        if status.st_uid == os.geteuid() and status.st_mode & _OTHERS and not path.is_symlink():
            path.chmod(stat.S_IMODE(status.st_mode) & ~_OTHERS)


def _below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files))
