"""The speech encoder service over a real socket, preset tiny."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import numpy as np
import pytest
from prometheus_client import REGISTRY

from lyra.v1 import speech_encoder_pb2 as pb
from lyra.v1 import speech_encoder_pb2_grpc
from model_core.audio.tensors import encode_wav
from services.shared import telemetry
from services.shared.rpc import tensors
from services.shared.service_errors import InvalidInput, Overloaded, ServiceError, from_rpc_error
from tests.conftest import RunningService, StartService, until

RATE = 16_000


def tone(seconds: float) -> np.ndarray:
    """[samples] int16 at 16 kHz."""
    times = np.arange(int(seconds * RATE)) / RATE
    return (8000 * np.sin(2 * np.pi * 440 * times)).astype(np.int16)


def wav(seconds: float) -> bytes:
    return encode_wav(tone(seconds), RATE)


def encoded() -> pb.AudioHeader:
    return pb.AudioHeader(encoded=pb.EncodedAudio())


def pcm(sample_rate: int = RATE, channels: int = 1) -> pb.AudioHeader:
    return pb.AudioHeader(pcm=pb.PcmAudio(sample_rate=sample_rate, channels=channels))


class Client:
    """Calls a speech encoder service."""

    def __init__(self, service: RunningService) -> None:
        self.stub = speech_encoder_pb2_grpc.SpeechEncoderStub(service.channel)

    async def encode(
        self, data: bytes, header: pb.AudioHeader | None = None, adapter: str = "", tenant: str = ""
    ) -> list[pb.SpeechEncoderEncodeResponse]:
        async def requests() -> AsyncIterator[pb.SpeechEncoderEncodeRequest]:
            yield pb.SpeechEncoderEncodeRequest(
                header=pb.SpeechEncoderEncodeRequest.Header(audio=header or encoded(), adapter=adapter)
            )
            for offset in range(0, len(data), 100_000):
                yield pb.SpeechEncoderEncodeRequest(data=data[offset : offset + 100_000])

        try:
            call = self.stub.Encode(requests(), metadata=((telemetry.TENANT_METADATA, tenant),))
            return [response async for response in call]
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error("speech_encoder", error) from error

    async def transcribe(self, data: bytes, language: str = "") -> list[pb.TranscribeResponse]:
        async def requests() -> AsyncIterator[pb.TranscribeRequest]:
            yield pb.TranscribeRequest(header=pb.TranscribeRequest.Header(audio=encoded(), language=language))
            yield pb.TranscribeRequest(data=data)

        try:
            return [response async for response in self.stub.Transcribe(requests())]
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error("speech_encoder", error) from error

    async def encode_and_transcribe(
        self, data: bytes, adapter: str = "", language: str = "", tenant: str = ""
    ) -> list[pb.HearResponse]:
        async def requests() -> AsyncIterator[pb.HearRequest]:
            yield pb.HearRequest(header=pb.HearRequest.Header(audio=encoded(), adapter=adapter, language=language))
            yield pb.HearRequest(data=data)

        try:
            call = self.stub.Hear(requests(), metadata=((telemetry.TENANT_METADATA, tenant),))
            return [response async for response in call]
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error("speech_encoder", error) from error


def tokens_of(responses: list[pb.HearResponse] | list[pb.SpeechEncoderEncodeResponse]) -> list[np.ndarray]:
    """Speech tokens of each clip; each clip is one message."""
    return [
        tensors.from_message(response.speech_tokens.tokens.rows)
        for response in responses
        if response.HasField("speech_tokens")
    ]


def segments_of(responses: list[pb.HearResponse] | list[pb.TranscribeResponse]) -> list[tuple[float, float, str]]:
    """Start, end and text of each segment."""
    found = [response.segment for response in responses if response.HasField("segment")]
    return [(round(each.start_seconds, 2), round(each.end_seconds, 2), each.text) for each in found]


@pytest.fixture
async def client(start_service: StartService) -> Client:
    return Client(await start_service("speech_encoder"))


async def test_recording_becomes_the_tokens_of_its_clips(client: Client) -> None:
    clips = [response.speech_tokens for response in await client.encode(wav(31))]
    assert [(clip.clip_index, clip.start_seconds, clip.end_seconds) for clip in clips] == [(0, 0, 30), (1, 30, 31)]
    long, short = (tensors.from_message(clip.tokens.rows, width=16) for clip in clips)
    assert len(long) > 20 * len(short) > 0


async def test_tokens_report_the_adapter_of_their_projector(start_service: StartService) -> None:
    client = Client(await start_service("speech_encoder", preset="tiny-qwen2-vl"))

    async def adapters(seconds: float, adapter: str = "") -> set[str]:
        return {each.speech_tokens.adapter for each in await client.encode(wav(seconds), adapter=adapter)}

    assert await adapters(1) == {"speech"}
    assert await adapters(30) == {"speech"}
    assert await adapters(31) == {"long_speech"}
    assert await adapters(31, "speech") == {"speech"}
    assert await adapters(1, "long_speech") == {"long_speech"}


async def test_raw_samples_and_a_file_give_the_same_tokens(client: Client) -> None:
    assert await client.encode(tone(1).tobytes(), pcm()) == await client.encode(wav(1))


async def test_concurrent_calls_get_their_own_tokens(client: Client) -> None:
    alone = [await client.encode(wav(seconds)) for seconds in (1, 2, 3)]
    together = await asyncio.gather(*(client.encode(wav(seconds)) for seconds in (1, 2, 3)))
    for one, other in zip(alone, together, strict=True):
        (left,), (right,) = (
            [tensors.from_message(response.speech_tokens.tokens.rows) for response in responses]
            for responses in (one, other)
        )
        np.testing.assert_allclose(left, right, atol=1e-3)


async def test_nothing_is_left_waiting(client: Client) -> None:
    await client.encode(wav(31))
    assert telemetry.AUDIO_SECONDS_WAITING._value.get() == 0


async def test_transcript_ends_with_a_summary(client: Client) -> None:
    *segments, summary = await client.transcribe(wav(2.5))
    assert all(segment.HasField("segment") for segment in segments)
    assert summary.summary.duration_seconds == pytest.approx(2.5)
    assert summary.summary.language == "en"


async def test_hear_equals_encode_plus_transcribe(client: Client) -> None:
    recording = wav(31)
    responses = await client.encode_and_transcribe(recording)
    for one, other in zip(tokens_of(responses), tokens_of(await client.encode(recording)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    assert segments_of(responses) == segments_of(await client.transcribe(recording))
    assert segments_of(responses)


async def test_hear_responds_clip_by_clip_and_ends_with_a_summary(client: Client) -> None:
    responses = await client.encode_and_transcribe(wav(31))
    kinds = [response.WhichOneof("event") for response in responses]
    assert kinds[0] == "speech_tokens"
    assert kinds[-1] == "summary"
    second = [response.speech_tokens.clip_index for response in responses].index(1)
    ends = [response.segment.end_seconds for response in responses[:second] if response.HasField("segment")]
    assert all(end <= 30 for end in ends)
    assert (responses[-1].summary.duration_seconds, responses[-1].summary.language) == (31, "en")


async def test_concurrent_hear_calls_get_their_own_results(client: Client) -> None:
    lengths = (0.3, 2, 4, 31)
    alone = [await client.encode_and_transcribe(wav(seconds)) for seconds in lengths]
    together = await asyncio.gather(
        *(client.encode_and_transcribe(wav(seconds), tenant=f"{seconds:g}") for seconds in lengths)
    )
    for one, other in zip(alone, together, strict=True):
        for left, right in zip(tokens_of(one), tokens_of(other), strict=True):
            np.testing.assert_allclose(left, right, atol=1e-3)
        assert segments_of(one) == segments_of(other)
    assert telemetry.AUDIO_SECONDS_WAITING._value.get() == 0


async def test_hear_reports_the_adapter_of_the_projector(start_service: StartService) -> None:
    client = Client(await start_service("speech_encoder", preset="tiny-qwen2-vl"))
    for seconds, asked, adapter in ((1, "", "speech"), (31, "", "long_speech"), (1, "long_speech", "long_speech")):
        responses = await client.encode_and_transcribe(wav(seconds), adapter=asked)
        assert {each.speech_tokens.adapter for each in responses if each.HasField("speech_tokens")} == {adapter}


async def test_audio_beyond_the_queue_limit_is_refused_with_a_retry_delay(start_service: StartService) -> None:
    client = Client(await start_service("speech_encoder", max_hear_seconds_waiting=1))
    answers = await asyncio.gather(*(client.encode_and_transcribe(wav(5)) for _ in range(8)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert len(refused) < len(answers)
    assert refused
    for error in refused:
        assert isinstance(error, Overloaded)
        assert "the limit is 1 s" in str(error)
        assert error.retry_after_seconds >= 1


@pytest.mark.parametrize(
    ("data", "adapter", "language", "field"),
    [
        (b"not audio at all" * 100, "", "", "audio"),
        (encode_wav(np.zeros(RATE, np.int16), RATE), "", "", "audio"),
        (wav(1), "unknown", "", "adapter"),
        (wav(1), "", "tlh", "language"),
    ],
)
async def test_invalid_hear_request_is_refused_by_field(
    client: Client, data: bytes, adapter: str, language: str, field: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        await client.encode_and_transcribe(data, adapter, language)
    assert refusal.value.field == field


async def test_cancelled_call_leaves_nothing_waiting(client: Client) -> None:
    call = cast(Any, client.stub.Hear)()
    await call.write(pb.HearRequest(header=pb.HearRequest.Header(audio=encoded())))
    await call.write(pb.HearRequest(data=wav(120)))
    await call.done_writing()
    await until(lambda: telemetry.AUDIO_SECONDS_WAITING._value.get() > 0)
    call.cancel()
    await until(lambda: telemetry.AUDIO_SECONDS_WAITING._value.get() == 0)
    assert segments_of(await client.encode_and_transcribe(wav(1)))


@pytest.mark.parametrize(
    ("data", "header", "adapter", "field"),
    [
        (b"", encoded(), "", "audio"),
        (b"not audio at all" * 100, encoded(), "", "audio"),
        (encode_wav(np.zeros(RATE, np.int16), RATE), encoded(), "", "audio"),
        (wav(1), encoded(), "unknown", "adapter"),
        (wav(1), pb.AudioHeader(), "", "audio.encoding"),
        (tone(1).tobytes(), pcm(sample_rate=4000), "", "audio.pcm.sample_rate"),
        (tone(1).tobytes(), pcm(channels=9), "", "audio.pcm.channels"),
        (tone(1).tobytes()[:-1], pcm(), "", "audio"),
    ],
)
async def test_bad_recording_is_refused_by_field(
    client: Client, data: bytes, header: pb.AudioHeader, adapter: str, field: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        await client.encode(data, header, adapter)
    assert refusal.value.field == field


@pytest.mark.parametrize("header", [encoded(), pcm()])
async def test_recording_over_the_limit_is_refused_with_the_limit(
    start_service: StartService, header: pb.AudioHeader
) -> None:
    client = Client(await start_service("speech_encoder", max_audio_seconds=2))
    data = wav(3) if header.HasField("encoded") else tone(3).tobytes()
    with pytest.raises(InvalidInput, match="over the limit of 2 s"):
        await client.encode(data, header)


async def test_file_over_the_limit_is_refused_while_it_arrives(start_service: StartService) -> None:
    client = Client(await start_service("speech_encoder", max_audio_bytes=2**20))

    async def endless() -> AsyncIterator[pb.SpeechEncoderEncodeRequest]:
        yield pb.SpeechEncoderEncodeRequest(header=pb.SpeechEncoderEncodeRequest.Header(audio=encoded()))
        while True:
            yield pb.SpeechEncoderEncodeRequest(data=b"x" * 100_000)

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        [response async for response in client.stub.Encode(endless())]
    error = from_rpc_error("speech_encoder", raised.value)
    assert isinstance(error, ServiceError)
    assert str(error) == "audio: over the limit of 1 MiB"


async def test_unknown_language_is_refused(client: Client) -> None:
    with pytest.raises(InvalidInput) as refusal:
        await client.transcribe(wav(1), language="tlh")
    assert refusal.value.field == "language"


async def test_service_describes_itself(client: Client) -> None:
    description = await client.stub.Describe(pb.SpeechEncoderDescribeRequest())
    assert description.model.token_width == 16
    assert description.max_audio_seconds == 1800


async def test_a_refused_recording_does_not_stay_in_memory(start_service: StartService) -> None:
    client = Client(await start_service("speech_encoder", max_audio_seconds=1.0))
    recording, refused = wav(60.0), 10

    async def refuse() -> None:
        with pytest.raises(InvalidInput):
            await client.transcribe(recording)

    await refuse()
    gc.collect()
    gc.disable()  # otherwise it happens eventually, after hundreds of recordings
    tracemalloc.start()
    try:
        for _ in range(refused):
            await refuse()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert kept < 3 * len(recording)


def cache_counts() -> tuple[float, float]:
    """Hits and misses of the cache."""
    hits, misses = (
        REGISTRY.get_sample_value(f"lyra_encoder_cache_{name}_total", {"service": "speech_encoder"}) or 0.0
        for name in ("hits", "misses")
    )
    return hits, misses


async def test_recording_that_comes_again_is_not_encoded_again(client: Client) -> None:
    hits, misses = cache_counts()
    first = await client.encode(wav(31))
    assert await client.encode(wav(31)) == first
    assert cache_counts() == (hits + 2, misses + 2)
    # The same samples in another container, and a longer recording with the same first clip.
    await client.encode(tone(31).tobytes(), pcm())
    await client.encode(wav(40))
    assert cache_counts() == (hits + 5, misses + 3)


async def test_tenants_and_adapters_share_no_tokens(start_service: StartService) -> None:
    client = Client(await start_service("speech_encoder", preset="tiny-qwen2-vl"))
    hits, misses = cache_counts()
    same = [await client.encode(wav(1), tenant=tenant) for tenant in ("acme", "globex")]
    assert same[0] == same[1]
    assert await client.encode(wav(1), adapter="long_speech", tenant="acme") != same[0]
    assert cache_counts() == (hits, misses + 3)


async def test_same_recording_in_concurrent_calls_is_encoded_once(client: Client) -> None:
    hits, misses = cache_counts()
    first, *others = await asyncio.gather(*(client.encode(wav(31)) for _ in range(4)))
    assert others == [first] * 3
    assert cache_counts() == (hits + 6, misses + 2)


async def test_recording_is_encoded_for_the_others_where_one_caller_leaves(client: Client) -> None:
    leaving, staying = (asyncio.create_task(client.encode(wav(60))) for _ in range(2))
    # On a busy machine, one may be done before the other has arrived.
    await until(lambda: telemetry.AUDIO_SECONDS_WAITING._value.get() > 60 or leaving.done())
    leaving.cancel()
    assert tokens_of(await staying)
    await until(lambda: telemetry.AUDIO_SECONDS_WAITING._value.get() == pytest.approx(0))


async def test_cache_can_be_turned_off(start_service: StartService) -> None:
    client = Client(await start_service("speech_encoder", encoder_cache_mib=0))
    before = cache_counts()
    assert await client.encode(wav(1)) == await client.encode(wav(1))
    assert cache_counts() == before
