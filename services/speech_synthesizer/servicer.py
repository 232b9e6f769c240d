"""The gRPC side of the speech synthesizer.

Shapes: N answer tokens, E width of hidden states.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any

from lyra.v1 import common_pb2, speech_synthesizer_pb2, speech_synthesizer_pb2_grpc
from model_core.presets import build_voice
from model_core.speech.voice import MAX_SPEED, MIN_SPEED, HiddenVoice, Samples, Voice, VoiceStream, in_chunks
from model_core.speech.voices import voice_named
from services.shared import telemetry
from services.shared.rpc import model_service, tensors
from services.shared.rpc.grpc_types import Context
from services.shared.rpc.interceptors import tenant_of
from services.shared.rpc.queueing import FairQueue
from services.shared.rpc.server import ServiceDefinition
from services.shared.rpc.tensors import Array
from services.shared.rpc.threads import ModelThread, WorkTimer
from services.shared.rpc.uploads import header_and_parts
from services.shared.service_errors import InvalidInput
from services.speech_synthesizer.clauses import ClausePool
from services.speech_synthesizer.settings import SpeechSynthesizerSettings
from services.speech_synthesizer.steps import StepBatches


class SpeechSynthesizerServicer(speech_synthesizer_pb2_grpc.SpeechSynthesizerServicer):
    """Speaks answers as their deltas arrive, several at the same time.

    From text, a few clauses are synthesized concurrently; from hidden states, answers share batches.
    """

    def __init__(self, voice: Voice, settings: SpeechSynthesizerSettings) -> None:
        self._voice = voice
        self._settings = settings
        self._thread = ModelThread("voice")
        self._clauses = ClausePool(settings.max_clauses)
        self._steps = {
            name: StepBatches(
                each,
                self._thread,
                max_streams=settings.max_streams,
                max_tokens=settings.max_batch_tokens,
                gather_milliseconds=settings.gather_milliseconds,
            )
            for name in voice.voices
            for each in (voice_named(voice, name),)
            if isinstance(each, HiddenVoice) and each.hidden_width
        }
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
            work, samples, rate = WorkTimer(), 0, voice.sample_rate
            async with aclosing(self._speak(voice, header.voice, speed, deltas, work)) as audio:
                async for samples_S in audio:
                    samples += len(samples_S)
                    for response in _responses(samples_S, rate):
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
        """Stops the threads."""
        self._thread.shut_down()
        self._clauses.shut_down()

    def _part(self, header: speech_synthesizer_pb2.SynthesizeRequest.Header) -> str:
        """The field of requests that the requested voice speaks from."""
        return "hidden_states" if voice_named(self._voice, header.voice).hidden_width else "text_delta"

    def _speak(
        self, voice: Voice, name: str, speed: float, deltas: AsyncIterator[Any], work: WorkTimer
    ) -> AsyncGenerator[Samples, None]:
        if voice.hidden_width:
            hidden = self._hidden_states(deltas, voice.hidden_width)
            return self._steps[name or voice.voices[0]].speak(hidden, name, speed, work)
        stream = voice.new_stream(name, speed)
        assert isinstance(stream, VoiceStream)  # the only kind that speaks from text
        return self._speak_clauses(stream, self._clauses_of(stream, deltas), work)

    async def _speak_clauses(
        self, stream: VoiceStream, clauses: AsyncIterator[str], work: WorkTimer
    ) -> AsyncGenerator[Samples, None]:
        is_first = True
        async for clause in clauses:
            samples_S = await self._clauses.run(work.wrap(partial(stream.speak, clause)), is_first=is_first)
            is_first = is_first and not len(samples_S)
            yield samples_S

    async def _clauses_of(self, stream: VoiceStream, deltas: AsyncIterator[str]) -> AsyncIterator[str]:
        limit, characters = self._settings.max_text_characters, 0
        async for delta in deltas:
            characters += len(delta)
            if characters > limit:
                raise InvalidInput("text", f"over the limit of {limit} characters")
            for clause in stream.split(delta):
                yield clause
        for clause in stream.split_rest():
            yield clause

    async def _hidden_states(self, deltas: AsyncIterator[common_pb2.Tensor], width: int) -> AsyncIterator[Array]:
        limit, tokens = self._settings.max_answer_tokens, 0
        async for delta in deltas:
            hidden_NE = tensors.from_message(delta, field="hidden_states", width=width)
            tokens += len(hidden_NE)
            if tokens > limit:
                raise InvalidInput("hidden_states", f"over the limit of {limit} answer tokens")
            yield hidden_NE


def _responses(samples_S: Samples, sample_rate: int) -> Iterator[speech_synthesizer_pb2.SynthesizeResponse]:
    for chunk_S in in_chunks(samples_S, sample_rate):
        pcm = chunk_S.astype("<i2", copy=False).tobytes()
        audio = speech_synthesizer_pb2.AudioChunk(pcm=pcm, sample_rate=sample_rate)
        yield speech_synthesizer_pb2.SynthesizeResponse(audio=audio)


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
