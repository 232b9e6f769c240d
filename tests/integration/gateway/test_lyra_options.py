"""Options under `lyra`, through real services of preset tiny-qwen2-vl: every part of the method in miniature."""

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import openai
import pytest

from services.operations.local.stack import SERVICES
from services.shared.pipeline.adapter_admin import AdapterClients
from tests.adapters import write_adapter
from tests.callers import shows, token
from tests.conftest import StartService
from tests.integration.gateway.conftest import Gateway, StartGateway, picture, wav

PRESET = "tiny-qwen2-vl"
LAYERS = 4


@pytest.fixture
async def addresses(start_service: StartService, tmp_path: Path) -> dict[str, str]:
    """host:port of all four services, running in this process."""
    operator = token(tmp_path)
    running = [await start_service(name, preset=PRESET, operator_token_file=operator) for name in SERVICES]
    return {name: service.address for name, service in zip(SERVICES, running, strict=True)}


@pytest.fixture
async def gateway(start_gateway: StartGateway, addresses: dict[str, str]) -> Gateway:
    return await start_gateway(addresses, preset=PRESET)


@pytest.fixture
async def adapters(addresses: dict[str, str], tmp_path: Path) -> AsyncIterator[AdapterClients]:
    """Adapters of the same services; `meetings` can be loaded."""
    write_adapter(tmp_path / "adapters" / "meetings", PRESET)
    opened = AdapterClients.open(addresses, shows(token(tmp_path)))
    yield opened
    await opened.close()


def audio_part(seconds: float) -> dict[str, Any]:
    data = base64.b64encode(wav(seconds)).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def question(*parts: dict[str, Any], **lyra: Any) -> dict[str, Any]:
    content = [*parts, {"type": "text", "text": "What is said?"}]
    body = {"model": f"lyra-{PRESET}", "messages": [{"role": "user", "content": content}], "max_tokens": 8}
    return body | ({"extra_body": {"lyra": lyra}} if lyra else {})


async def ask(gateway: Gateway, *parts: dict[str, Any], **lyra: Any) -> tuple[str, dict[str, Any]]:
    """The answer, and `usage.lyra`."""
    answer = await gateway.openai.chat.completions.create(**question(*parts, **lyra))
    assert answer.usage is not None
    return answer.choices[0].message.content or "", answer.usage.model_dump()["lyra"]


async def test_the_extractor_shrinks_the_context_at_every_block(gateway: Gateway) -> None:
    recording = audio_part(20)
    text, plain = await ask(gateway, recording)
    seen = plain["context_tokens"][0]
    assert set(plain["context_tokens"]) == {seen}
    other, extracted = await ask(gateway, recording, keep_rate=0.7, blocks=4)
    expected = [seen]
    for _ in range(3):
        expected.append(expected[-1] * 7 // 10)
    assert extracted == {"adapter": "speech", "context_tokens": expected}
    assert text
    assert other


async def test_streamed_and_complete_answers_are_the_same(gateway: Gateway) -> None:
    body = question(audio_part(20), keep_rate=0.5, blocks=2)
    whole = await gateway.openai.chat.completions.create(**body)
    stream = await gateway.openai.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == (
        whole.choices[0].message.content
    )
    first, second = whole.usage.model_dump(), chunks[-1].usage.model_dump()
    cached = [usage["prompt_tokens_details"].pop("cached_tokens") for usage in (first, second)]
    assert cached[0] < cached[1]
    assert first == second


async def test_pictures_and_speech_are_extracted_together(gateway: Gateway) -> None:
    image = base64.b64encode(picture(size=(224, 168))).decode()
    shown = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
    answer = await gateway.openai.chat.completions.create(**question(shown, audio_part(10), keep_rate=0.5, blocks=3))
    assert answer.usage is not None
    details = answer.usage.prompt_tokens_details
    assert details is not None
    first, second, third = answer.usage.model_dump()["lyra"]["context_tokens"]
    assert first == (details.audio_tokens or 0) + details.model_dump()["image_tokens"]
    assert (second, third) == (first // 2, first // 2 // 2)


async def test_a_prompt_without_context_is_not_extracted(gateway: Gateway) -> None:
    plain = await ask(gateway)
    assert await ask(gateway, keep_rate=0.5, blocks=4) == (plain[0], {"adapter": "base", "context_tokens": [0] * 4})


async def test_several_clips_use_the_long_speech_adapter(gateway: Gateway) -> None:
    assert (await ask(gateway, audio_part(3)))[1]["adapter"] == "speech"
    assert (await ask(gateway, audio_part(3), audio_part(4)))[1]["adapter"] == "long_speech"
    assert (await ask(gateway, audio_part(31)))[1]["adapter"] == "long_speech"
    assert (await ask(gateway, audio_part(31), adapter="speech"))[1]["adapter"] == "speech"
    assert (await ask(gateway, audio_part(3), adapter="base"))[1]["adapter"] == "base"


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"keep_rate": 0}, "lyra.keep_rate", "greater than 0"),
    ({"keep_rate": 1.5}, "lyra.keep_rate", "less than or equal to 1"),
    ({"blocks": 0}, "lyra.blocks", "greater than or equal to 1"),
    ({"blocks": LAYERS + 1}, "lyra.blocks", f"{LAYERS}"),
    ({"adapter": "unheard"}, "lyra.adapter", "base, long_speech, speech"),
    ({"adapter": "../speech"}, "lyra.adapter", "pattern"),
    ({"keep": 0.5}, "lyra.keep", "not a known parameter"),
]


async def test_bad_values_are_refused_by_name_and_change_nothing(gateway: Gateway) -> None:
    recording = audio_part(3)
    before = await ask(gateway, recording)
    for lyra, param, limit in BAD:
        with pytest.raises(openai.BadRequestError) as refusal:
            await ask(gateway, recording, **lyra)
        assert refusal.value.param == param
        assert limit in refusal.value.message
    assert await ask(gateway, recording) == before
    assert (await gateway.http.get("/readyz")).status_code == 200


async def test_the_model_reports_the_limits_of_its_options(gateway: Gateway) -> None:
    model = (await gateway.http.get(f"/v1/models/lyra-{PRESET}")).json()
    assert sorted(model["lyra"].pop("adapters")) == ["long_speech", "speech"]
    assert model["lyra"] == {"context_tokens": 8192, "max_blocks": LAYERS, "keep_rate": 1.0, "blocks": 4}


async def test_adapters_are_loaded_and_unloaded_between_requests(gateway: Gateway, adapters: AdapterClients) -> None:
    recording = audio_part(3)
    expected = await ask(gateway, recording)

    async def keep_asking() -> None:
        for _ in range(4):
            assert await ask(gateway, recording) == expected

    async with asyncio.TaskGroup() as group:
        group.create_task(keep_asking())
        group.create_task(keep_asking())
        await adapters.load("meetings")
        text, told = await ask(gateway, recording, adapter="meetings", keep_rate=0.5, blocks=2)
        assert told["adapter"] == "meetings"
        assert text != expected[0]
        await adapters.unload("meetings")
        with pytest.raises(openai.BadRequestError) as refusal:
            await ask(gateway, recording, adapter="meetings")
        assert refusal.value.param == "lyra.adapter"


@pytest.mark.parametrize("path", ["/v1/adapters", "/v1/adapters/meetings", "/lyra.v1.Adapters/ListAdapters"])
async def test_no_api_key_may_load_adapters(gateway: Gateway, path: str) -> None:
    assert (await gateway.http.get(path)).status_code == 404
    assert (await gateway.http.post(path, json={"name": "meetings"})).status_code == 404


async def test_an_answer_is_spoken_from_hidden_states_with_the_extractor_enabled(gateway: Gateway) -> None:
    body = question(audio_part(20), keep_rate=0.7, blocks=4)
    wanted: Any = {"modalities": ["text", "audio"], "audio": {"voice": "", "format": "wav"}}
    written = await gateway.openai.chat.completions.create(**body)
    spoken = await gateway.openai.chat.completions.create(**body, **wanted)
    audio = spoken.choices[0].message.audio
    assert audio is not None
    assert audio.transcript == written.choices[0].message.content
    with av.open(io.BytesIO(base64.b64decode(audio.data)), "r") as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) > 0
    assert spoken.usage is not None
    first, *_, last = spoken.usage.model_dump()["lyra"]["context_tokens"]
    assert last < first


async def test_streamed_audio_from_hidden_states_equals_the_complete_audio(gateway: Gateway) -> None:
    body = question(audio_part(5), keep_rate=0.7, blocks=4)
    wanted: Any = {"modalities": ["text", "audio"], "audio": {"voice": "", "format": "pcm16"}}
    whole = await gateway.openai.chat.completions.create(**body, **wanted)
    assert whole.choices[0].message.audio is not None
    stream = await gateway.openai.chat.completions.create(**body, **wanted, stream=True)
    data = b""
    async for chunk in stream:
        if (audio := chunk.choices[0].delta.audio) is not None:
            data += base64.b64decode(audio.data or "")
    assert data == base64.b64decode(whole.choices[0].message.audio.data)


async def test_a_hidden_state_voice_refuses_to_read_text(gateway: Gateway) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        await gateway.openai.audio.speech.create(model=f"lyra-{PRESET}", voice="", input="Hello")
    assert refusal.value.param == "input"
    assert "own answers" in refusal.value.message
