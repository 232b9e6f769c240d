"""Files that crash their decoder, and files that uploads and chats must treat alike, through the gateway."""

import asyncio
import base64
import io
import os
import signal
from contextlib import suppress
from typing import Any

import psutil
import pytest
from PIL import Image

from services.operations.local.stack import Stack
from services.shared.storage.settings import StoreSettings
from tests.integration.gateway.conftest import Gateway, StartGateway, picture, wav
from tests.integration.gateway.media.conftest import error_of, upload
from tests.integration.gateway.test_media_in_chat import chat, full_gateway, stored_audio, stored_visual
from tests.paths import DATA
from tests.unit.audio.test_layouts import encoded

__all__ = ["full_gateway"]

PICTURES = {path.name: path.read_bytes() for path in (DATA / "pictures").iterdir() if path.suffix != ".md"}
LARGE_RSS = 110 * 2**20


async def test_eight_channel_recordings_can_be_stored_and_asked_about(full_gateway: Gateway) -> None:
    for container, codec, sample_format in (
        ("flac", "flac", "s16"),
        ("ogg", "libopus", "flt"),
        ("ipod", "aac", "fltp"),
    ):
        data = encoded("7.1", container, codec, sample_format)
        assert data is not None
        kept = await upload(full_gateway, data)
        assert kept.status_code == 200, kept.text
        assert kept.json()["channels"] == 8
        inline = {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": "wav"}}
        for part in (stored_audio(kept.json()["id"]), inline):
            answered = await full_gateway.http.post("/v1/chat/completions", json=chat(part))
            assert answered.status_code == 200, answered.text


@pytest.mark.parametrize("name", sorted(PICTURES))
async def test_a_picture_accepted_at_upload_can_be_used_in_a_chat(full_gateway: Gateway, name: str) -> None:
    kept = await upload(full_gateway, PICTURES[name])
    if name.endswith(".avif"):
        assert kept.status_code == 400
        assert error_of(kept)["message"] == "file: is an AVIF picture; supported are JPEG, PNG and WebP"
        return
    assert kept.status_code == 200, kept.text
    answered = await full_gateway.http.post(
        "/v1/chat/completions", json=chat(stored_visual("image", kept.json()["id"]))
    )
    assert answered.status_code == 200, answered.text


async def test_a_picture_too_large_for_a_chat_is_refused_at_upload(
    start_gateway: StartGateway, tiny_addresses: dict[str, str], store_settings: StoreSettings
) -> None:
    limits = {"max_image_pixels": 10_000, "max_image_bytes": 50_000}
    gateway = await start_gateway(tiny_addresses, **store_settings.model_dump(), **limits)
    flat = io.BytesIO()
    Image.new("RGB", (101, 100)).save(flat, "PNG")
    for data, refusal in (
        (flat.getvalue(), "file: 101 x 100 is 10,100 pixels, over the limit of 10,000 pixels"),
        (picture(size=(200, 200)), "over the limit of 50,000 bytes for a picture"),
    ):
        refused = await upload(gateway, data)
        assert refused.status_code == 400
        assert refusal in error_of(refused)["message"]


def large_picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", (5_000, 5_000), (10, 20, 30, 40)).save(file, "PNG", compress_level=1)
    return file.getvalue()


async def crash_the_largest(parent: int | None, done: asyncio.Event) -> None:
    """Kills the descendant of a process that is decoding a large picture."""
    while not done.is_set():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            for zygote in psutil.Process(parent).children():
                if "services.shared.sandbox.zygote" not in zygote.cmdline():
                    continue
                for child in zygote.children():
                    if child.memory_info().rss > LARGE_RSS:
                        os.kill(child.pid, signal.SIGSEGV)
        await asyncio.sleep(0.001)


async def test_an_upload_that_crashes_its_decoder_is_a_400_and_affects_no_other_request(full_gateway: Gateway) -> None:
    gateway, done = full_gateway, asyncio.Event()
    _, other = gateway.keys.create("other")
    crashing = asyncio.create_task(crash_the_largest(os.getpid(), done))
    theirs = [
        gateway.http.post(
            "/v1/media", files={"file": ("a.wav", wav(0.5 + number / 10))}, headers={"Authorization": f"Bearer {other}"}
        )
        for number in range(6)
    ]
    crashed, *kept = await asyncio.gather(upload(gateway, large_picture()), *theirs)
    done.set()
    await crashing
    assert (crashed.status_code, error_of(crashed)["message"]) == (400, "file: cannot be decoded")
    assert [each.status_code for each in kept] == [200] * 6
    assert (await upload(gateway, wav(1.0))).status_code == 200


async def test_a_chat_that_crashes_its_decoder_is_a_400_naming_the_part(gateway: Gateway, tiny_stack: Stack) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(large_picture()).decode()}"
    done = asyncio.Event()
    process = tiny_stack.processes["vision_encoder"]
    crashing = asyncio.create_task(crash_the_largest(process.pid, done))
    part: dict[str, Any] = {"type": "image_url", "image_url": {"url": uri}}
    refused = await gateway.http.post("/v1/chat/completions", json=chat(part))
    done.set()
    await crashing
    assert refused.status_code == 400, refused.text
    assert error_of(refused)["param"] == "messages[0].content[0].image_url.url"
    assert "cannot be decoded" in error_of(refused)["message"]
    small = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(picture()).decode()}"}}
    answered = await gateway.http.post("/v1/chat/completions", json=chat(small))
    assert answered.status_code == 200, answered.text
