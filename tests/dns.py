"""A name server on loopback whose answers a test can change, as those of a headless Service change with its pods.

Format: RFC 1035, sections 4.1 and 4.2. Only A queries for its single name are answered.
"""

import socket
import struct
import threading
from collections.abc import Sequence
from typing import Self

_ANSWER, _NO_SUCH_NAME = 0x8180, 0x8183
_TYPE_A, _CLASS_IN, _NAME_OF_QUESTION = 1, 1, 0xC00C


class NameServer:
    """Resolves `name` to `addresses`, which may change at any time. A context manager."""

    def __init__(self, name: str, addresses: Sequence[str]) -> None:
        self.name = name
        self.addresses = list(addresses)
        self.questions = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, name="name-server")

    def target(self, port: int) -> str:
        """The gRPC target of a service with this name, for `open_channel`."""
        return f"dns://127.0.0.1:{self._socket.getsockname()[1]}/{self.name}:{port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            message, client = self._socket.recvfrom(512)
            if not message:
                return
            self._socket.sendto(self._answer(message), client)

    def _answer(self, message: bytes) -> bytes:
        labels, position = [], 12
        while length := message[position]:
            labels.append(message[position + 1 : position + 1 + length].decode())
            position += 1 + length
        question = message[12 : position + 5]
        (kind,) = struct.unpack_from("!H", message, position + 1)
        known = ".".join(labels) == self.name
        found = [socket.inet_aton(each) for each in self.addresses] if known and kind == _TYPE_A else []
        self.questions += known and kind == _TYPE_A
        head = message[:2] + struct.pack("!HHHHH", _ANSWER if known else _NO_SUCH_NAME, 1, len(found), 0, 0)
        records = [struct.pack("!HHHIH", _NAME_OF_QUESTION, _TYPE_A, _CLASS_IN, 0, 4) + each for each in found]
        return head + question + b"".join(records)
