"""All speech of a request is encoded by one projector: that of the adapter that will read it."""

import pytest

from services.shared.pipeline.answer import answer
from services.shared.pipeline.clients import ModelClients
from services.shared.pipeline.messages import AnswerRequest, AudioPart, Message, Role
from tests.unit.pipeline.scripted import Script

BOTH = ["speech", "long_speech"]


async def adapters_of(services: ModelClients, script: Script, *recordings: bytes, adapter: str = "") -> set[str]:
    """Answers a prompt with these recordings; returns the adapters whose projectors encoded it."""
    parts = tuple(AudioPart(data) for data in recordings)
    request = AnswerRequest(messages=(Message(Role.USER, parts),), tenant="acme", adapter=adapter)
    [event async for event in answer(services, request)]
    tokens = [each.speech_tokens for each in script.prompt if each.WhichOneof("part") == "speech_tokens"]
    assert len(tokens) == sum(script.clips[data] for data in recordings)
    return {each.adapter for each in tokens}


@pytest.fixture(autouse=True)
def _clips(script: Script) -> None:
    script.clips = {b"short": 1, b"brief": 1, b"long": 3}
    script.projectors = script.adapters = BOTH


@pytest.mark.parametrize(("recording", "adapter"), [(b"short", "speech"), (b"long", "long_speech")])
async def test_one_recording_is_encoded_once_by_the_adapter_for_its_length(
    services: ModelClients, script: Script, recording: bytes, adapter: str
) -> None:
    assert await adapters_of(services, script, recording) == {adapter}
    assert script.encoded == [(recording, adapter)]


async def test_several_short_recordings_use_long_speech(services: ModelClients, script: Script) -> None:
    assert await adapters_of(services, script, b"short", b"brief") == {"long_speech"}
    assert len(script.encoded) == 2


async def test_a_short_recording_with_a_long_one_uses_long_speech(services: ModelClients, script: Script) -> None:
    assert await adapters_of(services, script, b"short", b"long") == {"long_speech"}


@pytest.mark.parametrize("lacking", ["projectors", "adapters"])
async def test_if_one_service_lacks_long_speech_both_use_speech(
    services: ModelClients, script: Script, lacking: str
) -> None:
    setattr(script, lacking, ["speech"])
    assert await adapters_of(services, script, b"short", b"long") == {"speech"}
    assert await adapters_of(services, script, b"long") == {"speech"}


async def test_a_named_adapter_uses_its_own_projector(services: ModelClients, script: Script) -> None:
    assert await adapters_of(services, script, b"long", adapter="speech") == {"speech"}
    assert script.prompt[0].header.adapter == "speech"


async def test_a_named_adapter_without_projector_leaves_the_choice_to_the_clips(
    services: ModelClients, script: Script
) -> None:
    assert await adapters_of(services, script, b"short", b"long", adapter="base") == {"long_speech"}
    assert script.prompt[0].header.adapter == "base"
