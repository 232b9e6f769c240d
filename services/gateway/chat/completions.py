"""Turns the pipeline's events into OpenAI's chat completions, complete or streamed."""

import base64
import math
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from model_core.adapter_choice import BASE
from services.gateway.audio.encoding import PCM_RATE, AudioEncoder, AudioFormat, encode_file
from services.gateway.chat.schemas import (
    AnswerAudio,
    AnswerMessage,
    ChatCompletion,
    ChatRequest,
    Choice,
    ChoiceLogprobs,
    CompletionTokensDetails,
    CompletionUsage,
    LyraUsage,
    PromptTokensDetails,
    TokenLogprob,
    TopLogprob,
)
from services.gateway.http.streaming import DONE, event
from services.gateway.http.telemetry import FIRST_AUDIO_SECONDS, FIRST_TOKEN_SECONDS
from services.shared.pipeline import messages
from services.shared.pipeline.messages import AnswerEvent, AudioChunk, Finished, TextDelta, Usage
from services.shared.service_errors import Failed

AUDIO_TOKENS_PER_SECOND = 20
# What OpenAI's API has for a probability of 0; JSON has no infinity.
_MIN_LOGPROB = -9999.0


class Completion:
    """One response: its ids, its audio format, and the answer so far.

    Args:
        started: time.monotonic() when the request arrived.
    """

    def __init__(self, request: ChatRequest, started: float) -> None:
        self._model = request.model
        self._started = started
        self._id = f"chatcmpl-{secrets.token_hex(16)}"
        self._audio_id = f"audio_{secrets.token_hex(16)}"
        self._created = int(time.time())
        self._format = audio_format(request) if request.wants_audio else None
        self._include_usage = bool(request.stream_options and request.stream_options.include_usage)
        self._wants_logprobs = bool(request.logprobs)
        self._text: list[str] = []
        self._logprobs: list[messages.TokenLogprob] = []
        self._audio_seconds = 0.0

    async def complete(self, events: AsyncGenerator[AnswerEvent, None]) -> ChatCompletion:
        """Waits for the complete answer."""
        pcm, sample_rate, finished = bytearray(), PCM_RATE, None
        async for each in self._observed(events):
            match each:
                case AudioChunk():
                    pcm += each.pcm
                    sample_rate = each.sample_rate
                case Finished():
                    finished = each
        if finished is None:
            raise Failed("the answer ended early")
        text, audio = "".join(self._text), None
        if self._format is not None:
            data = base64.b64encode(encode_file(self._format, bytes(pcm), sample_rate)).decode()
            audio = AnswerAudio(id=self._audio_id, data=data, transcript=text, expires_at=self._created)
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[
                Choice(
                    message=AnswerMessage(content=None if audio else text, audio=audio),
                    logprobs=_logprobs(self._logprobs) if self._wants_logprobs else None,
                    finish_reason=finished.reason,
                )
            ],
            usage=self._usage(finished.usage),
        )

    async def stream(self, events: AsyncGenerator[AnswerEvent, None]) -> AsyncGenerator[bytes, None]:
        """Server-sent events; the first one is sent with the first event of the answer."""
        encoder = AudioEncoder(self._format) if self._format is not None else None
        role_sent = False
        async with aclosing(self._observed(events)) as observed:
            async for each in observed:
                if not role_sent:
                    yield self._chunk({"role": "assistant", **self._delta_of_text("")})
                    role_sent = True
                match each:
                    case TextDelta():
                        logprobs = _logprobs(each.logprobs) if each.logprobs else None
                        yield self._chunk(self._delta_of_text(each.text), logprobs=logprobs)
                    case AudioChunk() if encoder is not None:
                        for data in encoder.push(each.pcm, each.sample_rate):
                            yield self._chunk(self._delta_of_audio(data))
                    case Finished():
                        for chunk in self._ending(each, encoder):
                            yield chunk
        yield DONE

    def _ending(self, finished: Finished, encoder: AudioEncoder | None) -> list[bytes]:
        chunks = []
        if encoder is not None:
            if data := encoder.finish():
                chunks.append(self._chunk(self._delta_of_audio(data)))
            chunks.append(self._chunk({"audio": {"id": self._audio_id, "expires_at": self._created}}))
        chunks.append(self._chunk({}, finished.reason))
        if self._include_usage:
            chunks.append(event(self._frame() | {"choices": [], "usage": self._usage(finished.usage).model_dump()}))
        return chunks

    async def _observed(self, events: AsyncGenerator[AnswerEvent, None]) -> AsyncGenerator[AnswerEvent, None]:
        """Passes events on, collects the text, and records the latency of the first text and audio."""
        async with aclosing(events):
            async for each in events:
                match each:
                    case TextDelta():
                        if not self._text:
                            FIRST_TOKEN_SECONDS.observe(time.monotonic() - self._started)
                        self._text.append(each.text)
                        self._logprobs.extend(each.logprobs)
                    case AudioChunk():
                        if not self._audio_seconds:
                            FIRST_AUDIO_SECONDS.observe(time.monotonic() - self._started)
                        self._audio_seconds += len(each.pcm) / 2 / each.sample_rate
                yield each

    def _delta_of_text(self, text: str) -> dict[str, Any]:
        """With speech, the text is the transcript of the audio and content stays empty, like OpenAI's."""
        if self._format is None:
            return {"content": text}
        return {"audio": {"id": self._audio_id, "transcript": text}}

    def _delta_of_audio(self, data: bytes) -> dict[str, Any]:
        return {"audio": {"id": self._audio_id, "data": base64.b64encode(data).decode()}}

    def _chunk(
        self, delta: dict[str, Any], finish_reason: str | None = None, logprobs: ChoiceLogprobs | None = None
    ) -> bytes:
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": logprobs and logprobs.model_dump(),
            "finish_reason": finish_reason,
        }
        return event(self._frame() | {"choices": [choice]} | ({"usage": None} if self._include_usage else {}))

    def _frame(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
            "service_tier": "default",
            "system_fingerprint": None,
        }

    def _usage(self, usage: Usage) -> CompletionUsage:
        audio_tokens = math.ceil(self._audio_seconds * AUDIO_TOKENS_PER_SECOND)
        completion_tokens = usage.completion_tokens + audio_tokens
        return CompletionUsage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=usage.prompt_tokens + completion_tokens,
            prompt_tokens_details=PromptTokensDetails(
                text_tokens=usage.prompt_tokens - usage.speech_tokens - usage.vision_tokens,
                audio_tokens=usage.speech_tokens,
                image_tokens=usage.vision_tokens,
                cached_tokens=usage.cached_tokens,
            ),
            completion_tokens_details=CompletionTokensDetails(
                text_tokens=usage.completion_tokens, audio_tokens=audio_tokens
            ),
            lyra=LyraUsage(adapter=usage.adapter or BASE, context_tokens=list(usage.context_tokens)),
        )


def _logprobs(tokens: Sequence[messages.TokenLogprob]) -> ChoiceLogprobs:
    return ChoiceLogprobs(
        content=[
            TokenLogprob(**_fields(each), top_logprobs=[TopLogprob(**_fields(top)) for top in each.top_logprobs])
            for each in tokens
        ]
    )


def _fields(token: messages.TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": max(token.logprob, _MIN_LOGPROB), "bytes": list(token.token_bytes)}


def audio_format(request: ChatRequest) -> AudioFormat:
    """OpenAI calls headerless samples pcm16 here and pcm elsewhere."""
    wanted = request.audio.format if request.audio else "wav"
    return "pcm" if wanted == "pcm16" else wanted
