"""An attacker's servers, which count connections and answer with any bytes; and a resolver with a name server."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Self

from tests.dns import NameServer

_QUERY_SECONDS = 5.0


class Listener:
    """Accepts connections on a loopback address, lets `answer` write to each, and counts them.

    Args:
        answer: Writes to the connection and returns; errors of the connection end it.
        host: Address in 127.0.0.0/8.
        port: 0 for a free one.
    """

    def __init__(
        self, answer: Callable[[socket.socket], None] = lambda connection: None, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.connections = 0
        self._answer = answer
        self._over = threading.Event()
        self._socket = socket.create_server((host, port), backlog=256)
        self.host, self.port = self._socket.getsockname()[:2]
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with suppress(OSError):  # wakes the accepting thread
            socket.create_connection((self.host, self.port), 1.0).close()
        for thread in self._threads:
            thread.join()
        self._socket.close()

    def _accept(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            if self._over.is_set():
                connection.close()
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(1.0)
        with connection, suppress(OSError):
            connection.recv(65536)
            self._answer(connection)


def endless(first: bytes, again: bytes, over: Callable[[], bool] = lambda: False) -> Callable[[socket.socket], None]:
    """A response that does not end until the client has disconnected."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(first)
        while not over():
            connection.sendall(again)

    return answer


def fixed_response(*pieces: bytes) -> Callable[[socket.socket], None]:
    """A response of these bytes."""

    def answer(connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)

    return answer


def ask_name_server(server: NameServer) -> Callable[[str, int], list[str]]:
    """Resolves names with real queries to a name server on loopback; a `Resolve` for the fetcher."""
    port = int(server.target(0).split("//")[1].split("/")[0].rpartition(":")[2])

    def resolve(host: str, _: int) -> list[str]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(_QUERY_SECONDS)
            asking.sendto(_question(host), ("127.0.0.1", port))
            return list(_addresses(asking.recv(4096)))

    return resolve


def _question(host: str) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in host.split("."))
    return struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)


def _addresses(message: bytes) -> Iterator[str]:
    count = struct.unpack_from("!H", message, 6)[0]
    for number in range(count):  # records of 16 bytes each, at the end
        yield socket.inet_ntoa(message[len(message) - 16 * number - 4 : len(message) - 16 * number or None])
