"""Files and folders that only their owner can access: keys, secrets, tenants' media and logs."""

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class FolderNotPrivate(Exception):
    """Other users can access a folder that has to be private, and this process must not change its mode."""


class PrivateFile:
    """A small text file of mode 0600 that processes of one machine share. Writes replace it atomically."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def version(self) -> tuple[int, int, int] | None:
        """Changes with every write; None if the file does not exist."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds an exclusive lock between processes, for a read-modify-write."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self.path.with_suffix(".lock"), "a", opener=_open_private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def write(self, text: str) -> None:
        """Replaces the file atomically; mkstemp creates it with mode 0600."""
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.stem}-")
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def make_private(folder: Path) -> None:
    """Creates the folder if it is missing and sets its mode to 0700. Modes of its contents are left alone.

    Raises:
        FolderNotPrivate: Other users can access it, and it belongs to one of them or is shared by design, like /tmp.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if not status.st_mode & _OTHERS:
        return
    if status.st_uid != os.geteuid() or status.st_mode & stat.S_ISVTX:
        raise FolderNotPrivate(
            f"{folder} is accessible to other users of this machine and "
            + ("is shared by all of them" if status.st_mode & stat.S_ISVTX else "belongs to one of them")
            + "; choose another folder with LYRA_HOME, or have its owner run `chmod 700` on it"
        )
    folder.chmod(0o700)


def close_to_others(folder: Path) -> None:
    """Removes the permissions of group and others from the folder and everything below it that this user owns.

    Symbolic links are not followed.
    """
    for path in (folder, *_below(folder)):
        status = path.lstat()
        if status.st_uid == os.geteuid() and status.st_mode & _OTHERS and not path.is_symlink():
            path.chmod(stat.S_IMODE(status.st_mode) & ~_OTHERS)


def _below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files))


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
