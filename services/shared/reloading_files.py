"""Tokens and certificates in files that are replaced while the process runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from services.shared import telemetry
from services.shared.private_files import PrivateFile

log = telemetry.get_logger(__name__)

T = TypeVar("T")


class SecretFileError(RuntimeError):
    """A file of tokens or certificates is missing or invalid; the message names it."""


class ReloadingFiles(Generic[T]):
    """A value read from files, and read again whenever one of them has changed.

    Files that belong together are rarely replaced in one step: a change that cannot be read is logged once, and the
    last valid value stays in use.

    Args:
        paths: The files.
        read: Reads and validates all of them. Raises SecretFileError.

    Raises:
        SecretFileError: The files cannot be read now.
    """

    def __init__(self, *paths: Path, read: Callable[[], T]) -> None:
        self._files = tuple(PrivateFile(path) for path in paths)
        self._read = read
        self._version = self._current_version()
        self._value = self._load()

    def current(self) -> T:
        """The last valid value. Costs one `stat` per file."""
        version = self._current_version()
        if version != self._version:
            self._version = version
            try:
                self._value = self._load()
                log.info("file reloaded", file=str(self._files[0].path))
            except SecretFileError as error:
                log.warning("file cannot be reloaded, the previous content stays in use", reason=str(error))
        return self._value

    def _load(self) -> T:
        value = self._read()
        if self._current_version() != self._version:
            raise SecretFileError(f"{self._files[0].path} was replaced while it was being read")
        return value

    def _current_version(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(file.version() for file in self._files)
