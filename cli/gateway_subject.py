"""A running gateway as a subject of evaluation."""

import base64
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from cli.ask import PCM_RATE
from cli.client import AudioPiece, Ending, GatewayClient, TextPiece, image_part, text_part, video_part
from cli.connection import Connection
from cli.failure import CommandFailed
from model_core.errors import InvalidInput
from model_core.evaluation.subject import AudioSource, Question, Reply, SpokenAnswer

_AUDIO_FORMATS = {"oga": "ogg", "weba": "webm", "mp4": "m4a"}  # suffixes that differ from the format's name


class GatewaySubject:
    """Asks a gateway over HTTP; thread-safe. Failures are raised as CommandFailed, naming the question.

    Times that only the models' own process knows are None in its replies.
    """

    def __init__(self, connection: Connection) -> None:
        self._url = connection.url
        self._client = GatewayClient(connection)

    @property
    def tags(self) -> dict[str, str]:
        return {"gateway": self._url, "model": self._client.model}

    @property
    def identity(self) -> dict[str, str]:
        """Its address and the model's name: a gateway does not report which weights it runs."""
        return self.tags

    def answer(self, question: Question) -> Reply:
        if question.videos and not question.video_sound:
            raise InvalidInput(
                f"{question.name}, video", "a gateway always uses a video's audio track: evaluate a preset instead"
            )
        try:
            return self._answer(question)
        except CommandFailed as failure:
            raise CommandFailed(f"{question.name}: {failure.message}", failure.hint) from failure

    def answer_batch(self, batch: Sequence[Question]) -> Sequence[Reply]:
        return [self.answer(question) for question in batch]

    def transcribe(self, audio: AudioSource, name: str) -> str:
        data, suffix = audio.encoded()
        try:
            return self._client.transcribe(f"recording.{suffix}", data, "text").strip()
        except CommandFailed as failure:
            raise CommandFailed(f"{name}: {failure.message}", failure.hint) from failure

    def _answer(self, question: Question) -> Reply:
        content = _content(question)
        text, pcm = "", bytearray()
        usage: dict[str, Any] = {}
        tokens = first_tokens = 0
        first_token = first_audio = None
        start = time.perf_counter()
        for piece in self._client.chat(content, **_options(question)):
            elapsed = time.perf_counter() - start
            match piece:
                case TextPiece(delta):
                    first_token = elapsed if first_token is None else first_token
                    text, tokens = text + delta, tokens + 1
                case AudioPiece(data):
                    if first_audio is None:
                        first_audio, first_tokens = elapsed, tokens
                    pcm += data
                case Ending(_, counted):
                    usage = counted
        seconds = time.perf_counter() - start
        latency = None if first_audio is None else first_audio - (first_token or 0.0)
        spoken = SpokenAnswer(
            samples=np.frombuffer(bytes(pcm), "<i2").astype(np.int16),
            sample_rate=PCM_RATE,
            first_audio_seconds=latency,
            first_audio_tokens=first_tokens if first_audio is not None else None,
        )
        lyra = usage.get("lyra") or {}
        details = usage.get("completion_tokens_details") or {}
        return Reply(
            text=text.strip(),
            seconds=seconds,
            first_token_seconds=first_token,
            prompt_tokens=usage.get("prompt_tokens", 0),
            completion_tokens=details.get("text_tokens", usage.get("completion_tokens", 0)),
            context_tokens=tuple(lyra.get("context_tokens") or ()),
            adapter=lyra.get("adapter") or "",
            spoken=spoken if question.speak else None,
        )


def _content(question: Question) -> list[dict[str, Any]]:
    """Message parts, in the order that presets use."""
    parts = [image_part(path) for path in question.images] + [video_part(path) for path in question.videos]
    for recording in question.audio:
        data, suffix = recording.encoded()
        audio = {"data": base64.b64encode(data).decode(), "format": _AUDIO_FORMATS.get(suffix, suffix)}
        parts.append({"type": "input_audio", "input_audio": audio})
    return [*parts, *([text_part(question.text)] if question.text else [])]


def _options(question: Question) -> dict[str, Any]:
    options: dict[str, Any] = {"temperature": 0}
    if question.max_tokens:
        options["max_completion_tokens"] = question.max_tokens
    settings = {"adapter": question.adapter or None, "keep_rate": question.keep_rate, "blocks": question.blocks}
    if given := {name: value for name, value in settings.items() if value is not None}:
        options["lyra"] = given
    if question.speak:
        voice = {"voice": question.voice} if question.voice else {}
        options |= {"modalities": ["text", "audio"], "audio": {"format": "pcm16", **voice}}
    return options
