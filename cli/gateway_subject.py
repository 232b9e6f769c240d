"""A running gateway, as something to be measured."""

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
from model_core.evaluation.subject import Ask, Reply, Sound, SpokenAnswer

_AUDIO_FORMATS = {"oga": "ogg", "weba": "webm", "mp4": "m4a"}  # suffixes that differ from the format's name


class GatewaySubject:
    """Asks a gateway over HTTP, from several threads if need be. Failures arrive as CommandFailed, naming the question.

    What only the models' own process could tell apart is None in its replies.
    """

    def __init__(self, connection: Connection) -> None:
        self._url = connection.url
        self._client = GatewayClient(connection)

    @property
    def tags(self) -> dict[str, str]:
        return {"gateway": self._url, "model": self._client.model}

    @property
    def identity(self) -> dict[str, str]:
        """Its address and the model's name: a gateway does not tell which weights it runs."""
        return self.tags

    def answer(self, ask: Ask) -> Reply:
        if ask.videos and not ask.video_sound:
            raise InvalidInput(f"{ask.name}, video", "a gateway always hears a video's sound: measure a preset instead")
        try:
            return self._answer(ask)
        except CommandFailed as failure:
            raise CommandFailed(f"{ask.name}: {failure.message}", failure.hint) from failure

    def answer_together(self, asks: Sequence[Ask]) -> Sequence[Reply]:
        return [self.answer(ask) for ask in asks]

    def transcribe(self, sound: Sound, name: str) -> str:
        data, suffix = sound.encoded()
        try:
            return self._client.transcribe(f"recording.{suffix}", data, "text").strip()
        except CommandFailed as failure:
            raise CommandFailed(f"{name}: {failure.message}", failure.hint) from failure

    def _answer(self, ask: Ask) -> Reply:
        content = _content(ask)
        text, pcm = "", bytearray()
        usage: dict[str, Any] = {}
        tokens = first_tokens = 0
        first_token = first_audio = None
        start = time.perf_counter()
        for piece in self._client.chat(content, **_options(ask)):
            elapsed = time.perf_counter() - start
            match piece:
                case TextPiece(delta):
                    first_token = elapsed if first_token is None else first_token
                    text, tokens = text + delta, tokens + 1
                case AudioPiece(data):
                    if first_audio is None:
                        first_audio, first_tokens = elapsed, tokens
                    pcm += data
                case Ending(_, told):
                    usage = told
        seconds = time.perf_counter() - start
        heard_after = None if first_audio is None else first_audio - (first_token or 0.0)
        spoken = SpokenAnswer(
            samples=np.frombuffer(bytes(pcm), "<i2").astype(np.int16),
            sample_rate=PCM_RATE,
            first_audio_seconds=heard_after,
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
            spoken=spoken if ask.speak else None,
        )


def _content(ask: Ask) -> list[dict[str, Any]]:
    """Message parts in the order in which a preset takes them."""
    parts = [image_part(path) for path in ask.images] + [video_part(path) for path in ask.videos]
    for sound in ask.sounds:
        data, suffix = sound.encoded()
        audio = {"data": base64.b64encode(data).decode(), "format": _AUDIO_FORMATS.get(suffix, suffix)}
        parts.append({"type": "input_audio", "input_audio": audio})
    return [*parts, *([text_part(ask.text)] if ask.text else [])]


def _options(ask: Ask) -> dict[str, Any]:
    options: dict[str, Any] = {"temperature": 0}
    if ask.max_tokens:
        options["max_completion_tokens"] = ask.max_tokens
    wishes = {"adapter": ask.adapter or None, "keep_rate": ask.keep_rate, "blocks": ask.blocks}
    if wishes := {name: value for name, value in wishes.items() if value is not None}:
        options["lyra"] = wishes
    if ask.speak:
        voice = {"voice": ask.voice} if ask.voice else {}
        options |= {"modalities": ["text", "audio"], "audio": {"format": "pcm16", **voice}}
    return options
