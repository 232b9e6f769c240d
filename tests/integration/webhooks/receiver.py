"""A receiver of callbacks: a real HTTP server on loopback with scripted replies that records its requests."""

import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, slots=True)
class Received:
    """A request; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply. A `silent` one is never sent: the handler waits until the receiver is closed."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    silent: bool = False


class Receiver:
    """Answers with `replies` in order, and then keeps repeating the last one.

    Args:
        tls: TLS context; None for plain HTTP.
        host: Address to listen on.
    """

    def __init__(self, *replies: Reply, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.received: list[Received] = []
        self._replies = list(replies) or [Reply()]
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = (_Server6 if ":" in host else _Server)((host, 0), _handler(self.answer, self._closing))
        self._host = host
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_port)

    @property
    def url(self) -> str:
        """URL of a path on it."""
        return f"http://{self._host}:{self.port}/hook?x=1"

    def answer(self, received: Received) -> Reply:
        """Records the request and returns the next reply."""
        with self._lock:
            self.received.append(received)
            return self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]

    def close(self) -> None:
        """Stops it, and waits for its threads."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = False


class _Server6(_Server):
    address_family = socket.AF_INET6


def _handler(answer: Callable[[Received], Reply], closing: threading.Event) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", "0")))
            reply = answer(Received(self.command, self.path, headers, body))
            if reply.silent:
                closing.wait()
                return
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)

        do_GET = do_POST = _any

        def log_message(self, format: str, *args: object) -> None:
            """Disables the request log."""

    return Handler
