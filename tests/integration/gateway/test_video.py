"""Videos through gateway, pipeline and real services of preset tiny."""

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import pytest

from services.operations.local.stack import SERVICES
from tests.conftest import StartService
from tests.integration.gateway.conftest import Gateway, StartGateway, wav
from tests.integration.gateway.test_chat import audio_part, image_part
from tests.videos import make_video

PATH = "messages[0].content[0].video_url.url"


def video_part(data: bytes, kind: str = "mp4") -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": f"data:video/{kind};base64,{base64.b64encode(data).decode()}"}}


def address(url: str) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}}


def body(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"model": "lyra-tiny", "messages": [{"role": "user", "content": list(parts)}], "max_tokens": 3}


async def tokens_of(gateway: Gateway, *parts: dict[str, Any]) -> tuple[int, int]:
    """Vision and speech tokens of the prompt."""
    response = await gateway.http.post("/v1/chat/completions", json=body(*parts))
    assert response.status_code == 200, response.text
    details = response.json()["usage"]["prompt_tokens_details"]
    return details["image_tokens"], details["audio_tokens"]


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "libx264"), ("webm", "libvpx"), ("quicktime", "libx264")])
async def test_frames_become_vision_tokens_and_audio_becomes_speech_tokens(
    gateway: Gateway, kind: str, codec: str
) -> None:
    data = make_video("mov" if kind == "quicktime" else kind, codec, loudness=0.3)
    vision, speech = await tokens_of(gateway, video_part(data, kind), {"type": "text", "text": "What happens?"})
    assert vision == 4 * 4  # two frames a second, 2 x 2 tokens each
    assert speech == pytest.approx(2.0 * 12.5, abs=3)


@pytest.mark.parametrize("loudness", [None, 0.0])
async def test_video_without_audio_has_vision_tokens_only(gateway: Gateway, loudness: float | None) -> None:
    vision, speech = await tokens_of(gateway, video_part(make_video(loudness=loudness)))
    assert (vision, speech) == (16, 0)


async def test_videos_pictures_and_recordings_can_be_combined(gateway: Gateway) -> None:
    parts = (video_part(make_video(loudness=0.3)), image_part(), audio_part(wav(1.0)), video_part(make_video()))
    vision, speech = await tokens_of(gateway, *parts)
    assert vision == 16 + 4 + 16
    assert speech == pytest.approx(3.0 * 12.5, abs=4)


async def test_openai_client_streams_an_answer_to_a_video(gateway: Gateway) -> None:
    request: Any = body(video_part(make_video(loudness=0.3)))
    stream = await gateway.openai.chat.completions.create(**request, stream=True)
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


CASES: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "half a file": (lambda: video_part(make_video(seconds=4)[:2000]), ""),
    "half a webm": (lambda: video_part(make_video("webm", "libvpx", seconds=4)[:-900], "webm"), "truncated"),
    "no video": (lambda: video_part(b"nonsense" * 100), "does not decode as video"),
    "a recording": (lambda: video_part(wav(1.0)), ""),
    "a picture's media type": (lambda: address("data:image/png;base64,AA"), "video/mp4"),
    "no base64": (lambda: address("data:video/mp4;base64,$"), "base64"),
    "a web address": (lambda: address("http://127.0.0.1/a.mp4"), "data URI"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_invalid_video_is_named_and_later_requests_succeed(gateway: Gateway, case: str, stream: bool) -> None:
    make, message = CASES[case]
    response = await gateway.http.post("/v1/chat/completions", json={**body(make()), "stream": stream})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == PATH
    assert error["message"].startswith(f"{PATH}: ")
    assert message in error["message"]
    assert await tokens_of(gateway, video_part(make_video())) == (16, 0)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_video_seconds": 1.0}, "over the limit of 1 s"),
        ({"max_video_pixels": 1000}, "3,072 pixels per frame, over the limit of 1,000 pixels"),
        ({"max_video_bytes": 1000}, "over the limit of 0.000953674 MiB"),
    ],
)
async def test_a_video_over_a_service_limit_is_refused_with_that_limit(
    start_gateway: StartGateway,
    start_service: StartService,
    tiny_addresses: dict[str, str],
    limits: dict[str, float],
    message: str,
) -> None:
    service = await start_service("vision_encoder", **limits)
    gateway = await start_gateway({**tiny_addresses, "vision_encoder": service.address})
    response = await gateway.http.post("/v1/chat/completions", json=body(video_part(make_video())))
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], message in error["message"]) == (PATH, True)


@pytest.fixture
async def qwen(start_gateway: StartGateway, start_service: StartService) -> Gateway:
    """A gateway in front of the published models in miniature."""
    running = await asyncio.gather(*(start_service(name, preset="tiny-qwen2-vl") for name in SERVICES))
    addresses = {name: service.address for name, service in zip(SERVICES, running, strict=True)}
    return await start_gateway(addresses, preset="tiny-qwen2-vl")


@pytest.mark.parametrize(
    ("loudness", "adapter"),
    [(None, "speech"), (0.0, "speech"), (0.3, "long_speech")],
)
async def test_audio_of_a_video_counts_as_a_clip(qwen: Gateway, loudness: float | None, adapter: str) -> None:
    video = video_part(make_video(size=(112, 84), loudness=loudness))
    request = {**body(audio_part(wav(1.0)), video), "model": "lyra-tiny-qwen2-vl"}
    response = await qwen.http.post("/v1/chat/completions", json=request)
    assert response.status_code == 200, response.text
    usage = response.json()["usage"]
    assert usage["lyra"]["adapter"] == adapter
    # Four frames in two pairs, each 112 x 84 pixels in cells of 28 x 28.
    assert usage["prompt_tokens_details"]["image_tokens"] == 2 * 4 * 3
