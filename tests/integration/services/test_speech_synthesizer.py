"""The speech synthesizer service over a real socket, preset tiny."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import numpy as np
import pytest

from lyra.v1 import speech_synthesizer_pb2 as pb
from lyra.v1 import speech_synthesizer_pb2_grpc
from model_core.speech.unit_voice import UnitVoice
from model_core.speech.voice import TinyVoice
from services.shared import telemetry
from services.shared.rpc import tensors
from services.shared.rpc.tensors import Array
from services.shared.service_errors import InvalidInput, Overloaded, from_rpc_error
from tests.conftest import RunningService, StartService, until

TEXT = ["The sky is blue, ", "and the sea", " is green. ", "The end."]


def header(**values: object) -> pb.SynthesizeRequest:
    return pb.SynthesizeRequest(header=pb.SynthesizeRequest.Header(**values))  # type: ignore[arg-type]


class Client:
    """Calls a speech synthesizer service."""

    def __init__(self, service: RunningService) -> None:
        self.stub = speech_synthesizer_pb2_grpc.SpeechSynthesizerStub(service.channel)

    async def speak(self, deltas: list[str], **values: object) -> list[pb.SynthesizeResponse]:
        return await self.send([pb.SynthesizeRequest(text_delta=delta) for delta in deltas], **values)

    async def speak_hidden(self, *hidden: Array, **values: object) -> bytes:
        """The complete audio for hidden states that are sent in chunks."""
        requests = [pb.SynthesizeRequest(hidden_states=tensors.to_message(each)) for each in hidden]
        return b"".join(response.audio.pcm for response in await self.send(requests, **values))

    async def send(self, parts: list[pb.SynthesizeRequest], **values: object) -> list[pb.SynthesizeResponse]:
        async def requests() -> AsyncIterator[pb.SynthesizeRequest]:
            yield header(**values)
            for part in parts:
                yield part

        try:
            return [response async for response in self.stub.Synthesize(requests())]
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error("speech_synthesizer", error) from error


@pytest.fixture
async def client(start_service: StartService) -> Client:
    return Client(await start_service("speech_synthesizer"))


async def test_text_becomes_audio(client: Client) -> None:
    description = await client.stub.Describe(pb.SpeechSynthesizerDescribeRequest())
    chunks = [response.audio for response in await client.speak(TEXT)]
    assert {chunk.sample_rate for chunk in chunks} == {description.sample_rate}
    assert sum(len(chunk.pcm) for chunk in chunks) > description.sample_rate
    assert all(len(chunk.pcm) % 2 == 0 for chunk in chunks)


async def test_audio_arrives_before_the_text_has_ended(client: Client) -> None:
    call = cast(Any, client.stub).Synthesize()
    await call.write(header())
    await call.write(pb.SynthesizeRequest(text_delta="This clause is whole now. And this"))
    first = await call.read()
    assert isinstance(first, pb.SynthesizeResponse)
    assert first.audio.pcm
    await call.done_writing()
    assert isinstance(await call.read(), pb.SynthesizeResponse)


async def test_text_without_words_is_silent(client: Client) -> None:
    assert await client.speak([]) == []


@pytest.mark.parametrize(
    ("values", "field"), [({"voice": "nobody"}, "voice"), ({"speed": 9.0}, "speed"), ({"speed": -1.0}, "speed")]
)
async def test_an_invalid_voice_or_speed_is_refused_by_field(
    client: Client, values: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        await client.speak(TEXT, **values)
    assert refusal.value.field == field


async def test_text_over_the_limit_is_refused_with_the_limit(start_service: StartService) -> None:
    client = Client(await start_service("speech_synthesizer", max_text_characters=10))
    with pytest.raises(InvalidInput, match="limit of 10 characters"):
        await client.speak(["12345678901"])


async def test_streams_over_the_limit_are_refused_and_closed_streams_free_their_slot(
    start_service: StartService,
) -> None:
    client = Client(await start_service("speech_synthesizer", max_streams=1, max_waiting=0))
    call = cast(Any, client.stub).Synthesize()
    await call.write(header())
    await call.write(pb.SynthesizeRequest(text_delta="This clause is whole now. And this"))
    await call.read()
    with pytest.raises(Overloaded):
        await client.speak(TEXT)
    call.cancel()
    running = telemetry.MODEL_RUNNING.labels("speech_synthesizer")
    await until(lambda: running._value.get() == 0)
    assert await client.speak(TEXT)


HIDDEN_WIDTH = 32
HIDDEN = np.random.default_rng(0).standard_normal((9, HIDDEN_WIDTH)).astype(np.float32)


@pytest.fixture
async def hidden_client(start_service: StartService) -> Client:
    """A client of a voice that speaks from hidden states."""
    return Client(await start_service("speech_synthesizer", preset="tiny-qwen2-vl", max_answer_tokens=20))


async def test_chunked_hidden_states_give_the_same_audio_as_one_message(hidden_client: Client) -> None:
    description = await hidden_client.stub.Describe(pb.SpeechSynthesizerDescribeRequest())
    assert description.hidden_width == HIDDEN_WIDTH
    whole = np.frombuffer(await hidden_client.speak_hidden(HIDDEN), np.int16)
    pieces = np.frombuffer(await hidden_client.speak_hidden(HIDDEN[:1], HIDDEN[1:4], HIDDEN[4:]), np.int16)
    assert len(whole) > 0
    np.testing.assert_allclose(pieces, whole, atol=4)  # of 32,767: 1e-4 of full scale


@pytest.mark.parametrize(
    ("hidden", "field"),
    [
        (HIDDEN[:, :8], "hidden_states.shape"),
        (HIDDEN[0], "hidden_states.shape"),
        (np.full_like(HIDDEN, np.nan), "hidden_states.data"),
        (np.zeros((21, HIDDEN_WIDTH), np.float32), "hidden_states"),
    ],
)
async def test_bad_hidden_states_are_refused_and_later_calls_succeed(
    hidden_client: Client, hidden: Array, field: str
) -> None:
    before = await hidden_client.speak_hidden(HIDDEN)
    with pytest.raises(InvalidInput) as refusal:
        await hidden_client.speak_hidden(HIDDEN, hidden)
    assert refusal.value.field == field
    assert await hidden_client.speak_hidden(HIDDEN) == before


async def test_a_voice_refuses_the_other_kind_of_input(client: Client, hidden_client: Client) -> None:
    with pytest.raises(InvalidInput, match="hidden_states"):
        await hidden_client.speak(TEXT)
    with pytest.raises(InvalidInput, match="text_delta"):
        await client.speak_hidden(HIDDEN)


TINY_HIDDEN = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)


async def test_each_of_two_voices_takes_its_own_kind_of_input(client: Client) -> None:
    description = await client.stub.Describe(pb.SpeechSynthesizerDescribeRequest())
    widths = {each.name: each.hidden_width for each in description.voice_descriptions}
    assert (list(description.voices), widths) == (["tiny", "tiny-hidden"], {"tiny": 0, "tiny-hidden": 16})
    assert description.hidden_width == 0
    assert await client.speak_hidden(TINY_HIDDEN, voice="tiny-hidden")
    assert await client.speak(TEXT, voice="tiny") == await client.speak(TEXT)
    with pytest.raises(InvalidInput, match="hidden_states"):
        await client.speak(TEXT, voice="tiny-hidden")
    with pytest.raises(InvalidInput, match="text_delta"):
        await client.speak_hidden(TINY_HIDDEN, voice="tiny")


async def test_concurrent_answers_from_hidden_states_share_batches_and_sound_as_alone(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, step = [], UnitVoice.step

    def counted(voice: UnitVoice, states: list[Any], hidden: list[Any], last: list[bool]) -> list[Any]:
        sizes.append(len(states))
        return step(voice, states, hidden, last)

    monkeypatch.setattr(UnitVoice, "step", counted)
    client = Client(await start_service("speech_synthesizer", preset="tiny-qwen2-vl", gather_milliseconds=500))
    answers = [HIDDEN[:5], HIDDEN[3:], HIDDEN[::2]]
    tokens = [[answer[at : at + 1] for at in range(len(answer))] for answer in answers]
    alone = [await client.speak_hidden(*each) for each in tokens]
    assert set(sizes) == {1}
    together = await asyncio.gather(*(client.speak_hidden(*each) for each in tokens))
    assert max(sizes) > 1
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(np.frombuffer(other, np.int16), np.frombuffer(one, np.int16), atol=4)


async def test_long_text_delays_the_first_clause_of_another_by_one_clause_at_most(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    clauses, may_speak, speak = list[str](), threading.Semaphore(0), TinyVoice.speak_clause

    def gated(voice: TinyVoice, clause: str, *, speed: float = 1.0) -> Any:
        clauses.append(clause)
        may_speak.acquire(timeout=10)
        return speak(voice, clause, speed=speed)

    monkeypatch.setattr(TinyVoice, "speak_clause", gated)
    client = Client(await start_service("speech_synthesizer", max_clauses=1))
    long = [asyncio.create_task(client.speak(["This is one sentence of many. " * 5])) for _ in range(3)]
    await until(lambda: len(clauses) == 1)
    may_speak.release(3)
    await until(lambda: len(clauses) == 4)  # every one of them has begun
    short = asyncio.create_task(client.speak(["Hello ", "there, ", "all of you!"]))
    await asyncio.sleep(0.1)  # it waits for its turn by now
    may_speak.release(100)
    await asyncio.gather(short, *long)
    assert clauses.index("Hello there,") == 4
