"""The gRPC side of the speech synthesizer.

Shapes: N answer tokens, E width of hidden states.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from functools import partial

import numpy as np
import numpy.typing as npt

from lyra.v1 import common_pb2, speech_synthesizer_pb2, speech_synthesizer_pb2_grpc
from model_core.presets import build_voice
from model_core.speech.voice import SpeechStream, Voice
from model_core.speech.voices import voice_named
from services.shared import telemetry
from services.shared.rpc import model_service, tensors
from services.shared.rpc.grpc_types import Context
from services.shared.rpc.interceptors import tenant_of
from services.shared.rpc.queueing import FairQueue
from services.shared.rpc.server import ServiceDefinition
from services.shared.rpc.threads import ModelThread, WorkTimer
from services.shared.rpc.uploads import header_and_parts
from services.shared.service_errors import InvalidInput
from services.speech_synthesizer.settings import SpeechSynthesizerSettings

MIN_SPEED, MAX_SPEED = 0.25, 4.0
MAX_CHUNK_BYTES = 1024 * 1024
SAMPLE_BYTES = 2

Samples = npt.NDArray[np.int16]
Push = Callable[[], Iterator[Samples]]


class SpeechSynthesizerServicer(speech_synthesizer_pb2_grpc.SpeechSynthesizerServicer):
    """Speaks answers as their deltas arrive, from text or from hidden states; several take turns on one thread."""

    def __init__(self, voice: Voice, settings: SpeechSynthesizerSettings) -> None:
        self._voice = voice
        self._settings = settings
        self._thread = ModelThread("voice")
        self._queue = FairQueue(
            running_limit=settings.max_streams,
            waiting_limit=settings.max_waiting,
            on_change=telemetry.queue_gauges("speech_synthesizer"),
        )

    async def Synthesize(
        self, request_iterator: AsyncIterator[speech_synthesizer_pb2.SynthesizeRequest], context: Context
    ) -> AsyncIterator[speech_synthesizer_pb2.SynthesizeResponse]:
        """Turns an answer, delta by delta, into audio."""
        header, deltas = await header_and_parts(request_iterator, self._part)
        speed = header.speed or 1.0
        if not MIN_SPEED <= speed <= MAX_SPEED:
            raise InvalidInput("speed", f"{speed:g} is outside {MIN_SPEED:g} to {MAX_SPEED:g}")
        async with self._queue.slot(tenant_of(context)):
            voice = voice_named(self._voice, header.voice)
            work, samples = WorkTimer(), 0
            stream = await self._thread.run(work.wrap(lambda: voice.new_stream(header.voice, speed)))
            width, rate = voice.hidden_width, voice.sample_rate
            pushes = self._hidden_states(stream, deltas, width) if width else self._texts(stream, deltas)
            async for push in _and_last(pushes, stream.finish):
                async with aclosing(self._speak(work.wrap_iterator(push), rate)) as responses:
                    async for response in responses:
                        samples += len(response.audio.pcm) // SAMPLE_BYTES
                        yield response
        telemetry.observe_work("speech_synthesizer", work.seconds, samples / rate)

    async def Describe(
        self, request: speech_synthesizer_pb2.SpeechSynthesizerDescribeRequest, context: Context
    ) -> speech_synthesizer_pb2.SpeechSynthesizerDescribeResponse:
        """Model and voices of this service."""
        return speech_synthesizer_pb2.SpeechSynthesizerDescribeResponse(
            model=common_pb2.ModelDescription(preset=self._settings.preset, model=self._voice.model),
            voices=self._voice.voices,
            sample_rate=self._voice.sample_rate,
            hidden_width=self._voice.hidden_width,
            voice_descriptions=[
                speech_synthesizer_pb2.VoiceDescription(
                    name=name, hidden_width=voice.hidden_width, sample_rate=voice.sample_rate
                )
                for name in self._voice.voices
                for voice in (voice_named(self._voice, name),)
            ],
        )

    def shut_down(self) -> None:
        """Stops the thread."""
        self._thread.shut_down()

    def _part(self, header: speech_synthesizer_pb2.SynthesizeRequest.Header) -> str:
        """The field of requests that the requested voice speaks from."""
        return "hidden_states" if voice_named(self._voice, header.voice).hidden_width else "text_delta"

    async def _texts(self, stream: SpeechStream, deltas: AsyncIterator[str]) -> AsyncIterator[Push]:
        limit, characters = self._settings.max_text_characters, 0
        async for delta in deltas:
            characters += len(delta)
            if characters > limit:
                raise InvalidInput("text", f"over the limit of {limit} characters")
            yield partial(stream.push, delta)

    async def _hidden_states(
        self, stream: SpeechStream, deltas: AsyncIterator[common_pb2.Tensor], width: int
    ) -> AsyncIterator[Push]:
        limit, tokens = self._settings.max_answer_tokens, 0
        async for delta in deltas:
            hidden_NE = tensors.from_message(delta, field="hidden_states", width=width)
            tokens += len(hidden_NE)
            if tokens > limit:
                raise InvalidInput("hidden_states", f"over the limit of {limit} answer tokens")
            yield partial(stream.push_hidden, hidden_NE)

    async def _speak(
        self, start: Push, sample_rate: int
    ) -> AsyncGenerator[speech_synthesizer_pb2.SynthesizeResponse, None]:
        async with aclosing(self._thread.iterate(start)) as chunks:
            async for samples in chunks:
                pcm = samples.astype("<i2", copy=False).tobytes()
                for offset in range(0, len(pcm), MAX_CHUNK_BYTES):
                    piece = pcm[offset : offset + MAX_CHUNK_BYTES]
                    audio = speech_synthesizer_pb2.AudioChunk(pcm=piece, sample_rate=sample_rate)
                    yield speech_synthesizer_pb2.SynthesizeResponse(audio=audio)


async def _and_last(pushes: AsyncIterator[Push], last: Push) -> AsyncIterator[Push]:
    async for push in pushes:
        yield push
    yield last


def _build(settings: SpeechSynthesizerSettings) -> SpeechSynthesizerServicer:
    voice = build_voice(
        settings.preset,
        settings.home,
        threads=settings.thread_count(),
        checkpoint=settings.checkpoint,
        device=settings.device,
    )
    return SpeechSynthesizerServicer(voice, settings)


DEFINITION: ServiceDefinition[SpeechSynthesizerSettings] = ServiceDefinition(
    name="speech synthesizer",
    full_names=("lyra.v1.SpeechSynthesizer",),
    build=_build,
    register=speech_synthesizer_pb2_grpc.add_SpeechSynthesizerServicer_to_server,
    translate=model_service.translate,
)
