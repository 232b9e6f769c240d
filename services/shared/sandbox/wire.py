"""What parent and child say to each other over their socket: frames of a kind, a length and that many bytes.

Nothing here is pickled, and lengths are checked before memory is spent: the child has read what strangers sent.
"""

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

MAX_JSON_BYTES = 65_536
READ_BYTES = 2**20  # of a file that a child asks for at a time

_HEADER = struct.Struct("<cI")


class Kind(Enum):
    """Of a frame. Parents send JOB once, then DATA for each READ; children send ITEMs, and end with RESULT or ERROR."""

    JOB = b"J"  # parent: JSON, with the source as a file descriptor where there is one
    DATA = b"D"  # parent: bytes that were asked for, fewer at the end of the file
    READ = b"R"  # child: asks for bytes, as `READ_REQUEST`
    ITEM = b"I"  # child: JSON with the number of bytes that come right behind the frame
    RESULT = b"E"  # child: JSON
    ERROR = b"X"  # child: JSON


READ_REQUEST = struct.Struct("<QI")  # offset, bytes

# What the zygote is told: to FORK a child, or to KILL one. What it tells: that it is READY; a CHILD, with its socket;
# that a child is GONE.
REQUEST = struct.Struct("<cI")  # kind, process id
NOTICE = struct.Struct("<cIi")  # kind, process id, exit status as the system has it; of READY whether there is a filter
FORK, KILL = b"F", b"K"
READY, CHILD, GONE = b"R", b"C", b"G"


class Broken(Exception):
    """The other side is gone, or does not keep to the protocol."""


class Late(Exception):
    """The other side took longer than it may."""


class Wire:
    """One side of a conversation.

    Args:
        connection: A connected stream socket.
        patience_seconds: Most that is waited for the other side, all waits together; None for no limit.
    """

    def __init__(self, connection: socket.socket, patience_seconds: float | None = None) -> None:
        self._connection = connection
        self._patience = patience_seconds

    def send(self, kind: Kind, data: bytes, more: bytes | bytearray | memoryview = b"", descriptor: int = -1) -> None:
        """Sends a frame, and `more` behind it. Raises Broken and Late."""
        frame = _HEADER.pack(kind.value, len(data)) + data
        with self._patient():
            if descriptor >= 0:
                frame = frame[socket.send_fds(self._connection, [frame], [descriptor]) :]
            # Nothing is sent where nothing is left: the other side may have answered and gone by now.
            for rest in (frame, more):
                if len(rest):
                    self._connection.sendall(rest)

    def receive(self, max_bytes: int = MAX_JSON_BYTES) -> tuple[Kind, bytes]:
        """The next frame. Raises Broken, also where it is longer than `max_bytes`, and Late."""
        kind, length = _HEADER.unpack(self.take(_HEADER.size))
        if length > max_bytes:
            raise Broken(f"a frame of {length} bytes where {max_bytes} are allowed")
        try:
            return Kind(kind), bytes(self.take(length))
        except ValueError as error:
            raise Broken("a frame of no kind that is known") from error

    def receive_job(self) -> tuple[bytes, int | None]:
        """The first frame, and the descriptor that came with it. For the child alone."""
        data, descriptors, _, _ = socket.recv_fds(self._connection, _HEADER.size, 1)
        if not data:
            raise Broken("nobody had a file to decode")
        header = data + self.take(_HEADER.size - len(data))
        _, length = _HEADER.unpack(header)
        return bytes(self.take(length)), descriptors[0] if descriptors else None

    def take(self, length: int) -> bytearray:
        """Exactly that many bytes. Raises Broken and Late."""
        taken = bytearray(length)
        rest = memoryview(taken)
        while rest:
            with self._patient():
                count = self._connection.recv_into(rest)
            if not count:
                raise Broken("the other side is gone")
            rest = rest[count:]
        return taken

    @contextmanager
    def _patient(self) -> Iterator[None]:
        """Waits no longer than there is patience for, and takes what was waited off it."""
        began = time.monotonic()
        if self._patience is not None:
            if self._patience <= 0:
                raise Late
            self._connection.settimeout(self._patience)
        try:
            yield
        except TimeoutError as error:
            raise Late from error
        except OSError as error:
            raise Broken(str(error)) from error
        finally:
            if self._patience is not None:
                self._patience -= time.monotonic() - began
