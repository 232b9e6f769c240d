"""Errors of data code: about one sample, about a data folder, about a full disk."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from model_core.errors import InvalidInput


class Reason(StrEnum):
    """Why a sample is invalid; reports and manifests count by it."""

    NOT_A_SAMPLE = "not-a-sample"
    NO_ANSWER = "no-answer"
    EMPTY_TURN = "empty-turn"
    ROLES = "roles"
    MORE_PLACEHOLDERS = "more-placeholders-than-media"
    FEWER_PLACEHOLDERS = "fewer-placeholders-than-media"
    PLACEHOLDER_IN_ANSWER = "placeholder-in-answer"
    MISSING_FILE = "missing-file"
    OUTSIDE_ROOT = "outside-media-root"
    FILE_SIZE = "file-size"
    AUDIO = "audio-does-not-decode"
    SECONDS = "wrong-seconds"
    IMAGE = "image-does-not-decode"
    IMAGE_SIZE = "image-size"
    IMAGE_FORMAT = "image-format"
    VIDEO = "video-does-not-decode"
    UNITS = "units"
    SAME_ID = "same-id"


class SampleError(InvalidInput):
    """A sample is invalid.

    Args:
        sample: Its id, or its position if it has none.
        field: The part of it that is wrong.
        message: What is wrong, with the limit if there is one.
        reason: The reason it is counted under.
    """

    def __init__(self, sample: str, field: str, message: str, reason: Reason) -> None:
        super().__init__(f"sample {sample}, {field}", message)
        self.sample = sample
        self.part = field
        self.detail = message
        self.reason = reason

    def __reduce__(self) -> tuple[type["SampleError"], tuple[str, str, str, Reason]]:
        return SampleError, (self.sample, self.part, self.detail, self.reason)


class DataError(InvalidInput):
    """A data folder, or one of its files, is incomplete or invalid.

    Args:
        path: The file or folder.
        message: What is wrong with it, and what to do.
    """

    def __init__(self, path: Path | str, message: str) -> None:
        super().__init__(str(path), message)
        self.path = str(path)

    def __reduce__(self) -> tuple[type["DataError"], tuple[str, str]]:
        return DataError, (self.path, self.message)


@contextmanager
def disk_failures(path: Path) -> Iterator[None]:
    """Turns a full disk, a quota or a file-size limit hit while writing `path` into a DataError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DataError(
            path,
            f"cannot be written: {os.strerror(error.errno)}. Free space there or choose another folder, then run the "
            "same command again: finished work is kept, and no partial file was left",
        ) from error
