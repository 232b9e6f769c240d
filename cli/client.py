"""A client of the gateway's HTTP API."""

import base64
import binascii
import json
import mimetypes
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import httpx

from cli.connection import START_HINT, Connection
from cli.failure import CommandFailed

_CONNECT_SECONDS = 5.0
_SILENCE_SECONDS = 300.0  # maximum time between two pieces of an answer
_TRY_LATER = (429, 502, 503, 504, 507)
_AUDIO_FORMATS = {"oga": "ogg", "weba": "webm", "mp4": "m4a"}  # suffixes that differ from the format's name


@dataclass(frozen=True, slots=True)
class TextPiece:
    """The next characters of an answer."""

    text: str


@dataclass(frozen=True, slots=True)
class AudioPiece:
    """The next samples of an answer: 16-bit little-endian PCM, one channel."""

    pcm: bytes


@dataclass(frozen=True, slots=True)
class Ending:
    """Why the answer ended, and the token counts if the gateway reports them."""

    reason: str
    usage: dict[str, Any]


class Refused(CommandFailed):
    """The gateway refused a request: HTTP status, and the error's OpenAI code if it has one."""

    def __init__(self, message: str, hint: str = "", *, status: int, code: str) -> None:
        super().__init__(message, hint)
        self.status = status
        self.code = code


class TryLater(CommandFailed):
    """The gateway is unavailable or overloaded: retry after `after_seconds`."""

    def __init__(self, message: str, hint: str = "", *, after_seconds: float = 0.0) -> None:
        super().__init__(message, hint)
        self.after_seconds = after_seconds


class GatewayClient:
    """A connection to the gateway. Failures are raised as CommandFailed, if applicable as Refused or TryLater."""

    def __init__(self, connection: Connection, transport: httpx.BaseTransport | None = None) -> None:
        self.url = connection.url
        self.answered = False  # at least once
        headers = {"Authorization": f"Bearer {connection.key}"} if connection.key else {}
        timeout = httpx.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS)
        # trust_env off: requests to this machine must not go through a proxy from the environment.
        self._http = httpx.Client(
            base_url=connection.url, headers=headers, timeout=timeout, trust_env=False, transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.close()

    @cached_property
    def model(self) -> str:
        """Id of the gateway's model."""
        with self._failures():
            response = self._http.get("/v1/models")
            _check(response)
            return str(response.json()["data"][0]["id"])

    def chat(
        self, content: list[dict[str, Any]], **options: Any
    ) -> Generator[TextPiece | AudioPiece | Ending, None, None]:
        """Asks one user message and streams the answer; closing the generator hangs up.

        Args:
            content: Message parts in OpenAI's form.
            options: Further fields of the request, for example `modalities`, `audio`, `max_tokens`.
        """
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "stream": True,
            "stream_options": {"include_usage": True},
            **options,
        }
        reason = ""
        usage: dict[str, Any] = {}
        with self._failures(), self._http.stream("POST", "/v1/chat/completions", json=body) as response:
            _check(response)
            for event in _events(response):
                usage = event.get("usage") or usage
                for choice in event.get("choices", []):
                    reason = choice.get("finish_reason") or reason
                    yield from _pieces(choice.get("delta") or {})
        yield Ending(reason, usage)

    def transcribe(self, name: str, data: bytes, response_format: str, language: str = "") -> str:
        """The transcript of a recording in `response_format`."""
        fields = {"model": self.model, "response_format": response_format} | (
            {"language": language} if language else {}
        )
        with self._failures():
            response = self._http.post("/v1/audio/transcriptions", data=fields, files={"file": (name, data)})
            _check(response)
            return response.text

    def speak(self, text: str, response_format: str, voice: str = "", speed: float = 1.0) -> Iterator[bytes]:
        """The audio of `text`, streamed."""
        body: dict[str, Any] = {"model": self.model, "input": text, "response_format": response_format, "speed": speed}
        if voice:
            body["voice"] = voice
        with self._failures(), self._http.stream("POST", "/v1/audio/speech", json=body) as response:
            _check(response)
            yield from response.iter_bytes()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The complete response to a request; `options` are those of httpx."""
        with self.stream(method, path, **options) as response:
            response.read()
            return response

    @contextmanager
    def stream(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        """A streamed response."""
        with self._failures(), self._http.stream(method, path, **options) as response:
            self.answered = True
            _check(response)
            yield response

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise TryLater(f"nothing answers at {self.url}", START_HINT) from error
        except httpx.TimeoutException as error:
            raise TryLater(f"{self.url} timed out", "try again, or look at its log") from error
        except httpx.HTTPError as error:
            raise TryLater(f"the connection to {self.url} broke ({error})", "try again") from error


def text_part(text: str) -> dict[str, Any]:
    """A message part of text."""
    return {"type": "text", "text": text}


def audio_part(path: Path) -> dict[str, Any]:
    """A message part of a recording, with the format from the file's suffix."""
    suffix = path.suffix.lower().lstrip(".")
    data = base64.b64encode(path.read_bytes()).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": _AUDIO_FORMATS.get(suffix, suffix)}}


def image_part(path: Path) -> dict[str, Any]:
    """A message part of a picture, as a data URI."""
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    data = base64.b64encode(path.read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}


def video_part(path: Path) -> dict[str, Any]:
    """A message part of a video, as a data URI."""
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    data = base64.b64encode(path.read_bytes()).decode()
    return {"type": "video_url", "video_url": {"url": f"data:{kind};base64,{data}"}}


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The JSON of each server-sent event up to [DONE]."""
    ended = False
    for line in response.iter_lines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            ended = True
            break
        event: dict[str, Any] = json.loads(data)
        if "error" in event:
            raise _failure(event["error"], response.status_code, None)
        yield event
    if not ended:
        raise CommandFailed("the answer was cut off", "try again, or look at the gateway's log")


def _pieces(delta: dict[str, Any]) -> Iterator[TextPiece | AudioPiece]:
    audio = delta.get("audio") or {}
    if text := delta.get("content") or audio.get("transcript"):
        yield TextPiece(text)
    if data := audio.get("data"):
        try:
            yield AudioPiece(base64.b64decode(data, validate=True))
        except binascii.Error as error:
            raise CommandFailed("the gateway sent audio that is not base64") from error


def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    response.read()
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        error = {"message": f"HTTP {response.status_code} {response.reason_phrase}"}
    raise _failure(error, response.status_code, response.headers.get("Retry-After"))


def _failure(error: Any, status: int, retry_after: str | None) -> CommandFailed:
    if not isinstance(error, dict):
        return CommandFailed(str(error))
    message, field = str(error.get("message", error)), error.get("param")
    if field and field not in message:
        message = f"{field}: {message}"
    if status in _TRY_LATER:
        seconds = float(retry_after) if retry_after and retry_after.isdecimal() else 0.0
        return TryLater(message, f"try again in {retry_after or 'a few'} s", after_seconds=seconds)
    denied = status in (401, 403)
    hint = "name a valid key with --key or LYRA_API_KEY; `lyra keys create NAME` makes one" if denied else ""
    return Refused(message, hint, status=status, code=str(error.get("code") or ""))
