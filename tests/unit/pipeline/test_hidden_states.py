"""Hidden-state voices get the answer's hidden states, other voices its text."""

import asyncio

import pytest

from services.shared.pipeline.answer import answer
from services.shared.pipeline.clients import ModelClients
from services.shared.pipeline.messages import (
    AnswerEvent,
    AnswerRequest,
    AudioChunk,
    Finished,
    Message,
    Role,
    SpeechOptions,
    TextDelta,
    TextPart,
)
from services.shared.pipeline.speak import speak
from services.shared.service_errors import Failed, InvalidInput
from tests.unit.pipeline.scripted import Script


async def spoken(services: ModelClients, voice: str = "") -> list[AnswerEvent]:
    messages = (Message(Role.USER, (TextPart("Hello"),)),)
    request = AnswerRequest(messages=messages, tenant="acme", speech=SpeechOptions(voice), keep_rate=0.7)
    return [event async for event in answer(services, request)]


async def test_hidden_states_go_to_the_voice_and_text_goes_to_the_caller(
    services: ModelClients, script: Script
) -> None:
    script.hidden_width = script.width = 3
    script.words = ["One ", "", "three."]
    events = await spoken(services)
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["One ", "three."]
    assert script.spoken == [[[number] * 3] for number in range(3)]
    assert sum(isinstance(event, AudioChunk) for event in events) == 3
    assert isinstance(events[-1], Finished)


async def test_a_text_voice_gets_no_hidden_states(services: ModelClients, script: Script) -> None:
    await spoken(services)
    assert script.spoken == script.words
    assert not script.prompt[0].header.hidden_states


async def test_an_answer_refused_by_one_voice_is_spoken_completely_by_the_next(
    services: ModelClients, script: Script
) -> None:
    script.unavailable["synthesize"] = 1
    script.before_last_word.clear()
    speaking = asyncio.create_task(spoken(services))
    while script.calls.get("synthesize", 0) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    script.before_last_word.set()
    assert isinstance((await speaking)[-1], Finished)
    assert script.spoken == script.words


async def test_a_voice_for_another_model_is_refused_before_any_text(services: ModelClients, script: Script) -> None:
    script.hidden_width = 5
    with pytest.raises(Failed, match=r"expects hidden states of width 5, .* has width 2"):
        await spoken(services)
    assert "generate" not in script.calls


async def test_a_given_text_cannot_be_spoken_from_hidden_states(services: ModelClients, script: Script) -> None:
    script.hidden_width = script.width
    with pytest.raises(InvalidInput) as caught:
        [chunk async for chunk in speak(services, "Hello", SpeechOptions(), "acme")]
    assert caught.value.field == "input"
    assert "synthesize" not in script.calls


async def test_the_requested_voice_determines_its_input(services: ModelClients, script: Script) -> None:
    script.more_voices, script.width = {"nano": 3}, 3
    await spoken(services)
    assert script.spoken == script.words
    script.spoken.clear()
    await spoken(services, "nano")
    assert script.spoken == [[[number] * 3] for number in range(len(script.words))]


async def test_a_given_text_is_read_by_the_first_text_voice(services: ModelClients, script: Script) -> None:
    script.hidden_width = script.width = 3
    script.more_voices = {"reader": 0, "other": 0}
    assert [chunk async for chunk in speak(services, "Hello", SpeechOptions(), "acme")]
    assert script.spoken == ["Hello"]
    assert script.voice == "reader"


async def test_a_hidden_state_voice_for_a_text_is_refused_listing_text_voices(
    services: ModelClients, script: Script
) -> None:
    script.more_voices = {"nano": 3}
    with pytest.raises(InvalidInput, match="voices for text: joe") as caught:
        [chunk async for chunk in speak(services, "Hello", SpeechOptions("nano"), "acme")]
    assert caught.value.field == "voice"
    assert "synthesize" not in script.calls
