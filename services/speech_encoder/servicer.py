"""The gRPC side of the speech encoder."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, nullcontext
from functools import partial
from typing import Any

from torch import Tensor

from lyra.v1 import adapters_pb2_grpc, common_pb2, speech_encoder_pb2, speech_encoder_pb2_grpc
from model_core.audio.tensors import Clip
from model_core.checkpoints.peft_adapters import PROJECTOR_FILE, TRAINABLES_FILE, load_projector
from model_core.presets import build_speech_encoder
from model_core.speech.encoder import SpeechEncoder
from model_core.speech.segments import Segment
from services.shared import telemetry
from services.shared.content_cache import ContentCache, content_key
from services.shared.rpc import model_service, tensors
from services.shared.rpc.batching import GatherWindow
from services.shared.rpc.grpc_types import Context
from services.shared.rpc.interceptors import tenant_of
from services.shared.rpc.lora_registry import FULL_NAME, AdapterHost, AdaptersServicer, AdapterUsage
from services.shared.rpc.queueing import FairQueue
from services.shared.rpc.server import ServiceDefinition
from services.shared.rpc.threads import ModelThread, WorkTimer
from services.shared.rpc.uploads import header_and_parts
from services.shared.sandbox.decoders import Decoders
from services.shared.service_errors import InvalidInput
from services.speech_encoder.batching import ClipBatcher, ClipOptions
from services.speech_encoder.recordings import Recording, RecordingReader
from services.speech_encoder.settings import SpeechEncoderSettings
from services.speech_encoder.strategies import Encode, EncodeAndTranscribe


class SpeechEncoderServicer(speech_encoder_pb2_grpc.SpeechEncoderServicer):
    """Receives a recording, then encodes or transcribes its clips in batches with those of other calls."""

    def __init__(self, encoder: SpeechEncoder, settings: SpeechEncoderSettings) -> None:
        self._encoder = encoder
        self._settings = settings
        self._decoders = Decoders(settings)
        self._decoders.start()
        self._thread = ModelThread("speech-encoder")
        self._transcriber_thread = ModelThread("transcriber")
        self._cache = ContentCache[Tensor](
            "speech_encoder", settings.encoder_cache_mib * 2**20, lambda tokens_NE: tokens_NE.nbytes
        )
        self._encode_batches = ClipBatcher(
            Encode(encoder, self._thread),
            max_batch_clips=settings.max_batch_clips,
            max_seconds_waiting=settings.max_audio_seconds_waiting,
            # Nothing is gained by waiting for clips that are encoded one after the other.
            window=GatherWindow(0.0 if encoder.one_by_one else settings.gather_milliseconds),
            cache=self._cache,
        )
        self._transcribe_batches = ClipBatcher(
            EncodeAndTranscribe(encoder, self._thread, self._transcriber_thread),
            max_batch_clips=settings.max_hear_clips,
            max_seconds_waiting=settings.max_hear_seconds_waiting,
            window=GatherWindow(settings.gather_milliseconds),
        )
        self._transcriptions = FairQueue(
            waiting_limit=settings.max_transcriptions_waiting, on_change=telemetry.queue_gauges("speech_encoder")
        )
        self._use = AdapterUsage()
        self.adapters = AdaptersServicer(
            AdapterHost(
                resident=lambda: encoder.adapters,
                load=partial(load_projector, encoder),
                unload=encoder.unload_projector,
                files=(PROJECTOR_FILE, TRAINABLES_FILE),
                optional=True,
            ),
            folder=settings.adapters_folder,
            thread=self._thread,
            exclusive=self._changing,
        )

    async def Encode(
        self, request_iterator: AsyncIterator[speech_encoder_pb2.SpeechEncoderEncodeRequest], context: Context
    ) -> AsyncIterator[speech_encoder_pb2.SpeechEncoderEncodeResponse]:
        """Turns a recording into speech tokens, clip by clip."""
        header, pieces = await header_and_parts(request_iterator, "data")
        self._check_adapter(header.adapter)
        tenant = tenant_of(context)
        recording = await self._receive(header.audio, pieces, tenant, self._encode_batches.arriving())
        adapter = header.adapter or self._encoder.choose_adapter(len(recording.clips))
        keys = [content_key(each, self._settings.preset, adapter, tenant) for each in recording.digests]
        encoding = self._encode_batches.process(recording.clips, ClipOptions(adapter), tenant=tenant, keys=keys)
        async with self._use.hold(adapter), aclosing(encoding) as results:
            clips = iter(recording.clips)
            async for tokens_NE in results:
                for message in _token_messages(next(clips), tokens_NE, adapter):
                    yield speech_encoder_pb2.SpeechEncoderEncodeResponse(speech_tokens=message)

    async def Transcribe(
        self, request_iterator: AsyncIterator[speech_encoder_pb2.TranscribeRequest], context: Context
    ) -> AsyncIterator[speech_encoder_pb2.TranscribeResponse]:
        """Turns a recording into a transcript."""
        header, pieces = await header_and_parts(request_iterator, "data")
        transcriber = self._encoder.transcriber
        recording = await self._receive(header.audio, pieces, tenant_of(context), nullcontext())
        async with self._transcriptions.slot(tenant_of(context)):
            work = WorkTimer()
            start = work.wrap_iterator(lambda: transcriber.transcribe(recording.clips, header.language))
            transcript = self._transcriber_thread.iterate(start)
            async with aclosing(transcript) as segments:
                async for segment in segments:
                    yield speech_encoder_pb2.TranscribeResponse(segment=_segment_message(segment))
        telemetry.observe_work("speech_encoder", work.seconds, recording.seconds)
        # A language that a multilingual model detected by itself is not reported.
        (language, *others) = transcriber.languages
        known = header.language or ("" if others else language)
        summary = speech_encoder_pb2.TranscriptSummary(duration_seconds=recording.seconds, language=known)
        yield speech_encoder_pb2.TranscribeResponse(summary=summary)

    async def Hear(
        self, request_iterator: AsyncIterator[speech_encoder_pb2.HearRequest], context: Context
    ) -> AsyncIterator[speech_encoder_pb2.HearResponse]:
        """Encodes and transcribes at once: speech tokens and transcript of a recording, clip by clip.

        What `Encode` and `Transcribe` do in two calls, for one decoding and one pass through Whisper's encoder.
        """
        header, pieces = await header_and_parts(request_iterator, "data")
        self._check_adapter(header.adapter)
        transcriber = self._encoder.transcriber
        transcriber.check_language(header.language)
        arriving = self._transcribe_batches.arriving()
        recording = await self._receive(header.audio, pieces, tenant_of(context), arriving)
        adapter = header.adapter or self._encoder.choose_adapter(len(recording.clips))
        (first, *others) = transcriber.languages
        language = header.language or ("" if others else first)
        options = ClipOptions(adapter, language)
        transcribing = self._transcribe_batches.process(recording.clips, options, tenant=tenant_of(context))
        async with self._use.hold(adapter), aclosing(transcribing) as results:
            clips = iter(recording.clips)
            async for transcribed in results:
                language = language or transcribed.language
                for tokens in _token_messages(next(clips), transcribed.tokens_NE, adapter):
                    yield speech_encoder_pb2.HearResponse(speech_tokens=tokens)
                for segment in transcribed.segments:
                    yield speech_encoder_pb2.HearResponse(segment=_segment_message(segment))
        summary = speech_encoder_pb2.TranscriptSummary(duration_seconds=recording.seconds, language=language)
        yield speech_encoder_pb2.HearResponse(summary=summary)

    async def Describe(
        self, request: speech_encoder_pb2.SpeechEncoderDescribeRequest, context: Context
    ) -> speech_encoder_pb2.SpeechEncoderDescribeResponse:
        """Model and limits of this service."""
        model = common_pb2.ModelDescription(
            preset=self._settings.preset,
            model=self._encoder.model,
            token_width=self._encoder.token_width,
            adapters=self._encoder.adapters,
        )
        return speech_encoder_pb2.SpeechEncoderDescribeResponse(
            model=model, max_audio_seconds=self._settings.max_audio_seconds
        )

    def shut_down(self) -> None:
        """Stops the decoders and the threads."""
        self._decoders.close()
        self._thread.shut_down()
        self._transcriber_thread.shut_down()

    def _check_adapter(self, name: str) -> None:
        if name not in ("", *self._encoder.adapters):
            raise InvalidInput("adapter", f"{name[:100]!r} is not one of {', '.join(self._encoder.adapters)}")

    @asynccontextmanager
    async def _changing(self, adapter: str) -> AsyncIterator[None]:
        """No request uses the adapter during the `async with` body, and no tokens of it are cached after it."""
        async with self._use.exclusive(adapter):
            try:
                yield
            finally:
                self._cache.clear()

    async def _receive(
        self,
        header: speech_encoder_pb2.AudioHeader,
        pieces: AsyncIterator[Any],
        tenant: str,
        arriving: AbstractContextManager[None],
    ) -> Recording:
        with RecordingReader(header, self._settings) as reader:
            await reader.receive(pieces)
            with arriving:
                return await self._decoders.run(partial(reader.decode, self._decoders, tenant))


def _token_messages(clip: Clip, tokens_NE: Tensor, adapter: str) -> Iterator[common_pb2.SpeechTokens]:
    for chunk in tensors.to_chunks(tokens_NE.float().cpu().numpy()):
        yield common_pb2.SpeechTokens(
            clip_index=clip.index,
            start_seconds=clip.start_seconds,
            end_seconds=clip.end_seconds,
            tokens=chunk,
            adapter=adapter,
        )


def _segment_message(segment: Segment) -> speech_encoder_pb2.TranscriptSegment:
    return speech_encoder_pb2.TranscriptSegment(
        start_seconds=segment.start_seconds,
        end_seconds=segment.end_seconds,
        text=segment.text,
        mean_log_probability=segment.mean_log_probability,
        no_speech_probability=segment.no_speech_probability,
    )


def _build(settings: SpeechEncoderSettings) -> SpeechEncoderServicer:
    encoder = build_speech_encoder(
        settings.preset, settings.home, checkpoint=settings.checkpoint, device=settings.device, fast=True
    )
    formats = {"encoder": encoder.number_format}
    if encoder.can_transcribe:
        formats["words"] = encoder.transcriber.number_format
    model_service.log_number_formats(**formats)
    servicer = SpeechEncoderServicer(encoder, settings)
    servicer.adapters.preload(settings.adapters_at_start, model_service.translate)
    return servicer


def _register(servicer: SpeechEncoderServicer, server: Any) -> None:
    speech_encoder_pb2_grpc.add_SpeechEncoderServicer_to_server(servicer, server)
    adapters_pb2_grpc.add_AdaptersServicer_to_server(servicer.adapters, server)


DEFINITION: ServiceDefinition[SpeechEncoderSettings] = ServiceDefinition(
    name="speech encoder",
    full_names=("lyra.v1.SpeechEncoder", FULL_NAME),
    build=_build,
    register=_register,
    translate=model_service.translate,
)
