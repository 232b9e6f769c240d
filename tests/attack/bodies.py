"""Bodies that are expensive to parse: many at once, of every shape. `python -m tests.attack.bodies URL KEY PID`.

For a gateway on this machine, whose memory is monitored by process id.
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil

MIB = 2**20
MAX_RSS_BYTES = 600 * MIB
MAX_HEALTHZ_SECONDS = 0.3
_PIECE = 64 * 2**10
_SECONDS = 120.0
_FORM = "multipart/form-data; boundary=b"

# Runs in another process, since this one is busy: requests /healthz until stdin ends and prints the times in seconds.
_PROBE = """
import http.client, json, select, sys, time
host, port, times = sys.argv[1], int(sys.argv[2]), []
while not select.select([sys.stdin], [], [], 0.01)[0]:
    begun = time.perf_counter()
    try:
        connection = http.client.HTTPConnection(host, port, timeout=60)
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        answer.read()
        ok = answer.status == 200
        connection.close()
    except OSError:
        ok = False
    times.append(time.perf_counter() - begun if ok else 60.0)
json.dump(times, sys.stdout)
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one attack."""

    attack: str
    refused: bool  # every body got a 4xx in OpenAI's error format
    rss_bytes: int  # at most
    healthz_seconds: float  # at most
    detail: str

    @property
    def held(self) -> bool:
        return self.refused and self.rss_bytes <= MAX_RSS_BYTES and self.healthz_seconds <= MAX_HEALTHZ_SECONDS


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of body: `make(size)` returns about `size` bytes."""

    make: Callable[[int], bytes]
    path: str = "/v1/chat/completions"
    content_type: str = "application/json"
    chunk_bytes: int = 0  # 0 for a body with a Content-Length


def _chat(messages: str) -> Callable[[int], bytes]:
    """A chat request with `messages` repeated up to the given size."""

    def make(size: int) -> bytes:
        count = size // len(messages)
        return b'{"model":"lyra-nano","messages":[' + messages.encode() * count + b"{}]}"

    return make


def _content(text: str, repeated: str) -> Callable[[int], bytes]:
    def make(size: int) -> bytes:
        content = text.encode() + repeated.encode() * (size // len(repeated))
        return b'{"model":"lyra-nano","messages":[{"role":"user","content":"' + content + b'"}]}'

    return make


def _keys(size: int) -> bytes:
    return b"{" + b",".join(b'"key%d":0' % number for number in range(size // 14)) + b"}"


def _values(value: str) -> Callable[[int], bytes]:
    return lambda size: b'{"model":"lyra-nano","messages":[' + value.encode() + b"]}"


def _parts(size: int) -> bytes:
    part = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\ny\r\n'
    return part * (size // len(part)) + b"--b--\r\n"


def _picture(size: int) -> bytes:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * (size // 4 * 4 + 1)}}
    return json.dumps({"model": "lyra-nano", "messages": [{"role": "user", "content": [picture]}]}).encode()


SHAPES: dict[str, Shape] = {
    "numbers": Shape(_chat("0,")),
    "empty lists": Shape(_chat("[],")),
    "empty objects": Shape(_chat("{},")),
    "empty texts": Shape(_chat('"",')),
    "a million numbers": Shape(lambda size: _chat("0,")(2 * MIB)),
    "as many values as one body may have": Shape(lambda size: _chat("[],")(MIB - 100)),
    "as many messages as one body may have": Shape(lambda size: _chat('{"role":"user","content":"a"},')(MIB - 100)),
    "as many keys as one body may have": Shape(lambda size: _keys(MIB - 100)),
    "deep": Shape(lambda size: b"[" * size),
    "deep and whole": Shape(lambda size: b'{"a":' * 900 + b"0" + b"}" * 900),
    "many keys": Shape(_keys),
    "one long key": Shape(lambda size: b'{"' + b"k" * size + b'":1}'),
    "a long text": Shape(_content("", "la la ")),
    "a long word": Shape(_content("", "A")),
    "a long text in escapes": Shape(_content("", "\\u00e9")),
    "a picture in bad base64": Shape(_picture),
    "a number of many digits": Shape(lambda size: b'{"seed":' + b"9" * size + b"}"),
    "a fraction of many digits": Shape(lambda size: b'{"seed":0.' + b"9" * size + b"}"),
    "a number that is too large": Shape(_values("1e999999999")),
    "NaN": Shape(_values("NaN")),
    "Infinity": Shape(_values("-Infinity")),
    "half a surrogate pair": Shape(_values('"\\ud800"')),
    "NUL": Shape(_values('"\\u0000"')),
    "a key twice": Shape(lambda size: b'{"model":"a","model":"b"}'),
    "UTF-16": Shape(lambda size: '{"model":"a"}'.encode("utf-16")),
    "bytes that are no text": Shape(lambda size: b"\xff\xfe\x80" * (size // 3)),
    "blanks": Shape(lambda size: b" " * size),
    "tiny chunks": Shape(lambda size: _chat("0,")(MIB), chunk_bytes=1),
    "chunks": Shape(_chat("0,"), chunk_bytes=_PIECE),
    "many parts of a form": Shape(_parts, "/v1/audio/transcriptions", _FORM),
    "many parts of an upload": Shape(_parts, "/v1/media", _FORM),
    "much for little": Shape(_content("", "A"), "/v1/audio/speech"),
}


async def attack(
    url: str, key: str, pid: int, *, clients: int = 50, body_bytes: int = 40_000_000, shapes: dict[str, Shape] = SHAPES
) -> list[Finding]:
    """Sends every shape with `clients` concurrent requests, one shape after the other.

    Args:
        url: URL of the gateway, without TLS.
        pid: Process id of the gateway.

    Returns:
        A finding per shape. It holds if all responses are 4xx in OpenAI's error format, and the process stays under
        MAX_RSS_BYTES and answers /healthz within MAX_HEALTHZ_SECONDS.
    """
    findings = []
    for name, shape in shapes.items():
        async with asyncio.timeout(_SECONDS):
            findings.append(await _round(url, key, pid, name, shape, clients, body_bytes))
    return findings


async def _round(url: str, key: str, pid: int, name: str, shape: Shape, clients: int, size: int) -> Finding:
    body, process = shape.make(size), psutil.Process(pid)
    length, pieces = len(body), list(_pieces(body, shape.chunk_bytes))
    del body
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    peak = process.memory_info().rss
    probe = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PROBE, host, str(port), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    answers = await asyncio.gather(*(_send(host, port, key, shape, length, pieces) for _ in range(clients)))
    watching.cancel()
    told, _ = await probe.communicate(b"\n")
    times = json.loads(told)
    codes, slowest = Counter(answers), max(times, default=0.0)
    detail = f"answers {dict(codes)}, RSS at most {peak / MIB:.0f} MiB, /healthz at most {slowest:.3f} s"
    return Finding(
        attack=f"{clients} bodies at once: {name}",
        refused=all(400 <= status < 500 for status in codes),
        rss_bytes=peak,
        healthz_seconds=slowest,
        detail=f"{detail} ({len(times)} times)",
    )


async def _send(host: str, port: int, key: str, shape: Shape, length: int, pieces: list[bytes]) -> int:
    """The status of the response to a body; 0 if there is none, or it is not in OpenAI's error format."""
    reader, writer = await asyncio.open_connection(host, port)
    framing = "Transfer-Encoding: chunked" if shape.chunk_bytes else f"Content-Length: {length}"
    head = f"POST {shape.path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Type: {shape.content_type}\r\n{framing}\r\n\r\n".encode())
    reading = asyncio.create_task(_response(reader))
    try:
        for piece in pieces:
            if reading.done():
                break
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass
    try:
        return _status(await reading)
    except (ConnectionError, asyncio.IncompleteReadError):
        return 0
    finally:
        writer.transport.abort()


async def _response(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head + (await reader.readexactly(int(lengths[0])) if lengths else b"")


def _pieces(body: bytes, chunk_bytes: int) -> Iterator[bytes]:
    for start in range(0, len(body), _PIECE):
        piece = body[start : start + _PIECE]
        if chunk_bytes:
            chunks = [piece[at : at + chunk_bytes] for at in range(0, len(piece), chunk_bytes)]
            piece = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
        yield piece
    if chunk_bytes:
        yield b"0\r\n\r\n"


def _status(response: bytes) -> int:
    head, _, body = response.partition(b"\r\n\r\n")
    try:
        error = json.loads(body)["error"]
        return int(head.split(b" ", 2)[1]) if set(error) == {"message", "type", "param", "code"} else 0
    except (ValueError, KeyError, IndexError, TypeError):
        return 0


def main() -> int:
    url, key, pid = sys.argv[1:4]
    findings = asyncio.run(attack(url, key, int(pid)))
    for finding in findings:
        print("held  " if finding.held else "BROKEN", finding.attack, "-", finding.detail)
    return 0 if all(finding.held for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
