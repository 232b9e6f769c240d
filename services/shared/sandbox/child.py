"""A child of the zygote: decodes one file, sends the result, and exits."""

import io
import json
import os
import select
import socket
from typing import Any, BinaryIO, NoReturn, cast

from model_core.errors import InvalidInput
from services.shared.sandbox.filter import forbid_system_calls
from services.shared.sandbox.limits import limit_seconds
from services.shared.sandbox.tasks import FIELD, TASKS
from services.shared.sandbox.warm_up import prefault
from services.shared.sandbox.wire import READ_BYTES, READ_REQUEST, Kind, Wire, WireError

_MESSAGE_CHARACTERS = 1_000
_BUFFER_BYTES = 2**18


def serve(connection: socket.socket, *, filtered: bool) -> NoReturn:
    """Waits for a file, decodes it and exits.

    Args:
        connection: To the parent.
        filtered: Whether to install the system call filter, before the first byte of the file is read.
    """
    wire = Wire(connection)
    code = 0
    if not select.select([connection], [], [], 0)[0]:
        prefault()
    try:
        header, descriptor = wire.receive_job()
        job = json.loads(header)
        limit_seconds(job["processor_seconds"])
        if filtered:
            forbid_system_calls()
        kind, facts = _run(wire, job, descriptor)
        wire.send(kind, json.dumps(facts).encode())
    except WireError:  # the parent has gone or given up
        code = 1
    os._exit(code)


def _run(wire: Wire, job: dict[str, Any], descriptor: int | None) -> tuple[Kind, dict[str, Any]]:
    try:
        raw = _DescriptorFile(descriptor, job["bytes"]) if descriptor is not None else _RemoteFile(wire, job["bytes"])
        if not job["bytes"]:
            raise InvalidInput(FIELD, "is empty: 0 bytes")
        source = cast(BinaryIO, io.BufferedReader(raw, _BUFFER_BYTES))
        task = TASKS[job["task"]](source, **job["arguments"])
        while True:
            try:
                facts, data = next(task)
            except StopIteration as end:
                return Kind.RESULT, end.value
            wire.send(Kind.ITEM, json.dumps({**facts, "bytes": len(data)}).encode(), data)
    except WireError:
        raise
    except MemoryError:
        return Kind.ERROR, {"limit": "memory"}
    except InvalidInput as error:
        return Kind.ERROR, {"message": error.message[:_MESSAGE_CHARACTERS]}
    except Exception as error:  # a decoder failed unexpectedly
        return Kind.ERROR, {"unexpected": f"{type(error).__name__}: {error}"[:_MESSAGE_CHARACTERS]}


class _File(io.RawIOBase):
    """A raw file of known size."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError("negative seek position")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._position, READ_BYTES)
        if length <= 0:
            return 0
        data = self._read_at(self._position, length)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _read_at(self, offset: int, length: int) -> bytes:
        raise NotImplementedError


class _DescriptorFile(_File):
    """A file whose descriptor was sent with the job."""

    def __init__(self, descriptor: int, size: int) -> None:
        super().__init__(size)
        self._descriptor = descriptor

    def _read_at(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)


class _RemoteFile(_File):
    """A file that the parent reads on request, such as one in the object store."""

    def __init__(self, wire: Wire, size: int) -> None:
        super().__init__(size)
        self._wire = wire

    def _read_at(self, offset: int, length: int) -> bytes:
        self._wire.send(Kind.READ, READ_REQUEST.pack(offset, length))
        kind, data = self._wire.receive(READ_BYTES)
        if kind is not Kind.DATA:
            raise WireError("an unexpected frame")
        return data
