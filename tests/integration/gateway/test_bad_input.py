import asyncio
import base64
import io
import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.integration.gateway.conftest import Gateway, StartGateway, picture, wav
from tests.integration.gateway.test_chat import audio_part, image_part

AUDIO = "messages[0].content[0].input_audio.data"
IMAGE = "messages[0].content[0].image_url.url"


def png_bomb() -> bytes:
    """A header of a few hundred bytes that claims 20,000 x 20,000 pixels; the rest is never read."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def thirty_one_minutes() -> bytes:
    """8-bit WAV at 8 kHz, 15 MB."""
    samples = 31 * 60 * 8_000
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8_000, 8_000, 1, 8)
    data = b"data" + struct.pack("<I", samples) + bytes(range(100, 150)) * (samples // 50)
    return b"RIFF" + struct.pack("<I", 4 + len(form) + len(data)) + b"WAVE" + form + data


def image(data: bytes, kind: str = "png") -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{base64.b64encode(data).decode()}"}}


def body(*parts: Any, **options: Any) -> dict[str, Any]:
    content = list(parts) or "Hi"
    return {"model": "lyra-tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 1, **options}


CASES: dict[str, tuple[Any, str, str]] = {
    "noise for audio": (lambda: body(audio_part(b"\x01\x02" * 4_000)), AUDIO, ""),
    "silence": (lambda: body(audio_part(wav(2.0, loudness=0.0))), AUDIO, "silen"),
    "a wav without samples": (lambda: body(audio_part(wav(0.0))), AUDIO, ""),
    "31 minutes": (lambda: body(audio_part(thirty_one_minutes())), AUDIO, "30"),
    "a png bomb": (lambda: body(image(png_bomb())), IMAGE, "40"),
    "half a jpeg": (lambda: body(image(picture("JPEG")[:700], "jpeg")), IMAGE, ""),
    "a gif that says png": (lambda: body(image(b"GIF89a" + bytes(100))), IMAGE, ""),
    "more tokens than the context": (lambda: body(max_tokens=100_000), "max_tokens", "context"),
    "newer name": (
        lambda: body(max_tokens=None, max_completion_tokens=100_000),
        "max_completion_tokens",
        "context",
    ),
    "a prompt longer than the context": (lambda: body({"type": "text", "text": "word " * 50_000}), "messages", ""),
    "a voice that is not there": (
        lambda: body(modalities=["text", "audio"], audio={"voice": "nobody", "format": "wav"}),
        "audio.voice",
        "nobody",
    ),
    "a web address": (
        lambda: body({"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}),
        IMAGE,
        "has to be a data URI",
    ),
    "the second part is the bad one": (
        lambda: body(image_part(), audio_part(b"nonsense")),
        "messages[0].content[1].input_audio.data",
        "",
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stream", [False, True])
async def test_invalid_input_is_named_and_later_requests_succeed(gateway: Gateway, case: str, stream: bool) -> None:
    make, param, message = CASES[case]
    response = await gateway.http.post("/v1/chat/completions", json={**make(), "stream": stream})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: ")
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"
    assert "Traceback" not in error["message"]
    assert (await gateway.http.post("/v1/chat/completions", json=body())).status_code == 200


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b'"x"', "application/json"),
        (b"[" * 10_000, "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"model=x", "application/x-www-form-urlencoded"),
        (b'{"model": "lyra-tiny"}', "text/plain"),
    ],
)
async def test_a_body_that_is_not_a_json_object_is_a_400(gateway: Gateway, content: bytes, kind: str) -> None:
    headers = {"content-type": kind}
    response = await gateway.http.post("/v1/chat/completions", content=content, headers=headers)
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused(
    start_gateway: StartGateway, tiny_addresses: dict[str, str], chunked: bool
) -> None:
    gateway = await start_gateway(tiny_addresses, max_body_bytes=100_000)

    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'

    async def pieces(start: bytes) -> AsyncIterator[bytes]:
        yield start
        for _ in range(400):
            yield b"x" * 10_000

    for path, kind, start in (
        ("/v1/chat/completions", "application/json", b'"'),
        ("/v1/audio/transcriptions", "multipart/form-data; boundary=b", part),
    ):
        content: Any = pieces(start) if chunked else start + b"x" * 4_000_000
        response = await gateway.http.post(path, content=content, headers={"content-type": kind})
        assert response.status_code == 413
        assert "100,000 bytes" in response.json()["error"]["message"]


async def test_a_large_body_without_a_key_gets_a_401(gateway: Gateway) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        response = await client.post("/v1/chat/completions", content=b"x" * 20_000_000)
    assert response.status_code == 401


async def test_a_body_that_never_ends_times_out(start_gateway: StartGateway, tiny_addresses: dict[str, str]) -> None:
    gateway = await start_gateway(tiny_addresses, body_seconds=0.2)
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.secret}\r\n"
    writer.write((head + "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{").encode())
    status = await reader.readline()
    writer.close()
    assert b" 408 " in status


TRANSCRIPTIONS: list[tuple[dict[str, str], bytes | None, str]] = [
    ({"model": "lyra-tiny"}, None, "file"),
    ({"model": "lyra-tiny"}, b"", "file"),
    ({"model": "lyra-tiny"}, b"nonsense", "file"),
    ({}, wav(0.2), "model"),
    ({"model": "lyra-tiny", "response_format": "docx"}, wav(0.2), "response_format"),
    ({"model": "lyra-tiny", "timestamp_granularities[]": "word"}, wav(0.2), "timestamp_granularities[]"),
    ({"model": "lyra-tiny", "prompt": "names"}, wav(0.2), "prompt"),
    ({"model": "lyra-tiny", "temperature": "0.5"}, wav(0.2), "temperature"),
    ({"model": "lyra-tiny", "language": "xx"}, wav(0.2), "language"),
    ({"model": "lyra-tiny", "stream": "true", "response_format": "srt"}, wav(0.2), "stream"),
    ({"model": "lyra-tiny", "colour": "red"}, wav(0.2), "colour"),
]


@pytest.mark.parametrize(("fields", "data", "param"), TRANSCRIPTIONS)
async def test_bad_transcription_requests_are_named(
    gateway: Gateway, fields: dict[str, str], data: bytes | None, param: str
) -> None:
    files = {"file": ("a.wav", io.BytesIO(data))} if data is not None else {"other": ("a.wav", io.BytesIO(b"x"))}
    response = await gateway.http.post("/v1/audio/transcriptions", data=fields, files=files)
    assert response.status_code == 400, response.text
    if data is not None:
        assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": "   "}, "input"),
        ({"input": "x" * 4_097}, "input"),
        ({"voice": "nobody"}, "voice"),
        ({"speed": 5}, "speed"),
        ({"response_format": "aac"}, "response_format"),
        ({"instructions": "Whisper."}, "instructions"),
        ({"stream_format": "sse"}, "stream_format"),
    ],
)
async def test_bad_speech_requests_are_named(gateway: Gateway, changes: dict[str, Any], param: str) -> None:
    request = {"model": "lyra-tiny", "input": "Hi.", "voice": "", **changes}
    response = await gateway.http.post("/v1/audio/speech", json=request)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_an_unknown_model_is_a_404_for_chat_and_speech(gateway: Gateway) -> None:
    for path, request in (
        ("/v1/chat/completions", body(model="gpt-5")),
        ("/v1/audio/speech", {"model": "tts-1", "input": "Hi", "voice": ""}),
    ):
        response = await gateway.http.post(path, json=request)
        assert (response.status_code, response.json()["error"]["param"]) == (404, "model")
