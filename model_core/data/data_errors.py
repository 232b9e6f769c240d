"""What data code raises: about one sample, about a folder of data, about a full disk."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from model_core.errors import InvalidInput


class Reason(StrEnum):
    """Why a sample is bad; reports and manifests count by it."""

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
    """One sample is bad.

    Args:
        sample: Its id, or where it stands when it has none.
        field: The part of it that is wrong.
        message: What is wrong and which limit holds.
        reason: Under which it is counted.
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
    """A folder of data, or a file of it, is not whole or not what it should be.

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
    """Turns a full disk, a quota or a file-size limit met while `path` is written into a DataError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DataError(
            path,
            f"cannot be written: {os.strerror(error.errno)}. Free space there or choose another folder, then run the "
            "same command again: what is finished is kept, and no partial file was left",
        ) from error
