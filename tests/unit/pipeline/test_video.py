import asyncio

import pytest

from services.shared.pipeline.answer import answer
from services.shared.pipeline.clients import ModelClients
from services.shared.pipeline.messages import (
    AnswerRequest,
    AudioPart,
    Finished,
    ImagePart,
    Message,
    Role,
    TextPart,
    VideoPart,
)
from services.shared.service_errors import InvalidInput
from tests.unit.pipeline.scripted import Script

PATH = "messages[0].content[1].video_url.url"
VIDEO = VideoPart(b"video", "video/mp4", PATH)
REQUEST = AnswerRequest(messages=(Message(Role.USER, (TextPart("What?"), VIDEO)),), tenant="acme")


def test_a_video_becomes_its_frames_and_its_audio() -> None:
    message = Message(Role.USER, (TextPart("?"), VIDEO, TextPart("!")))
    assert message.with_tracks().parts == (
        TextPart("?"),
        ImagePart(b"video", "video/mp4", PATH),
        AudioPart(b"video", PATH, of_video=True),
        TextPart("!"),
    )


async def test_frames_come_before_the_audio_in_the_prompt(services: ModelClients, script: Script) -> None:
    events = [event async for event in answer(services, REQUEST)]
    assert isinstance(events[-1], Finished)
    kinds = [request.WhichOneof("part") for request in script.prompt]
    assert kinds == ["header", "message_start", "text", "vision_tokens", "speech_tokens", "speech_tokens"]
    assert script.uploads == [b"video", b"video"]


async def test_frames_and_audio_are_encoded_concurrently(services: ModelClients, script: Script) -> None:
    script.encoding_together = asyncio.Barrier(2)
    assert [event async for event in answer(services, REQUEST)]


@pytest.mark.parametrize("call", ["encode_image", "encode_speech"])
async def test_a_bad_video_is_named_by_its_path_in_the_request(
    services: ModelClients, script: Script, call: str
) -> None:
    script.invalid[call] = InvalidInput("video", "is truncated")
    with pytest.raises(InvalidInput) as caught:
        [event async for event in answer(services, REQUEST)]
    assert (caught.value.field, caught.value.message) == (PATH, "is truncated")
