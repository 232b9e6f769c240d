"""Files received in pieces, with a size limit; small ones in memory, larger ones in a temporary file."""

import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from services.shared.service_errors import InvalidInput

MEMORY_BYTES = 8 * 1024 * 1024


class Upload:
    """Receives one file up to a size limit. As a context manager, deletes its temporary file on exit.

    Args:
        max_bytes: Maximum size.
        field: Name of the file in errors.
        limit: The limit as shown in errors, if the sender does not think in bytes, such as "30 s".
    """

    def __init__(self, *, max_bytes: int, field: str, limit: str = "") -> None:
        self._max_bytes = max_bytes
        self._field = field
        self._limit = limit or megabytes(max_bytes)
        self._size = 0
        self._memory = bytearray()
        self._disk: tempfile._TemporaryFileWrapper[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Discards the file."""
        self._memory.clear()
        if self._disk is not None:
            self._disk.close()

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._size

    def write(self, data: bytes) -> None:
        """Adds the next bytes.

        Raises:
            InvalidInput: The file is over the limit.
        """
        self._size += len(data)
        if self._size > self._max_bytes:
            raise InvalidInput(self._field, f"over the limit of {self._limit}")
        if self._disk is None and self._size <= MEMORY_BYTES:
            self._memory += data
            return
        if self._disk is None:
            self._disk = tempfile.NamedTemporaryFile(prefix="lyra-upload-")  # noqa: SIM115 (closed in __exit__)
            self._disk.write(self._memory)
            self._memory.clear()
        self._disk.write(data)

    async def receive(self, pieces: AsyncIterator[bytes]) -> None:
        """Receives all `pieces`.

        Raises:
            InvalidInput: As for `write`; or the file is empty.
        """
        async for piece in pieces:
            self.write(piece)
        if self._size == 0:
            raise InvalidInput(self._field, "is empty (0 bytes)")

    def source(self) -> bytes | Path:
        """The content, or the path of the temporary file, which exists until the `with` block ends."""
        if self._disk is None:
            return bytes(self._memory)
        self._disk.flush()
        return Path(self._disk.name)

    def digest(self) -> bytes:
        """SHA-256 of the whole file. Blocks: run it in a thread."""
        if self._disk is None:
            return hashlib.sha256(self._memory).digest()
        with Path(self._disk.name).open("rb") as file:
            self._disk.flush()
            return hashlib.file_digest(file, "sha256").digest()

    def read(self) -> bytes:
        """The content."""
        source = self.source()
        return source if isinstance(source, bytes) else source.read_bytes()


async def header_and_parts(
    requests: AsyncIterator[Any], part: str | Callable[[Any], str]
) -> tuple[Any, AsyncIterator[Any]]:
    """Splits a request stream into its header, which is the first message, and the parts that follow.

    Args:
        requests: The stream.
        part: Name of the parts' field, or a function that returns it for a header.

    Raises:
        InvalidInput: The first message is not a header; or, while the parts are read, a later one is not a part.
    """
    first = await anext(requests, None)
    if first is None or first.WhichOneof("part") != "header":
        raise InvalidInput("header", "the first message must contain the header")

    wanted = part if isinstance(part, str) else part(first.header)

    async def parts() -> AsyncIterator[Any]:
        async for request in requests:
            if (kind := request.WhichOneof("part")) != wanted:
                raise InvalidInput(kind or "part", f"every message after the header must contain {wanted}")
            yield getattr(request, wanted)

    return first.header, parts()


def megabytes(count: int) -> str:
    """A number of bytes for output, as in "20 MiB"."""
    return f"{count / 2**20:g} MiB"
