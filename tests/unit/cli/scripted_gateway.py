"""A gateway with scripted answers: real HTTP on loopback, so that connections can really break."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True, slots=True)
class Asked:
    """A received request."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Reply:
    """A response. If `breaks`, the connection closes after the body, which is shorter than its Content-Length."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    breaks: bool = False


Answer = Callable[[Asked], Reply]


def as_json(content: object, status: int = 200, **headers: str) -> Reply:
    return Reply(json.dumps(content).encode(), status, {"Content-Type": "application/json", **headers})


def refusal(status: int, message: str, code: str = "", **headers: str) -> Reply:
    return as_json({"error": {"message": message, "param": None, "code": code}}, status, **headers)


def events(*those: tuple[str, object], breaks: bool = False) -> Reply:
    """Server-sent events: id (may be empty) and content of each."""
    text = "".join(
        (f"id: {name}\n" if name else "") + f"event: x\ndata: {json.dumps(content, ensure_ascii=False)}\n\n"
        for name, content in those
    )
    return Reply(text.encode(), headers={"Content-Type": "text/event-stream"}, breaks=breaks)


@contextmanager
def scripted_gateway(answer: Answer) -> Iterator[tuple[str, list[Asked]]]:
    """Yields its URL and its requests; `answer` may be called by several threads."""
    asked: list[Asked] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline()
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = Asked(self.command, url.path, query, dict(self.headers.items()), body)
            asked.append(request)
            with suppress(ConnectionError):  # the client is gone
                self._send(answer(request))

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body) + reply.breaks))
            self.end_headers()
            self.wfile.write(reply.body)
            self.close_connection = self.close_connection or reply.breaks

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
