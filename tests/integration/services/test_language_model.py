"""The language model service over a real socket, preset tiny."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from lyra.v1 import common_pb2, language_model_pb2, language_model_pb2_grpc
from lyra.v1.language_model_pb2 import (
    GenerateHeader,
    GenerateRequest,
    GenerateResponse,
    MessageStart,
    SamplingParams,
)
from model_core.engine.sampling_params import SAMPLING_FIELDS
from services.shared import telemetry
from services.shared.rpc import tensors
from services.shared.service_errors import DeadlineExceeded, InvalidInput, Overloaded, ServiceError, from_rpc_error
from tests.conftest import RunningService, StartService, until

METHOD = "/lyra.v1.LanguageModel/Generate"
WIDTH = 16

if TYPE_CHECKING:
    Call = grpc.aio.StreamStreamCall[GenerateRequest, GenerateResponse]
else:
    Call = grpc.aio.StreamStreamCall


def prompt(*content: GenerateRequest, **header: Any) -> list[GenerateRequest]:
    """A prompt with one user message; sampling parameters in `header` are moved to their own message."""
    sampling = SamplingParams(**{name: header.pop(name) for name in SAMPLING_FIELDS & header.keys()})
    start = GenerateRequest(message_start=MessageStart(role=language_model_pb2.ROLE_USER))
    parts = content or (GenerateRequest(text="Hello there"),)
    return [GenerateRequest(header=GenerateHeader(sampling_params=sampling, **header)), start, *parts]


def speech(clip: int, rows: int, width: int = WIDTH, adapter: str = "") -> GenerateRequest:
    (chunk,) = tensors.to_chunks(np.ones((rows, width), np.float32))
    return GenerateRequest(speech_tokens=common_pb2.SpeechTokens(clip_index=clip, tokens=chunk, adapter=adapter))


def picture(height: int, width: int, rows: int) -> GenerateRequest:
    (chunk,) = tensors.to_chunks(np.ones((rows, WIDTH), np.float32))
    tokens = common_pb2.VisionTokens(tokens=chunk, grid_time=1, grid_height=height, grid_width=width)
    return GenerateRequest(vision_tokens=tokens)


class Client:
    """Calls a language model service."""

    def __init__(self, service: RunningService) -> None:
        self.service = service
        self.stub = language_model_pb2_grpc.LanguageModelStub(service.channel)

    def call(self, requests: Iterable[GenerateRequest], deadline: float | None = None) -> Call:
        async def stream() -> AsyncIterator[GenerateRequest]:
            for request in requests:
                yield request

        return self.stub.Generate(stream(), timeout=deadline)

    async def answer(
        self, requests: Iterable[GenerateRequest], deadline: float | None = None
    ) -> list[GenerateResponse]:
        try:
            return [event async for event in self.call(requests, deadline)]
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error("language_model", error) from error

    async def refusal(self, requests: Iterable[GenerateRequest], deadline: float | None = None) -> ServiceError:
        with pytest.raises(ServiceError) as raised:
            await self.answer(requests, deadline)
        return raised.value

    async def idle(self) -> None:
        """Waits until the service's metric shows no running request."""
        running = telemetry.REQUESTS_RUNNING.labels(METHOD)
        await until(lambda: running._value.get() == 0)


@pytest.fixture
async def client(start_service: StartService) -> Client:
    return Client(await start_service("language_model"))


async def test_answer_streams_one_token_at_a_time_and_ends_with_usage(client: Client) -> None:
    *deltas, last = await client.answer(prompt(max_tokens=5))
    assert [delta.text_delta.tokens for delta in deltas if delta.text_delta.tokens] == [1] * 5
    assert last.finish.reason == language_model_pb2.FINISH_REASON_LENGTH
    assert last.finish.usage.completion_tokens == 5
    assert last.finish.usage.adapter == ""


async def test_the_same_seed_gives_the_same_answer(client: Client) -> None:
    requests = prompt(max_tokens=20, temperature=1.5, seed=7)
    (*first, _), (*second, _) = await client.answer(requests), await client.answer(requests)
    assert first == second


async def test_min_p_of_one_samples_only_the_most_likely_token(client: Client) -> None:
    def text(events: list[GenerateResponse]) -> str:
        return "".join(event.text_delta.text for event in events)

    greedy = text(await client.answer(prompt(max_tokens=20)))
    assert text(await client.answer(prompt(max_tokens=20, temperature=1.5, seed=7))) != greedy
    assert text(await client.answer(prompt(max_tokens=20, temperature=1.5, seed=7, min_p=1.0))) == greedy


async def test_hidden_states_are_sent_only_on_request(client: Client) -> None:
    plain = await client.answer(prompt(max_tokens=3))
    assert not any(event.text_delta.HasField("hidden_states") for event in plain)
    full = await client.answer(prompt(max_tokens=3, hidden_states=True))
    states = [event.text_delta.hidden_states for event in full if event.text_delta.tokens]
    assert [tensors.from_message(state).shape for state in states] == [(1, WIDTH)] * 3


async def test_speech_and_vision_tokens_are_counted_and_select_their_adapter(client: Client) -> None:
    spoken = await client.answer(prompt(speech(0, 4), speech(1, 3), picture(2, 2, 4), max_tokens=1))
    assert spoken[-1].finish.usage.speech_tokens == 7
    assert spoken[-1].finish.usage.vision_tokens == 4
    assert spoken[-1].finish.usage.adapter == "speech"
    seen = await client.answer(prompt(picture(2, 2, 4), GenerateRequest(text="?"), max_tokens=1))
    assert seen[-1].finish.usage.adapter == "vision"


async def test_each_block_gets_the_tokens_that_the_previous_one_kept(client: Client) -> None:
    parts = (speech(0, 60), speech(1, 40), GenerateRequest(text="What is said?"))
    plain = await client.answer(prompt(*parts, max_tokens=2))
    assert set(plain[-1].finish.usage.context_tokens) == {100}
    extracted = await client.answer(prompt(*parts, max_tokens=2, keep_rate=0.7, blocks=2))
    assert list(extracted[-1].finish.usage.context_tokens) == [100, 70]
    assert extracted[-1].finish.usage.prompt_tokens == plain[-1].finish.usage.prompt_tokens


async def test_answer_uses_the_adapter_whose_projector_made_the_tokens(start_service: StartService) -> None:
    client = Client(await start_service("language_model", preset="tiny-qwen2-vl"))

    async def adapter(*parts: GenerateRequest, **header: object) -> str:
        return (await client.answer(prompt(*parts, max_tokens=1, **header)))[-1].finish.usage.adapter

    one, two = speech(0, 4, 32), speech(1, 4, 32)
    assert await adapter(one) == "speech"
    assert await adapter(one, two) == "long_speech"
    assert await adapter(one, one) == "long_speech"
    assert await adapter(speech(0, 4, 32, "speech"), speech(1, 4, 32, "speech")) == "speech"
    assert await adapter(one, two, adapter="speech") == "speech"
    assert await adapter(one, two, adapter="base") == ""


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([], "header"),
        (prompt()[1:], "header"),
        ([*prompt(), *prompt()], "header"),
        (prompt()[:1], "messages"),
        (prompt()[:2], "messages"),
        ([prompt()[0], GenerateRequest(text="x")], "message_start"),
        ([prompt()[0], GenerateRequest(message_start=MessageStart())], "messages[0].role"),
        (prompt(GenerateRequest()), "part"),
        (prompt(max_tokens=0), "max_tokens"),
        (prompt(max_tokens=5000), "max_tokens"),
        (prompt(max_tokens=2047), "max_tokens"),
        (prompt(temperature=2.5), "temperature"),
        (prompt(temperature=float("nan")), "temperature"),
        (prompt(top_p=1.5), "top_p"),
        (prompt(min_p=1.5), "min_p"),
        (prompt(stop=["a"] * 5), "stop"),
        (prompt(stop=[""]), "stop"),
        (prompt(repetition_penalty=0.0), "repetition_penalty"),
        (prompt(logit_bias={320: 1.0}), "logit_bias"),
        (prompt(logit_bias={1: 101.0}), "logit_bias"),
        (prompt(top_logprobs=1), "top_logprobs"),
        (prompt(json_schema="{"), "json_schema"),
        (prompt(json_schema='{"$ref": "#"}'), "json_schema"),
        (prompt(json_schema="1" * 65_537), "json_schema"),
        (prompt(adapter="unheard"), "adapter"),
        (prompt(keep_rate=0.0), "keep_rate"),
        (prompt(keep_rate=1.5), "keep_rate"),
        (prompt(keep_rate=float("nan")), "keep_rate"),
        (prompt(blocks=0), "blocks"),
        (prompt(blocks=3), "blocks"),
        (prompt(speech(0, 2, adapter="speech"), speech(0, 2, adapter="long_speech")), "speech_tokens.adapter"),
        (prompt(GenerateRequest(text="x" * 3000)), "messages"),
        (prompt(speech(0, 2049)), "messages"),
        (prompt(speech(0, 1025), speech(1, 1024)), "messages"),
        (prompt(speech(1, 2)), "speech_tokens.clip_index"),
        (prompt(speech(0, 2), speech(2, 2)), "speech_tokens.clip_index"),
        (prompt(speech(0, 2, width=8)), "speech_tokens.tokens.rows.shape"),
        (prompt(picture(2, 3, 4)), "vision_tokens.grid"),
    ],
)
async def test_bad_prompt_is_refused_by_field(client: Client, requests: list[GenerateRequest], field: str) -> None:
    refusal = await client.refusal(requests)
    assert isinstance(refusal, InvalidInput)
    assert refusal.field == field


async def test_text_over_the_limit_is_refused_while_it_arrives(start_service: StartService) -> None:
    client = Client(await start_service("language_model", max_prompt_text_bytes=1000))
    arrived = 0

    async def endless() -> AsyncIterator[GenerateRequest]:
        nonlocal arrived
        for request in prompt():
            yield request
        while True:
            arrived += 1
            yield GenerateRequest(text="x" * 100)

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        [event async for event in client.stub.Generate(endless())]
    assert isinstance(from_rpc_error("language_model", raised.value), InvalidInput)


async def test_incomplete_array_is_refused_with_what_is_missing(client: Client) -> None:
    first, _ = tensors.to_chunks(np.ones((4, WIDTH), np.float32), max_bytes=2 * WIDTH * 4)
    half = GenerateRequest(speech_tokens=common_pb2.SpeechTokens(tokens=first))
    refusal = await client.refusal(prompt(half, GenerateRequest(text="what?")))
    assert isinstance(refusal, InvalidInput)
    assert "2 rows arrived where 4 were announced" in refusal.message


async def test_message_over_the_limit_of_grpc_is_an_input_error(client: Client) -> None:
    channel_limit_off = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(client.service.address, options=channel_limit_off) as channel:
        stub = language_model_pb2_grpc.LanguageModelStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.CountTokens(language_model_pb2.CountTokensRequest(text="x" * (5 * 2**20)))
    assert isinstance(from_rpc_error("language_model", raised.value), InvalidInput)


async def test_a_disconnected_client_frees_the_model_for_the_next_request(start_service: StartService) -> None:
    client = Client(await start_service("language_model", max_running=1, max_waiting=0))
    for _ in range(20):
        call = client.call(prompt())
        await call.read()
        call.cancel()
        await client.idle()
    assert (await client.answer(prompt(max_tokens=1)))[-1].finish.usage.completion_tokens == 1
    assert telemetry.MODEL_RUNNING.labels("language_model")._value.get() == 0


async def test_deadline_stops_the_generation(client: Client) -> None:
    assert isinstance(await client.refusal(prompt(), deadline=0.05), DeadlineExceeded)
    await client.idle()


async def test_call_without_deadline_gets_the_default_of_the_service(start_service: StartService) -> None:
    client = Client(await start_service("language_model", default_deadline_seconds=0.05))
    refusal = await client.refusal(prompt())
    assert isinstance(refusal, DeadlineExceeded)
    assert "0.05 s" in refusal.message
    await client.idle()


async def test_full_queue_refuses_with_a_retry_delay(start_service: StartService) -> None:
    client = Client(await start_service("language_model", max_running=1, max_waiting=0))
    running = client.call(prompt())
    await running.read()
    refusal = await client.refusal(prompt(max_tokens=1))
    assert isinstance(refusal, Overloaded)
    assert refusal.retry_after_seconds >= 1
    running.cancel()
    await client.idle()


async def test_waiting_request_is_answered_when_its_turn_comes(client: Client) -> None:
    running = client.call(prompt(tenant="a"))
    await running.read()
    waiting = asyncio.create_task(client.answer(prompt(max_tokens=1, tenant="b")))
    running.cancel()
    assert (await waiting)[-1].HasField("finish")


async def test_tokens_are_counted_and_the_model_is_described(client: Client) -> None:
    counted = await client.stub.CountTokens(language_model_pb2.CountTokensRequest(text="four"))
    assert counted.tokens == 4
    description = await client.stub.Describe(language_model_pb2.LanguageModelDescribeRequest())
    assert description.model.preset == "tiny"
    assert description.model.token_width == WIDTH
    assert list(description.model.adapters) == ["speech", "vision"]
    assert description.context_tokens == 2048
    assert (description.max_blocks, description.blocks, description.keep_rate) == (2, 1, 1.0)
    assert description.window_tokens == 0


async def test_answer_follows_a_json_schema(client: Client) -> None:
    schema = json.dumps({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4})
    events = await client.answer(prompt(json_schema=schema, max_tokens=60, temperature=1.0, seed=2))
    value = json.loads("".join(event.text_delta.text for event in events))
    assert 2 <= len(value) <= 4
    assert all(isinstance(each, bool) for each in value)
