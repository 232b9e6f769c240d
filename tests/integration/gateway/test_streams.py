"""Timing of streams: the services are scripted, gRPC and HTTP are real."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from services.shared.pipeline.clients import NAMES
from services.shared.service_errors import Overloaded, Unavailable
from tests.integration.gateway.conftest import Gateway, StartGateway, until
from tests.unit.pipeline.scripted import Script, scripted_services

QUESTION: Any = {"model": "lyra-tiny", "messages": [{"role": "user", "content": "Hi"}]}
SPOKEN: Any = {**QUESTION, "modalities": ["text", "audio"], "audio": {"voice": "joe", "format": "pcm16"}}


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def addresses(script: Script) -> AsyncIterator[dict[str, str]]:
    async with scripted_services(script) as address:
        yield dict.fromkeys(NAMES, address)


@pytest.fixture
async def scripted(addresses: dict[str, str], start_gateway: StartGateway) -> Gateway:
    return await start_gateway(addresses)


async def idle(gateway: Gateway) -> None:
    async def nothing_runs() -> bool:
        return await gateway.running() == 0

    await until(nothing_runs)


async def test_audio_arrives_before_the_last_text(scripted: Gateway, script: Script) -> None:
    script.before_last_word.clear()
    stream = await scripted.openai.chat.completions.create(**SPOKEN, stream=True)
    kinds = []
    async for chunk in stream:
        audio = chunk.choices[0].delta.audio
        if audio is not None and audio.data:
            kinds.append("sound")
            script.before_last_word.set()  # the last word is generated only now
        elif audio is not None and audio.transcript:
            kinds.append("text")
    assert kinds.index("sound") < len(kinds) - 1 - kinds[::-1].index("text")


@pytest.mark.parametrize("body", [QUESTION, SPOKEN])
async def test_disconnecting_from_a_stream_cancels_the_work(
    scripted: Gateway, script: Script, body: dict[str, Any]
) -> None:
    script.before_finish.clear()
    async with scripted.http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
        await anext(response.aiter_lines())
        assert await scripted.running() == 1
    await script.wait_ended("generate")
    await idle(scripted)


async def test_disconnecting_before_the_response_cancels_the_work(scripted: Gateway, script: Script) -> None:
    script.before_finish.clear()
    waiting = asyncio.create_task(scripted.http.post("/v1/chat/completions", json=SPOKEN))
    await script.wait_spoken()
    waiting.cancel()
    await script.wait_ended("generate", "synthesize")
    await idle(scripted)


async def test_many_disconnecting_clients_leave_nothing_behind(scripted: Gateway, script: Script) -> None:
    script.before_finish.clear()

    async def leave() -> None:
        async with scripted.http.stream("POST", "/v1/chat/completions", json={**SPOKEN, "stream": True}) as response:
            await anext(response.aiter_lines())

    for _ in range(5):
        await asyncio.gather(*(leave() for _ in range(20)))
    await idle(scripted)
    await script.wait_ended(*["generate"] * 100)


async def test_an_error_during_the_stream_is_its_last_event(scripted: Gateway, script: Script) -> None:
    script.unavailable["synthesize"] = 9  # fails when the first word is spoken, after the text has begun
    async with scripted.http.stream("POST", "/v1/chat/completions", json={**SPOKEN, "stream": True}) as response:
        assert response.status_code == 200
        lines = [line async for line in response.aiter_lines() if line]
    error = json.loads(lines[-1].removeprefix("data: "))["error"]
    assert (error["type"], error["code"]) == ("server_error", "service_unavailable")


async def test_the_openai_client_raises_an_error_sent_in_the_stream(scripted: Gateway, script: Script) -> None:
    script.unavailable["synthesize"] = 9  # more failures than attempts
    stream = await scripted.openai.chat.completions.create(**SPOKEN, stream=True)
    with pytest.raises(openai.APIError, match="speech synthesizer"):
        [chunk async for chunk in stream]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [(Unavailable("language_model", "is loading"), 503), (Overloaded("the queue is full", 2.2), 429)],
)
async def test_an_error_before_the_first_text_has_its_own_status(
    scripted: Gateway, script: Script, error: Any, status: int, stream: bool
) -> None:
    script.invalid["generate"] = error
    with pytest.raises(openai.APIStatusError) as caught:
        await scripted.openai.chat.completions.create(**QUESTION, stream=stream)
    assert caught.value.status_code == status
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert caught.value.type == ("server_error" if status == 503 else "rate_limit_error")


async def test_requests_over_the_limit_get_a_retry_after(
    addresses: dict[str, str], start_gateway: StartGateway, script: Script
) -> None:
    gateway = await start_gateway(addresses, max_running=1)
    script.before_finish.clear()
    async with gateway.http.stream("POST", "/v1/chat/completions", json={**QUESTION, "stream": True}) as first:
        assert first.status_code == 200
        with pytest.raises(openai.RateLimitError) as caught:
            await gateway.openai.chat.completions.create(**QUESTION)
        assert caught.value.response.headers["retry-after"] == "1"
        assert (await gateway.openai.models.list()).data
    await idle(gateway)
    script.before_finish.set()
    assert (await gateway.openai.chat.completions.create(**QUESTION)).choices[0].message.content == "One two three."


async def test_the_tenant_of_the_key_reaches_the_services(scripted: Gateway, script: Script) -> None:
    await scripted.openai.chat.completions.create(**QUESTION)
    assert script.tenants == {"acme"}


async def test_a_transcript_streams_its_segments(scripted: Gateway) -> None:
    stream = await scripted.openai.audio.transcriptions.create(model="lyra-tiny", file=("a.wav", b"sound"), stream=True)
    events: list[Any] = [event async for event in stream]
    assert [event.type for event in events] == ["transcript.text.delta"] * 3 + ["transcript.text.done"]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == "One two three."
