from contextlib import aclosing

import pytest

from services.shared.pipeline.clients import NAMES, ModelClients
from services.shared.pipeline.messages import AudioPart, Segment, SpeechOptions, TranscriptEnd
from services.shared.pipeline.speak import speak
from services.shared.pipeline.transcribe import transcribe
from services.shared.service_errors import InvalidInput, Unavailable
from tests.unit.pipeline.scripted import Script


async def test_a_transcript_has_its_segments_followed_by_its_end(services: ModelClients, script: Script) -> None:
    events = [event async for event in transcribe(services, AudioPart(b"sound", "file"), "acme")]
    assert [event.text for event in events[:-1] if isinstance(event, Segment)] == script.words
    assert events[-1] == TranscriptEnd(3.0, "en")
    assert script.uploads == [b"sound"]


@pytest.mark.parametrize(("theirs", "ours"), [("audio", "file"), ("language", "language")])
async def test_an_invalid_transcription_request_is_named_by_field(
    services: ModelClients, script: Script, theirs: str, ours: str
) -> None:
    script.invalid["transcribe"] = InvalidInput(theirs, "is no good")
    with pytest.raises(InvalidInput) as caught:
        [event async for event in transcribe(services, AudioPart(b"sound", "file"), "acme")]
    assert caught.value.field == ours


async def test_speaking_a_text_is_retried_before_its_first_audio(services: ModelClients, script: Script) -> None:
    script.unavailable["synthesize"] = 2
    chunks = [chunk async for chunk in speak(services, "Hello", SpeechOptions("joe", 1.5), "acme")]
    assert [chunk.pcm.rstrip(b"\0") for chunk in chunks] == [b"Hello"]
    assert chunks[0].sample_rate == 16_000
    assert script.calls["synthesize"] == 3


async def test_a_third_failure_is_not_retried(services: ModelClients, script: Script) -> None:
    script.unavailable["synthesize"] = 3
    with pytest.raises(Unavailable):
        [chunk async for chunk in speak(services, "Hello", SpeechOptions(), "acme")]


async def test_abandoning_a_transcript_ends_quietly(services: ModelClients) -> None:
    async with aclosing(transcribe(services, AudioPart(b"sound"), "acme")) as events:
        await anext(events)


async def test_services_that_are_down_are_unreachable(unreachable: ModelClients) -> None:
    assert await unreachable.health() == dict.fromkeys(NAMES, "UNREACHABLE")
