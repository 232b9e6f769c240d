"""Fuzzed HTTP bodies for every route, and bodies of every shape that is expensive to parse."""

import asyncio
import base64
import random
from collections.abc import Iterator
from typing import Any

from services.operations.local.stack import GATEWAY
from tests.attack import bodies as shapes
from tests.attack.http import Answer, request_bytes, send_all
from tests.attack.kinds.media import silence
from tests.attack.mutations import changed_bytes, changed_json
from tests.attack.registry import Outcome, Plan, attack
from tests.attack.target import ATTACKER, MODEL, Target
from tests.job_stack import speech

_CONNECTIONS = 16
# Client errors, and 507 if the store is full.
_ALLOWED = (*(str(status) for status in (200, 201, 202, 204, 307)), *(str(status) for status in range(400, 500)), "507")
# Allowed responses to invalid or unsupported HTTP; 200 if only the head is long.
_ALLOWED_FOR_INVALID_HTTP = (
    "200",
    "400",
    "401",
    "404",
    "405",
    "411",
    "413",
    "414",
    "415",
    "426",
    "429",
    "431",
    "501",
    "closed",
)
_BOUNDARY = "boundary-of-the-attacker"


@attack("fuzzed JSON, forms, queries and ids for every route", quick=True)
def fuzzed(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("2xx or 4xx")
    headers = target.headers(ATTACKER)

    def count(request: bytes, answer: Answer) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        line = head.split(b"\r\n", 1)[0]  # truncated: the headers contain a key
        outcome.add(answer.status, _ALLOWED, f"{line[:200]!r} {body[:1000]!r} -> {answer.body[:200]!r}")

    requests = _requests(plan.random("bodies"), headers, plan.count(50_000, 1500))
    asyncio.run(send_all(target.port, requests, _CONNECTIONS, count))
    return outcome


@attack("forms with an endless part header, name or boundary", quick=True)
def form_headers(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("4xx, at once")
    size = plan.count(64 * 2**20, 8 * 2**20)
    open_part = f"--{_BOUNDARY}\r\n".encode()
    bodies = {
        "header's value": open_part + b"X-Long: " + b"a" * size,
        "header's name": open_part + b"a" * size,
        "many headers": open_part + b"X-More: 1\r\n" * (size // 11),
        "file's name": open_part
        + b'Content-Disposition: form-data; name="file"; filename="'
        + b"a" * size
        + b'"\r\n\r\nx',
        "no boundary": b"a" * size,
        "many parts": (open_part + b'Content-Disposition: form-data; name="a"\r\n\r\nb\r\n') * (size // 80),
        "boundaries that nearly are": b"\r\n--boundary-of-the-attacke" * (size // 27),
    }
    kind = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    for path in ("/v1/media", "/v1/jobs", "/v1/audio/transcriptions"):
        for what, body in bodies.items():
            request = request_bytes("POST", path, {**target.headers(ATTACKER), **kind}, body)

            def count(_: bytes, answer: Answer, about: str = f"{path}: {what}") -> None:
                outcome.add(answer.status, _ALLOWED, f"{about} {answer.body[:200]!r}")

            asyncio.run(send_all(target.port, [request], 1, count))
    return outcome


@attack("requests that are not HTTP, or contradict themselves", quick=True)
def smuggled(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("400 or a closed connection, and one answer to each")
    key = target.headers(ATTACKER)["Authorization"]
    head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n"
    inner = "GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    tries = {
        "two lengths": head + f"Content-Length: 0\r\nContent-Length: {len(inner)}\r\n\r\n{inner}",
        "length and chunks": head
        + f"Content-Length: {len(inner)}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}",
        "a negative length": head + "Content-Length: -1\r\n\r\n",
        "a signed length": head + "Content-Length: +5\r\n\r\nabcde",
        "a length of 2**64": head + "Content-Length: 18446744073709551616\r\n\r\n",
        "a chunk of 2**64": head + "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n",
        "a negative chunk": head + "Transfer-Encoding: chunked\r\n\r\n-1\r\n",
        "chunked twice": head + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "another coding": head + "Transfer-Encoding: gzip\r\n\r\n",
        "a bare line feed": head.replace("\r\n", "\n") + "\n",
        "a header that goes on": head + "X-A: b\r\n c\r\n\r\n",
        "a space before the colon": head + "X-A : b\r\n\r\n",
        "NUL in a header": head + "X-A: \0\r\n\r\n",
        "no version": "GET /healthz\r\n\r\n",
        "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "TLS": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "a method of 64 KiB": "A" * 65536 + " / HTTP/1.1\r\n\r\n",
        "a path of 128 KiB": "GET /" + "a" * 131072 + " HTTP/1.1\r\nHost: x\r\n\r\n",
        "10,000 headers": "GET /healthz HTTP/1.1\r\nHost: x\r\n" + "X-A: b\r\n" * 10_000 + "\r\n",
        "an upgrade": "GET /v1/models HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "CONNECT": "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\n\r\n",
        "a whole URL": "GET http://127.0.0.1:22/ HTTP/1.1\r\nHost: x\r\n\r\n",
    }

    async def all_of_them() -> list[bytes]:
        return await asyncio.gather(*(_raw(target.port, each.encode("latin-1")) for each in tries.values()))

    for what, answer in zip(tries, asyncio.run(all_of_them()), strict=True):
        statuses = answer.count(b"HTTP/1.1 ")
        status = answer.split()[1].decode() if statuses else "closed"
        outcome.add(status, _ALLOWED_FOR_INVALID_HTTP, what)
        outcome.require(b"lyra-tiny" not in answer, f"{what}: the request within was answered")
    return outcome


async def _raw(port: int, request: bytes) -> bytes:
    """Everything received within two seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = bytearray()
    try:
        writer.write(request)
        async with asyncio.timeout(2.0):
            while data := await reader.read(65536):
                answer += data
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return bytes(answer)


@attack("fifty bodies at once of every shape: long, deep, of many keys, of huge numbers, chunked", quick=False)
def fifty_at_once(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("4xx for each; 600 MiB and 0.3 s for /healthz at most")
    pid = target.stack.processes[GATEWAY].pid
    assert pid is not None
    findings = asyncio.run(shapes.attack(target.url, target.keys[ATTACKER], pid))
    for finding in findings:
        outcome.add("4xx" if finding.refused else "something else", ("4xx",), f"{finding.attack}: {finding.detail}")
        outcome.require(finding.held or not finding.refused, f"{finding.attack}: {finding.detail}")
    mib, seconds = max(each.rss_bytes for each in findings) / 2**20, max(each.healthz_seconds for each in findings)
    outcome.note = f"{len(findings)} shapes; gateway at most {mib:.0f} MiB, /healthz at most {seconds:.3f} s"
    return outcome


def _requests(draw: random.Random, headers: dict[str, str], count: int) -> Iterator[bytes]:
    documents, forms, reads = list(_documents()), list(_forms()), list(_reads())
    everything = [body for _, body in forms]
    for _ in range(count):
        roll = draw.random()
        if roll < 0.6:
            path, document = draw.choice(documents)
            kind = "application/json" if draw.random() < 0.95 else draw.choice(("text/plain", "", "application/xml"))
            yield request_bytes("POST", path, {**headers, "Content-Type": kind}, changed_json(draw, document))
        elif roll < 0.85:
            path, body = draw.choice(forms)
            kind = f"multipart/form-data; boundary={_BOUNDARY}"
            if draw.random() < 0.05:
                kind = draw.choice(
                    ("multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=a")
                )
            yield request_bytes("POST", path, {**headers, "Content-Type": kind}, changed_bytes(draw, body, everything))
        else:
            method, path = draw.choice(reads)
            yield request_bytes(method, _changed_path(draw, path), headers)


def _documents() -> Iterator[tuple[str, Any]]:
    sound = base64.b64encode(silence("flac", "flac", 1 / 3600)).decode()
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "input_audio", "input_audio": {"data": sound, "format": "flac"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}},
        {"type": "video_url", "video_url": {"url": "media:media-" + "0" * 32}},
    ]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "Yes.", "audio": {"transcript": "Yes."}},
        {"role": "user", "content": "Why?"},
    ]
    options = {"max_tokens": 2, "temperature": 0.5, "top_p": 0.9, "seed": 1, "stop": ["x"], "metadata": {"a": "b"}}
    lyra = {"adapter": "speech", "keep_rate": 0.5, "blocks": 1}
    yield "/v1/chat/completions", {"model": MODEL, "messages": messages, **options, "lyra": lyra}
    spoken = {"modalities": ["text", "audio"], "audio": {"voice": "", "format": "wav"}, "stream": True}
    small = {"model": MODEL, "messages": messages[-1:], "max_tokens": 2}
    yield "/v1/chat/completions", {**small, **spoken, "stream_options": {"include_usage": True}}
    yield "/v1/chat/completions", small
    yield "/v1/audio/speech", {"model": MODEL, "input": "Hello", "voice": "", "response_format": "pcm", "speed": 1.0}
    webhook = {"url": "https://127.0.0.1/", "secret_id": "whk_000000000000"}
    job = {"media_id": "media-" + "0" * 32, "tasks": ["transcript"], "webhook": webhook, "metadata": {"a": "b"}}
    yield "/v1/jobs", {**job, "language": "en", "priority": "normal", "allow_gaps": True}
    yield f"/v1/jobs/job-{'0' * 32}/questions", {"questions": ["Why?"]}
    yield "/v1/media/uploads", {"filename": "a.wav", "bytes": 1000}
    parts_written = {"parts": [{"number": 1, "etag": "0" * 32}]}
    yield f"/v1/media/uploads/upload-{'0' * 32}/complete", parts_written


def _forms() -> Iterator[tuple[str, bytes]]:
    file = _field("file", speech(1)[:4000], 'filename="a.flac"')
    yield "/v1/media", _form(file)
    yield "/v1/jobs", _form(_field("request", b'{"tasks":["transcript"],"metadata":{"a":"b"}}'), file)
    for more in ({"response_format": "json"}, {"stream": "true", "language": "en"}, {"temperature": "0"}):
        fields = [_field(name, value.encode()) for name, value in {"model": MODEL, **more}.items()]
        yield "/v1/audio/transcriptions", _form(*fields, file)


def _form(*fields: bytes) -> bytes:
    return b"".join(fields) + f"--{_BOUNDARY}--\r\n".encode()


def _field(name: str, value: bytes, more: str = "") -> bytes:
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{"; " + more if more else ""}\r\n\r\n'
    return head.encode() + value + b"\r\n"


def _reads() -> Iterator[tuple[str, str]]:
    job, media = f"job-{'0' * 32}", f"media-{'0' * 32}"
    yield "GET", "/v1/models"
    yield "GET", f"/v1/models/{MODEL}"
    yield "GET", "/v1/jobs?limit=20&after=a&state=running&created_after=2026-01-01T00:00:00Z"
    yield "GET", "/v1/media?limit=20&after=a"
    for path in (
        f"/v1/jobs/{job}",
        f"/v1/jobs/{job}/events",
        f"/v1/jobs/{job}/result?format=srt",
        f"/v1/media/{media}",
    ):
        yield "GET", path
    yield "POST", f"/v1/jobs/{job}/cancel"
    yield "DELETE", f"/v1/jobs/{job}"
    yield "DELETE", f"/v1/media/{media}"
    yield "DELETE", f"/v1/media/uploads/upload-{'0' * 32}"


def _changed_path(draw: random.Random, path: str) -> str:
    """The path, mutated, still without spaces or line breaks."""
    pieces = (
        "%00",
        "%0a",
        "%2f",
        "%25",
        "..",
        "//",
        "%ff",
        "%c3%28",
        "?",
        "&limit=-1",
        "&limit=1e9",
        "#",
        "%F0%9F%94%A5",
    )
    at = draw.randrange(4, len(path) + 1)
    cut = draw.randrange(0, 8)
    return path[:at] + draw.choice((*pieces, "9" * 300, "a" * 300)) + path[at + cut :]
