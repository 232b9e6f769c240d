"""Protocol between parent and child: frames of a kind, a length and that many bytes over a socket.

Nothing is pickled, and lengths are checked before memory is allocated, because a child may be under an attacker's
control.
"""

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

MAX_JSON_BYTES = 65_536
READ_BYTES = 2**20  # limit of one read request

_HEADER = struct.Struct("<cI")


class Kind(Enum):
    """Kind of a frame. Parents send a JOB, then DATA for each READ; children send ITEMs, then a RESULT or an ERROR."""

    JOB = b"J"  # parent: JSON, with a file descriptor of the source if there is one
    DATA = b"D"  # parent: the requested bytes, fewer at the end of the file
    READ = b"R"  # child: a READ_REQUEST
    ITEM = b"I"  # child: JSON with the number of bytes that follow the frame
    RESULT = b"E"  # child: JSON
    ERROR = b"X"  # child: JSON


READ_REQUEST = struct.Struct("<QI")  # offset, bytes

# Requests to the zygote: FORK a child, KILL a child. Its notices: READY, a new CHILD with its socket, a child is GONE.
REQUEST = struct.Struct("<cI")  # kind, process id
NOTICE = struct.Struct("<cIi")  # kind, process id, wait status; for READY, whether there is a filter
FORK, KILL = b"F", b"K"
READY, CHILD, GONE = b"R", b"C", b"G"


class WireError(Exception):
    """The peer has closed the connection or violated the protocol."""


class WireTimeout(Exception):
    """The peer exceeded the timeout."""


class Wire:
    """One end of the connection.

    Args:
        connection: A connected stream socket.
        timeout_seconds: Limit of the time spent waiting for the peer, all waits together; None for no limit.
    """

    def __init__(self, connection: socket.socket, timeout_seconds: float | None = None) -> None:
        self._connection = connection
        self._time_left = timeout_seconds

    def send(self, kind: Kind, data: bytes, more: bytes | bytearray | memoryview = b"", descriptor: int = -1) -> None:
        """Sends a frame, followed by `more`. Raises WireError and WireTimeout."""
        frame = _HEADER.pack(kind.value, len(data)) + data
        with self._timed():
            if descriptor >= 0:
                frame = frame[socket.send_fds(self._connection, [frame], [descriptor]) :]
            # Sends nothing if nothing is left: the peer may have responded and closed by now.
            for rest in (frame, more):
                if len(rest):
                    self._connection.sendall(rest)

    def receive(self, max_bytes: int = MAX_JSON_BYTES) -> tuple[Kind, bytes]:
        """Receives a frame. Raises WireTimeout, and WireError also if it is longer than `max_bytes`."""
        kind, length = _HEADER.unpack(self.take(_HEADER.size))
        if length > max_bytes:
            raise WireError(f"a frame of {length} bytes is over the limit of {max_bytes}")
        try:
            return Kind(kind), bytes(self.take(length))
        except ValueError as error:
            raise WireError("a frame of unknown kind") from error

    def receive_job(self) -> tuple[bytes, int | None]:
        """Receives the first frame, and the descriptor sent with it. For children only."""
        data, descriptors, _, _ = socket.recv_fds(self._connection, _HEADER.size, 1)
        if not data:
            raise WireError("the connection was closed before a job arrived")
        header = data + self.take(_HEADER.size - len(data))
        _, length = _HEADER.unpack(header)
        return bytes(self.take(length)), descriptors[0] if descriptors else None

    def take(self, length: int) -> bytearray:
        """Receives exactly `length` bytes. Raises WireError and WireTimeout."""
        taken = bytearray(length)
        rest = memoryview(taken)
        while rest:
            with self._timed():
                count = self._connection.recv_into(rest)
            if not count:
                raise WireError("the connection was closed")
            rest = rest[count:]
        return taken

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Limits the wait to the time left, and deducts the time waited."""
        began = time.monotonic()
        if self._time_left is not None:
            if self._time_left <= 0:
                raise WireTimeout
            self._connection.settimeout(self._time_left)
        try:
            yield
        except TimeoutError as error:
            raise WireTimeout from error
        except OSError as error:
            raise WireError(str(error)) from error
        finally:
            if self._time_left is not None:
                self._time_left -= time.monotonic() - began
