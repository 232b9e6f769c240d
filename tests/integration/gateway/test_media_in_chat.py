"""Chat requests that name media by their id."""

from typing import Any

import numpy as np
import pytest

from services.shared.storage.settings import StoreSettings
from tests.integration.gateway.conftest import Gateway, StartGateway, picture, wav
from tests.integration.gateway.media.conftest import error_of, upload
from tests.integration.gateway.test_chat import audio_part, image_part
from tests.videos import make_video


def chat(*content: dict[str, Any]) -> dict[str, Any]:
    return {"model": "lyra-tiny", "messages": [{"role": "user", "content": list(content)}], "max_tokens": 2}


def stored_audio(media_id: str) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"media_id": media_id}}


def stored_visual(kind: str, media_id: str) -> dict[str, Any]:
    return {"type": f"{kind}_url", f"{kind}_url": {"url": f"media:{media_id}"}}


@pytest.fixture
async def full_gateway(
    start_gateway: StartGateway, tiny_addresses: dict[str, str], store_settings: StoreSettings
) -> Gateway:
    """A gateway with an object store and all services."""
    return await start_gateway(tiny_addresses, **store_settings.model_dump())


async def test_a_chat_with_media_ids_answers_as_with_inline_media(full_gateway: Gateway) -> None:
    recording = wav(2.0)
    spoken = (await upload(full_gateway, recording)).json()["id"]
    shown = (await upload(full_gateway, picture())).json()["id"]
    named = await full_gateway.http.post(
        "/v1/chat/completions", json=chat(stored_visual("image", shown), stored_audio(spoken))
    )
    assert named.status_code == 200, named.text
    inline = await full_gateway.http.post("/v1/chat/completions", json=chat(image_part(), audio_part(recording)))
    assert inline.status_code == 200, inline.text
    first, second = named.json(), inline.json()
    cached = [each["usage"]["prompt_tokens_details"].pop("cached_tokens") for each in (first, second)]
    assert cached[0] < cached[1]
    for field in ("usage", "choices"):
        assert first[field] == second[field]


async def test_a_chat_with_a_video_id_uses_its_frames_and_audio(full_gateway: Gateway) -> None:
    media_id = (await upload(full_gateway, make_video("mp4", loudness=0.3))).json()["id"]
    heard = await full_gateway.http.post("/v1/chat/completions", json=chat(stored_audio(media_id)))
    assert heard.status_code == 200, heard.text


async def test_unusable_media_ids_are_named_in_the_error(full_gateway: Gateway) -> None:
    gateway = full_gateway
    spoken = (await upload(gateway, wav(1.0))).json()["id"]
    shown = (await upload(gateway, picture())).json()["id"]
    silent = (await upload(gateway, make_video("mp4"))).json()["id"]
    unknown = "media-" + "0" * 32
    part = "messages[0].content[0]"
    cases: list[tuple[dict[str, Any], int, str]] = [
        (stored_audio(unknown), 404, f"{part}.input_audio.media_id"),
        (stored_visual("image", unknown), 404, f"{part}.image_url.url"),
        (stored_audio(shown), 400, f"{part}.input_audio.media_id"),
        (stored_audio(silent), 400, f"{part}.input_audio.media_id"),
        (stored_visual("image", spoken), 400, f"{part}.image_url.url"),
        (stored_visual("video", spoken), 400, f"{part}.video_url.url"),
        ({"type": "input_audio", "input_audio": {"media_id": spoken, "data": "AAAA"}}, 400, f"{part}.input_audio.data"),
    ]
    for content, status, param in cases:
        response = await gateway.http.post("/v1/chat/completions", json=chat(content))
        assert (response.status_code, error_of(response)["param"]) == (status, param), response.text
    _, other = gateway.keys.create("other")
    headers = {"Authorization": f"Bearer {other}"}
    theirs = await gateway.http.post("/v1/chat/completions", json=chat(stored_audio(spoken)), headers=headers)
    assert theirs.status_code == 404


async def test_stored_media_count_towards_the_limits_like_inline_media(
    start_gateway: StartGateway, tiny_addresses: dict[str, str], store_settings: StoreSettings
) -> None:
    limits: dict[str, Any] = {"max_body_bytes": 100_000, "max_media": 2}
    gateway = await start_gateway(tiny_addresses, **store_settings.model_dump(), **limits)
    noise = np.random.default_rng(0)
    ids = [(await upload(gateway, wav(2.0 + noise.random()))).json()["id"] for _ in range(2)]
    assert (
        await gateway.http.post("/v1/chat/completions", json=chat(stored_audio(ids[0]), stored_audio(ids[0])))
    ).status_code == 200
    too_large = await gateway.http.post("/v1/chat/completions", json=chat(*map(stored_audio, ids)))
    assert (too_large.status_code, error_of(too_large)["param"]) == (400, "messages[0].content[1].input_audio.media_id")
    assert "100,000 bytes" in error_of(too_large)["message"]
    too_many = await gateway.http.post("/v1/chat/completions", json=chat(*[stored_audio(ids[0])] * 3))
    assert error_of(too_many)["code"] == "too_many_media"
