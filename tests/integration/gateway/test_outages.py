from typing import Any

import openai
import pytest

from services.shared.pipeline.clients import NAMES
from tests.conftest import StartService
from tests.integration.gateway.conftest import StartGateway, until, wav
from tests.integration.gateway.test_chat import audio_part, image_part


def question() -> dict[str, Any]:
    content = [audio_part(wav(1.0)), image_part()]
    messages = [{"role": "user", "content": content}]
    return {"model": "lyra-tiny", "messages": messages, "max_tokens": 2, "modalities": ["text", "audio"]}


@pytest.mark.parametrize("name", NAMES)
async def test_the_gateway_recovers_after_a_service_restarts(
    start_service: StartService, start_gateway: StartGateway, name: str
) -> None:
    running = {each: await start_service(each) for each in NAMES}
    gateway = await start_gateway({each: service.address for each, service in running.items()})
    assert (await gateway.openai.chat.completions.create(**question())).choices
    await running[name].server.drain()
    with pytest.raises(openai.InternalServerError) as caught:
        await gateway.openai.chat.completions.create(**question())
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"]
    assert name.replace("_", " ") in caught.value.message
    readiness = await gateway.http.get("/readyz")
    assert readiness.status_code == 503
    assert readiness.json()["services"][name] == "UNREACHABLE"

    await start_service(name, port=running[name].server.port)

    async def ready() -> bool:
        return (await gateway.http.get("/readyz")).status_code == 200

    await until(ready)
    assert (await gateway.openai.chat.completions.create(**question())).choices


async def test_a_gateway_is_ready_without_services_that_may_be_scaled_to_zero(
    start_gateway: StartGateway, tiny_addresses: dict[str, str]
) -> None:
    addresses = {**tiny_addresses, "vision_encoder": "127.0.0.1:9", "speech_synthesizer": "127.0.0.1:9"}
    gateway = await start_gateway(addresses, ready_without="vision_encoder, speech_synthesizer")
    readiness = await gateway.http.get("/readyz")
    assert readiness.status_code == 200
    assert readiness.json()["services"]["vision_encoder"] == "UNREACHABLE"
    needed = await start_gateway(addresses, ready_without="vision_encoder")
    assert (await needed.http.get("/readyz")).status_code == 503
