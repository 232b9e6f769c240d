"""Descriptions of services are cached, and never stale after a restart."""

import asyncio

import grpc
import pytest

from services.shared.pipeline import description_cache
from services.shared.pipeline.answer import answer
from services.shared.pipeline.clients import NAMES, ModelClients
from services.shared.pipeline.describe import (
    describe_language_model,
    describe_speech_encoder,
    describe_speech_synthesizer,
)
from services.shared.pipeline.messages import AnswerRequest, AudioPart, Message, Role, SpeechOptions, TextPart
from services.shared.service_errors import Unavailable
from tests.unit.pipeline.scripted import Script, scripted_services


@pytest.fixture(autouse=True)
def never_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disables expiry: only lost connections end a cached description, unless a test says otherwise."""
    monkeypatch.setattr(description_cache, "MAX_AGE_SECONDS", 3600.0)


async def adapters_of(clients: ModelClients) -> list[str]:
    return list((await describe_language_model(clients, "acme")).model.adapters)


async def test_a_service_is_described_once_for_many_requests(services: ModelClients, script: Script) -> None:
    await asyncio.gather(*(adapters_of(services) for _ in range(3)))
    await adapters_of(services)
    assert script.described == {"language_model": 1}


async def test_an_answer_with_speech_describes_each_service_once(services: ModelClients, script: Script) -> None:
    script.hidden_width = script.width
    script.projectors = script.adapters = ["speech", "long_speech"]
    recordings = tuple(AudioPart(data, "audio") for data in (b"one", b"two"))
    for _ in range(2):
        request = AnswerRequest(messages=(Message(Role.USER, recordings),), tenant="acme", speech=SpeechOptions(""))
        assert [event async for event in answer(services, request)]
    assert script.described == {"speech_encoder": 1, "language_model": 1, "speech_synthesizer": 1}


@pytest.mark.parametrize("channel", ["one address", "several replicas"])
async def test_a_service_restarted_with_another_model_is_described_again(channel: str) -> None:
    before, after = Script(), Script()
    before.adapters, after.adapters = ["speech"], ["speech", "meetings"]
    async with scripted_services(before) as address:
        target = address if channel == "one address" else f"{address},127.0.0.1:9"
        clients = ModelClients.open(dict.fromkeys(NAMES, target))
        assert await adapters_of(clients) == ["speech"]
    connection = clients.channels["language_model"]
    await connection.wait_for_state_change(grpc.ChannelConnectivity.READY)  # the client has noticed its end
    async with scripted_services(after, int(address.rpartition(":")[2])):
        await connection.channel_ready()
        assert await adapters_of(clients) == ["speech", "meetings"]
        await clients.close()
    assert before.described == after.described == {"language_model": 1}


async def test_an_error_is_raised_to_all_waiters_and_not_cached(services: ModelClients, script: Script) -> None:
    script.unavailable["describe_voices"] = 3  # on every attempt
    callers = [describe_speech_synthesizer(services, "acme") for _ in range(2)]
    assert [type(error) for error in await asyncio.gather(*callers, return_exceptions=True)] == [Unavailable] * 2
    assert (await describe_speech_synthesizer(services, "acme")).voices == ["joe"]


async def test_a_cancelled_caller_does_not_cancel_the_others(services: ModelClients) -> None:
    first, second = (asyncio.ensure_future(describe_speech_encoder(services, "acme")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is not None


async def test_changed_adapters_are_seen_once_the_cached_answer_expires(
    services: ModelClients, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await adapters_of(services) == []
    script.adapters = ["meetings"]
    assert await adapters_of(services) == []
    monkeypatch.setattr(description_cache, "MAX_AGE_SECONDS", 0.0)
    assert await adapters_of(services) == ["meetings"]


async def test_a_request_that_names_an_adapter_just_loaded_gets_its_projector(
    services: ModelClients, script: Script
) -> None:
    script.projectors = script.adapters = ["speech"]
    await describe_speech_encoder(services, "acme")
    script.projectors = script.adapters = ["speech", "meetings"]
    message = Message(Role.USER, (AudioPart(b"one", "audio"), TextPart("Who spoke?")))
    request = AnswerRequest(messages=(message,), tenant="acme", adapter="meetings")
    assert [event async for event in answer(services, request)]
    assert script.encoded == [(b"one", "meetings")]
