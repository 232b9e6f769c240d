"""Messages that none of our clients would send are refused with a reason, and the next call is answered."""

import gzip
import logging
from collections.abc import AsyncIterator, Iterable
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

from lyra.v1 import language_model_pb2
from lyra.v1.common_pb2 import ELEMENT_TYPE_FLOAT32, SpeechTokens, Tensor, TensorChunk, VisionTokens
from lyra.v1.language_model_pb2 import CountTokensRequest, GenerateHeader, GenerateRequest, MessageStart
from lyra.v1.language_model_pb2_grpc import LanguageModelStub
from lyra.v1.speech_synthesizer_pb2 import SpeechSynthesizerDescribeRequest, SynthesizeRequest
from lyra.v1.speech_synthesizer_pb2_grpc import SpeechSynthesizerStub
from services.operations.local.stack import SERVICES
from services.shared.rpc import interceptors, tensors
from services.shared.service_errors import InvalidInput, from_rpc_error
from tests.attack.messages import HARMLESS, fuzz_channel
from tests.callers import raw_call
from tests.conftest import RunningService, StartService, until

GARBAGE = b"\xff\xff\xff\xff"
MESSAGES = 1000


async def status(channel: grpc.aio.Channel, path: str, *messages: bytes) -> tuple[grpc.StatusCode, str]:
    call = raw_call(channel, path)
    for message in messages:
        await call.write(message)
    await call.done_writing()
    return await call.code(), await call.details()


@pytest.mark.parametrize(
    "path",
    [
        "/lyra.v1.LanguageModel/Generate",
        "/lyra.v1.LanguageModel/CountTokens",
        "/lyra.v1.Adapters/ListAdapters",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_an_unparsable_message_is_an_invalid_argument_and_one_log_line(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    service = await start_service("language_model", reflection=True)
    lines: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(
        interceptors,
        "log",
        SimpleNamespace(
            warning=lambda event, **fields: lines.append((event, fields)),
            exception=lambda event, **fields: lines.append((event, fields)),
            info=lambda event, **fields: None,
        ),
    )
    code, details = await status(service.channel, path, GARBAGE)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("cannot be parsed")
    ((event, fields),) = lines
    assert event == "message cannot be parsed"
    assert fields["method"] == path
    assert fields["peer"].startswith("ipv4:127.0.0.1:")
    # gRPC's own log would contain the traceback.
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_garbage_in_the_middle_of_a_stream_ends_it(start_service: StartService) -> None:
    service = await start_service("language_model")
    header = GenerateRequest(header=GenerateHeader(max_tokens=1)).SerializeToString()
    code, _ = await status(service.channel, "/lyra.v1.LanguageModel/Generate", header, GARBAGE)
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_compressed_message_is_limited_by_its_decompressed_size(start_service: StartService) -> None:
    service = await start_service("language_model")
    text = "a" * (16 * 2**20)
    assert len(gzip.compress(text.encode())) < 2**20
    unlimited = (("grpc.max_send_message_length", -1),)
    compression = grpc.Compression.Gzip
    async with grpc.aio.insecure_channel(service.address, unlimited, compression) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await LanguageModelStub(channel).CountTokens(CountTokensRequest(text=text), timeout=60)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("name", SERVICES)
async def test_services_survive_fuzzed_messages(
    start_service: StartService, name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[str] = []
    quiet = SimpleNamespace(
        warning=lambda event, **fields: None,
        info=lambda event, **fields: None,
        exception=lambda event, **fields: failed.append(repr(fields)),
    )
    monkeypatch.setattr(interceptors, "log", quiet)
    service = await start_service(name)
    ended = await fuzz_channel(service.channel, MESSAGES, seed=19)
    assert ended.keys() <= HARMLESS, (ended, failed[:3])
    assert ended["INVALID_ARGUMENT"] > MESSAGES / 20
    assert ended["OK"] > 0
    assert failed == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    await until(lambda: service.server._telemetry.running == 0)  # nothing is left behind


async def test_a_unary_call_without_a_message_is_an_invalid_argument(start_service: StartService) -> None:
    service = await start_service("language_model")
    for path in ("/lyra.v1.LanguageModel/CountTokens", "/grpc.health.v1.Health/Check"):
        code, details = await status(service.channel, path)
        assert (code, details) == (grpc.StatusCode.INVALID_ARGUMENT, "is missing")


def chunk(rows: int, width: int, *, offset: int = 0, total: int | None = None, value: float = 0.5) -> TensorChunk:
    array = np.full((rows, width), value, np.float32)
    return TensorChunk(rows=tensors.to_message(array), row_offset=offset, rows_total=rows if total is None else total)


async def generate(service: RunningService, *parts: GenerateRequest) -> None:
    """A prompt with these parts in its one message; raises our errors."""

    async def requests() -> AsyncIterator[GenerateRequest]:
        yield GenerateRequest(header=GenerateHeader(max_tokens=1))
        yield GenerateRequest(message_start=MessageStart(role=language_model_pb2.ROLE_USER))
        for part in parts:
            yield part
        yield GenerateRequest(text="What is this?")

    try:
        async for _ in LanguageModelStub(service.channel).Generate(requests(), timeout=60):
            pass
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error("language_model", error) from error


def speech(*chunks: TensorChunk) -> Iterable[GenerateRequest]:
    return (GenerateRequest(speech_tokens=SpeechTokens(tokens=each)) for each in chunks)


def picture(tokens: TensorChunk, *grid: int) -> GenerateRequest:
    time, height, width = grid
    found = VisionTokens(tokens=tokens, grid_time=time, grid_height=height, grid_width=width)
    return GenerateRequest(vision_tokens=found)


async def test_non_finite_tokens_are_refused_by_field(start_service: StartService) -> None:
    service = await start_service("language_model")
    width = (await LanguageModelStub(service.channel).Describe(_describe(), timeout=60)).model.token_width
    for value in (float("nan"), float("inf"), 1e38):
        with pytest.raises(InvalidInput) as refusal:
            await generate(service, *speech(chunk(2, width, value=value)))
        assert refusal.value.field == "speech_tokens.tokens.rows.data"
        with pytest.raises(InvalidInput) as refusal:
            await generate(service, picture(chunk(2, width, value=value), 1, 1, 2))
        assert refusal.value.field == "vision_tokens.tokens.rows.data"
    await generate(service, *speech(chunk(2, width)), picture(chunk(2, width), 1, 1, 2))


async def test_forged_shapes_are_refused_by_field(start_service: StartService) -> None:
    service = await start_service("language_model")
    width = (await LanguageModelStub(service.channel).Describe(_describe(), timeout=60)).model.token_width
    forged = {
        "speech_tokens.tokens.rows.shape": speech(chunk(2, width + 1)),
        "speech_tokens.tokens.row_offset": speech(chunk(1, width, total=3), chunk(1, width, offset=2, total=3)),
        "speech_tokens.tokens.rows": speech(chunk(1, width, total=3)),
        "messages": speech(chunk(1, width, total=2**32 - 1)),
        # An empty product, and a side that takes 32 GiB to enumerate.
        "vision_tokens.grid": (picture(chunk(0, width), 2**32 - 1, 0, 1),),
    }
    for field, parts in forged.items():
        with pytest.raises(InvalidInput) as refusal:
            await generate(service, *parts)
        assert refusal.value.field == field
    await generate(service, *speech(chunk(0, width)))  # a pause has no tokens


async def test_hidden_states_of_wrong_width_or_value_are_refused(start_service: StartService) -> None:
    service = await start_service("speech_synthesizer")
    stub = SpeechSynthesizerStub(service.channel)
    voices = (await stub.Describe(SpeechSynthesizerDescribeRequest(), timeout=60)).voice_descriptions
    (voice,) = [each for each in voices if each.hidden_width]

    async def speak(*tensors_NE: Tensor) -> int:
        requests = [SynthesizeRequest(header=SynthesizeRequest.Header(voice=voice.name))]
        requests += [SynthesizeRequest(hidden_states=tensor) for tensor in tensors_NE]
        try:
            return sum([len(each.audio.pcm) async for each in stub.Synthesize(iter(requests), timeout=60)])
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error("speech_synthesizer", error) from error

    def hidden(rows: int, width: int, value: float = 0.5) -> Tensor:
        return tensors.to_message(np.full((rows, width), value, np.float32))

    for tensor, field in [
        (hidden(2, voice.hidden_width + 1), "hidden_states.shape"),
        (hidden(2, voice.hidden_width, float("nan")), "hidden_states.data"),
        (hidden(2, voice.hidden_width, 1e38), "hidden_states.data"),
        (Tensor(dtype=ELEMENT_TYPE_FLOAT32, shape=[2**61, voice.hidden_width]), "hidden_states.shape"),
    ]:
        with pytest.raises(InvalidInput) as refusal:
            await speak(hidden(1, voice.hidden_width), tensor)
        assert refusal.value.field == field
    assert await speak(hidden(0, voice.hidden_width)) == 0
    assert await speak(hidden(0, voice.hidden_width), hidden(2, voice.hidden_width)) > 0


def _describe() -> Any:
    return language_model_pb2.LanguageModelDescribeRequest()
