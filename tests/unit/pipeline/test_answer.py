import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from model_core.engine.sampling_params import SamplingParams
from services.shared.pipeline.answer import answer
from services.shared.pipeline.clients import ModelClients
from services.shared.pipeline.messages import (
    AnswerEvent,
    AnswerRequest,
    AudioChunk,
    AudioPart,
    Finished,
    ImagePart,
    Message,
    Part,
    Role,
    SpeechOptions,
    TextDelta,
    TextPart,
    Usage,
)
from services.shared.rpc.sampling_codec import from_header
from services.shared.service_errors import InvalidInput, Unavailable
from tests.unit.pipeline.scripted import Script


def request_with(*parts: Part, **options: Any) -> AnswerRequest:
    return AnswerRequest(messages=(Message(Role.USER, parts or (TextPart("Hello"),)),), tenant="acme", **options)


async def answered(services: ModelClients, request: AnswerRequest) -> list[AnswerEvent]:
    return [event async for event in answer(services, request)]


async def test_text_is_in_order_and_the_end_has_reason_and_usage(services: ModelClients, script: Script) -> None:
    sampling = SamplingParams(max_tokens=3, seed=7, stop=("x",))
    events = await answered(services, request_with(sampling=sampling, keep_rate=0.5, blocks=4))
    assert events == [
        *(TextDelta(word) for word in script.words),
        Finished("length", Usage(9, 2, 3, 4, "", (5, 4))),
    ]
    header = script.prompt[0].header
    assert from_header(header) == sampling
    assert (header.keep_rate, header.blocks, header.adapter, header.tenant) == (0.5, 4, "", "acme")
    assert script.tenants == {"acme"}


async def test_unset_options_are_left_to_the_preset(services: ModelClients, script: Script) -> None:
    await answered(services, request_with())
    header = script.prompt[0].header
    assert not header.HasField("keep_rate")
    assert not header.HasField("blocks")
    assert not header.hidden_states


async def test_parts_reach_the_prompt_in_order(services: ModelClients, script: Script) -> None:
    messages = (
        Message(Role.SYSTEM, (TextPart("Be brief."),)),
        Message(Role.USER, (ImagePart(b"picture"), TextPart("What?"), AudioPart(b"sound"))),
    )
    await answered(services, AnswerRequest(messages=messages, tenant="acme"))
    kinds = [request.WhichOneof("part") for request in script.prompt]
    assert kinds == [
        "header", "message_start", "text", "message_start", "vision_tokens", "text", "speech_tokens", "speech_tokens",
    ]  # fmt: skip
    assert sorted(script.uploads) == [b"picture", b"sound"]


async def test_parts_are_encoded_concurrently(services: ModelClients, script: Script) -> None:
    script.encoding_together = asyncio.Barrier(3)
    events = await answered(services, request_with(AudioPart(b"a"), ImagePart(b"b"), AudioPart(b"c")))
    assert isinstance(events[-1], Finished)


async def test_large_uploads_are_sent_in_chunks(services: ModelClients, script: Script) -> None:
    data = bytes(range(256)) * 40_000
    await answered(services, request_with(AudioPart(data)))
    assert script.uploads == [data]


async def test_speech_arrives_while_the_text_is_still_being_generated(services: ModelClients, script: Script) -> None:
    script.before_last_word.clear()
    seen: list[AnswerEvent] = []
    async for event in answer(services, request_with(speech=SpeechOptions("joe"))):
        seen.append(event)
        if isinstance(event, AudioChunk):
            script.before_last_word.set()
    kinds = [type(event) for event in seen]
    last_text = len(kinds) - 1 - kinds[::-1].index(TextDelta)
    assert kinds.index(AudioChunk) < last_text
    assert kinds[-1] is Finished
    assert script.spoken == script.words
    assert kinds.count(AudioChunk) == len(script.words)


async def test_without_speech_nothing_is_synthesized(services: ModelClients, script: Script) -> None:
    await answered(services, request_with())
    assert set(script.calls) == {"generate"}


async def test_abandoning_an_answer_cancels_every_call(services: ModelClients, script: Script) -> None:
    script.before_finish.clear()
    async with aclosing(answer(services, request_with(speech=SpeechOptions()))) as events:
        async for event in events:
            if isinstance(event, AudioChunk):
                break
    await script.wait_ended("generate", "synthesize")


async def test_cancelling_while_parts_are_encoded_cancels_the_encoders(services: ModelClients, script: Script) -> None:
    script.encoding_together = asyncio.Barrier(3)  # two come, so they wait
    task = asyncio.create_task(answered(services, request_with(AudioPart(b"a"), ImagePart(b"b"))))
    await script.wait_uploads(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await script.wait_ended("encode_speech", "encode_image", "generate")


async def test_bad_audio_is_named_by_its_path_in_the_request(services: ModelClients, script: Script) -> None:
    script.invalid["encode_speech"] = InvalidInput("audio", "cannot be decoded")
    path = "messages[0].content[1].input_audio.data"
    with pytest.raises(InvalidInput) as caught:
        await answered(services, request_with(TextPart("?"), AudioPart(b"a", path)))
    assert (caught.value.field, caught.value.message) == (path, "cannot be decoded")


async def test_bad_options_are_named_as_in_the_request(services: ModelClients, script: Script) -> None:
    script.invalid["generate"] = InvalidInput("max_tokens", "9 is over the limit of 8")
    with pytest.raises(InvalidInput) as caught:
        await answered(services, request_with(paths={"max_tokens": "max_completion_tokens"}))
    assert caught.value.field == "max_completion_tokens"


async def test_an_unknown_voice_is_refused_before_any_text(services: ModelClients, script: Script) -> None:
    with pytest.raises(InvalidInput, match="joe"):
        await answered(services, request_with(speech=SpeechOptions("nobody")))
    assert "generate" not in script.calls


@pytest.mark.parametrize("call", ["encode_speech", "generate", "describe_voices"])
async def test_a_call_to_a_restarting_service_is_retried(services: ModelClients, script: Script, call: str) -> None:
    script.unavailable[call] = 1
    events = await answered(services, request_with(AudioPart(b"a"), speech=SpeechOptions()))
    assert isinstance(events[-1], Finished)
    assert script.calls[call] == 2


@pytest.mark.parametrize("call", ["generate", "synthesize"])
async def test_nothing_is_retried_once_text_or_audio_has_arrived(
    services: ModelClients, script: Script, call: str
) -> None:
    script.breaks = call
    with pytest.raises(Unavailable):
        await answered(services, request_with(speech=SpeechOptions()))
    assert script.calls[call] == 1


async def test_unavailable_services_are_named(unreachable: ModelClients) -> None:
    with pytest.raises(Unavailable) as caught:
        await answered(unreachable, request_with())
    assert caught.value.service == "language_model"
    with pytest.raises(Unavailable) as caught:
        await answered(unreachable, request_with(speech=SpeechOptions()))
    assert caught.value.service == "speech_synthesizer"


async def test_a_slow_reader_applies_backpressure_to_the_language_model(services: ModelClients, script: Script) -> None:
    script.words = [str(number) * 50_000 for number in range(400)]
    async with aclosing(answer(services, request_with())) as events:
        await anext(events)
        await asyncio.sleep(0.1)
    await script.wait_ended("generate")
