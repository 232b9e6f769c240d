"""The four services, scripted: real gRPC on loopback, without models."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np

from lyra.v1 import (
    common_pb2,
    language_model_pb2,
    language_model_pb2_grpc,
    speech_encoder_pb2,
    speech_encoder_pb2_grpc,
    speech_synthesizer_pb2,
    speech_synthesizer_pb2_grpc,
    vision_encoder_pb2,
    vision_encoder_pb2_grpc,
)
from services.shared.rpc import tensors
from services.shared.rpc.interceptors import ErrorInterceptor
from services.shared.service_errors import InvalidInput, Unavailable

USAGE = language_model_pb2.Usage(
    prompt_tokens=9, speech_tokens=2, vision_tokens=3, completion_tokens=4, context_tokens=[5, 4]
)


class Script:
    """What the services do, and what they received. One object is for all four."""

    def __init__(self) -> None:
        self.words = ["One ", "two ", "three."]
        self.prompt: list[Any] = []
        self.spoken: list[Any] = []
        # Name of the voice of the last request.
        self.voice = ""
        # Adapters of the two services that have some; clips of each recording; which adapter encoded what.
        self.projectors: list[str] = []
        self.adapters: list[str] = []
        self.clips: dict[bytes, int] = {}
        self.encoded: list[tuple[bytes, str]] = []
        # Adapter and language of Hear; additional messages, and whether the summary is sent.
        self.heard: list[tuple[str, str]] = []
        self.hear_also: list[speech_encoder_pb2.HearResponse] = []
        self.hear_ends = True
        # Width of the language model's hidden states, and of those that the voice takes.
        self.width = 2
        self.hidden_width = 0
        # Name -> width of the hidden states that it speaks from.
        self.more_voices: dict[str, int] = {}
        # Name of the call that fails after its first text or audio.
        self.breaks = ""
        self.speaking = asyncio.Event()
        self.uploads: list[bytes] = []
        self.uploaded = asyncio.Event()
        self.tenants: set[str] = set()
        # Names of calls that have ended in any way, and a way to wait for the next.
        self.ended: list[str] = []
        self.ending = asyncio.Event()
        # How often calls fail as unavailable before they succeed.
        self.unavailable: dict[str, int] = {}
        # Number of Describe calls by service.
        self.described: Counter[str] = Counter()
        self.calls: dict[str, int] = {}
        self.invalid: dict[str, InvalidInput] = {}
        # The language model waits for these before its last word, or before its end.
        self.before_last_word = asyncio.Event()
        self.before_last_word.set()
        self.before_finish = asyncio.Event()
        self.before_finish.set()
        self.encoding_together = asyncio.Barrier(1)

    @asynccontextmanager
    async def call(self, name: str, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
        self.calls[name] = self.calls.get(name, 0) + 1
        self.tenants |= {str(value) for key, value in context.invocation_metadata() or () if key == "lyra-tenant"}
        if self.unavailable.get(name, 0) > 0:
            self.unavailable[name] -= 1
            raise Unavailable(name, "is loading its weights")
        if name in self.invalid:
            raise self.invalid[name]
        try:
            yield
        finally:
            self.ended.append(name)
            self.ending.set()

    def break_off(self, name: str) -> None:
        if name == self.breaks:
            raise Unavailable(name, "is shutting down")

    async def wait_uploads(self, count: int) -> None:
        """Waits until so many files have been received completely."""
        while len(self.uploads) < count:
            self.uploaded.clear()
            await self.uploaded.wait()

    def upload(self, data: bytes) -> None:
        self.uploads.append(data)
        self.uploaded.set()

    async def wait_spoken(self) -> None:
        """Waits until the first words have been spoken."""
        await self.speaking.wait()

    async def wait_ended(self, *names: str) -> None:
        while Counter(names) - Counter(self.ended):
            self.ending.clear()
            await self.ending.wait()


class FakeSpeechEncoder(speech_encoder_pb2_grpc.SpeechEncoderServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    async def Encode(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        async with self.script.call("encode_speech", context):
            requests = [request async for request in request_iterator]
            data, clips = b"".join(request.data for request in requests), self.script.clips
            self.script.upload(data)
            await self.script.encoding_together.wait()
            long = clips.get(data, 2) > 1 and "long_speech" in self.script.projectors
            adapter = requests[0].header.adapter or ("long_speech" if long else "speech")
            self.script.encoded.append((data, adapter))
            rows = common_pb2.Tensor(dtype=common_pb2.ELEMENT_TYPE_FLOAT32, shape=[1, 1], data=b"\0" * 4)
            for clip in range(clips.get(data, 2)):
                tokens = common_pb2.SpeechTokens(
                    clip_index=clip, tokens=common_pb2.TensorChunk(rows=rows, rows_total=1), adapter=adapter
                )
                yield speech_encoder_pb2.SpeechEncoderEncodeResponse(speech_tokens=tokens)

    async def Transcribe(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        async with self.script.call("transcribe", context):
            self.script.upload(b"".join([request.data async for request in request_iterator]))
            for number, word in enumerate(self.script.words):
                segment = speech_encoder_pb2.TranscriptSegment(
                    start_seconds=number, end_seconds=number + 1, text=word, mean_log_probability=-0.5
                )
                yield speech_encoder_pb2.TranscribeResponse(segment=segment)
            summary = speech_encoder_pb2.TranscriptSummary(duration_seconds=3.0, language="en")
            yield speech_encoder_pb2.TranscribeResponse(summary=summary)

    async def Hear(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        async with self.script.call("hear", context):
            requests = [request async for request in request_iterator]
            self.script.upload(b"".join(request.data for request in requests))
            header = requests[0].header
            self.script.heard.append((header.adapter, header.language))
            rows = np.arange(6, dtype=np.float32).reshape(3, 2)
            for chunk in tensors.to_chunks(rows, max_bytes=16):
                tokens = common_pb2.SpeechTokens(tokens=chunk, adapter=header.adapter or "speech")
                yield speech_encoder_pb2.HearResponse(speech_tokens=tokens)
            for number, word in enumerate(self.script.words):
                segment = speech_encoder_pb2.TranscriptSegment(
                    start_seconds=number, end_seconds=number + 1, text=word, mean_log_probability=-0.5
                )
                yield speech_encoder_pb2.HearResponse(segment=segment)
            for message in self.script.hear_also:
                yield message
            summary = speech_encoder_pb2.TranscriptSummary(duration_seconds=3.0, language=header.language or "en")
            if self.script.hear_ends:
                yield speech_encoder_pb2.HearResponse(summary=summary)

    async def Describe(self, request: Any, context: Any) -> Any:
        self.script.described["speech_encoder"] += 1
        model = common_pb2.ModelDescription(adapters=self.script.projectors)
        return speech_encoder_pb2.SpeechEncoderDescribeResponse(model=model)


class FakeVisionEncoder(vision_encoder_pb2_grpc.VisionEncoderServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    async def Encode(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        async with self.script.call("encode_image", context):
            self.script.upload(b"".join([request.data async for request in request_iterator]))
            await self.script.encoding_together.wait()
            tokens = common_pb2.VisionTokens(grid_time=1, grid_height=7, grid_width=7)
            yield vision_encoder_pb2.VisionEncoderEncodeResponse(vision_tokens=tokens)

    async def Describe(self, request: Any, context: Any) -> Any:
        return vision_encoder_pb2.VisionEncoderDescribeResponse()


class FakeLanguageModel(language_model_pb2_grpc.LanguageModelServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    async def Generate(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        async with self.script.call("generate", context):
            self.script.prompt = [request async for request in request_iterator]
            for number, word in enumerate(self.script.words):
                if number == len(self.script.words) - 1:
                    await self.script.before_last_word.wait()
                delta = language_model_pb2.TextDelta(text=word, tokens=1)
                if self.script.prompt[0].header.hidden_states:
                    states = np.full((1, self.script.width), number, np.float32)
                    delta.hidden_states.CopyFrom(tensors.to_message(states))
                yield language_model_pb2.GenerateResponse(text_delta=delta)
                self.script.break_off("generate")
            await self.script.before_finish.wait()
            reason = language_model_pb2.FINISH_REASON_LENGTH
            yield language_model_pb2.GenerateResponse(
                finish=language_model_pb2.GenerateFinish(reason=reason, usage=USAGE)
            )

    async def CountTokens(self, request: Any, context: Any) -> Any:
        return language_model_pb2.CountTokensResponse()

    async def Describe(self, request: Any, context: Any) -> Any:
        self.script.described["language_model"] += 1
        model = common_pb2.ModelDescription(token_width=self.script.width, adapters=self.script.adapters)
        return language_model_pb2.LanguageModelDescribeResponse(model=model)


class FakeSpeechSynthesizer(speech_synthesizer_pb2_grpc.SpeechSynthesizerServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    async def Synthesize(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        async with self.script.call("synthesize", context):
            async for request in request_iterator:
                if request.WhichOneof("part") == "header":
                    self.script.voice = request.header.voice
                    continue
                said = getattr(request, request.WhichOneof("part"))
                self.script.spoken.append(said if isinstance(said, str) else tensors.from_message(said).tolist())
                self.script.speaking.set()
                pcm = request.text_delta.encode().ljust(3_200, b"\0")  # a tenth of a second
                audio = speech_synthesizer_pb2.AudioChunk(pcm=pcm, sample_rate=16_000)
                yield speech_synthesizer_pb2.SynthesizeResponse(audio=audio)
                self.script.break_off("synthesize")

    async def Describe(self, request: Any, context: Any) -> Any:
        self.script.described["speech_synthesizer"] += 1
        async with self.script.call("describe_voices", context):
            return speech_synthesizer_pb2.SpeechSynthesizerDescribeResponse(
                voices=["joe", *self.script.more_voices],
                sample_rate=16_000,
                hidden_width=self.script.hidden_width,
                voice_descriptions=[
                    speech_synthesizer_pb2.VoiceDescription(name=name, hidden_width=width, sample_rate=16_000)
                    for name, width in {"joe": self.script.hidden_width, **self.script.more_voices}.items()
                ]
                if self.script.more_voices
                else [],
            )


@asynccontextmanager
async def scripted_services(script: Script, port: int = 0) -> AsyncIterator[str]:
    """All four on one port of loopback, by default a free one. Yields host:port."""
    server = grpc.aio.server(interceptors=[ErrorInterceptor(default_deadline_seconds=30)])
    speech_encoder_pb2_grpc.add_SpeechEncoderServicer_to_server(FakeSpeechEncoder(script), server)
    vision_encoder_pb2_grpc.add_VisionEncoderServicer_to_server(FakeVisionEncoder(script), server)
    language_model_pb2_grpc.add_LanguageModelServicer_to_server(FakeLanguageModel(script), server)
    speech_synthesizer_pb2_grpc.add_SpeechSynthesizerServicer_to_server(FakeSpeechSynthesizer(script), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
