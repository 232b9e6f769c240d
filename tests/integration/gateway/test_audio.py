import io
from typing import Any

import av
import pytest

from tests.integration.gateway.conftest import Gateway, wav


async def test_a_transcript_as_json(gateway: Gateway) -> None:
    transcript = await gateway.openai.audio.transcriptions.create(model="lyra-tiny", file=("a.wav", wav(2.0)))
    assert isinstance(transcript.text, str)
    usage: Any = transcript.usage
    assert (usage.type, usage.seconds) == ("duration", 2.0)


async def test_a_verbose_transcript_has_segments(gateway: Gateway) -> None:
    transcript = await gateway.openai.audio.transcriptions.create(
        model="lyra-tiny",
        file=("a.wav", wav(3.0)),
        response_format="verbose_json",
        timestamp_granularities=["segment"],
    )
    assert transcript.duration == 3.0
    assert transcript.segments is not None
    for segment in transcript.segments:
        assert 0 <= segment.start <= segment.end <= 3.0
        assert segment.avg_logprob <= 0
        assert 0 <= segment.no_speech_prob <= 1


@pytest.mark.parametrize(("kind", "media_type"), [("text", "text/plain"), ("srt", "text/plain"), ("vtt", "text/vtt")])
async def test_a_transcript_as_text(gateway: Gateway, kind: str, media_type: str) -> None:
    response = await gateway.http.post(
        "/v1/audio/transcriptions",
        data={"model": "lyra-tiny", "response_format": kind},
        files={"file": ("a.wav", wav(1.0))},
    )
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(media_type)
    assert response.text.startswith({"text": "", "srt": "1\n00:00:0", "vtt": "WEBVTT\n\n"}[kind])


@pytest.mark.parametrize("kind", ["mp3", "wav", "opus", "flac", "pcm"])
async def test_a_text_is_spoken_in_every_format(gateway: Gateway, kind: Any) -> None:
    async with gateway.openai.audio.speech.with_streaming_response.create(
        model="lyra-tiny", voice="", input="Hello, there. This is it.", response_format=kind
    ) as response:
        data = b"".join([piece async for piece in response.iter_bytes()])
    if kind == "pcm":
        assert len(data) > 24_000
        return
    with av.open(io.BytesIO(data), "r") as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) > 8_000


async def test_higher_speed_makes_speech_shorter(gateway: Gateway) -> None:
    lengths = []
    for speed in (0.5, 2.0):
        response = await gateway.openai.audio.speech.create(
            model="lyra-tiny", voice="", input="Hello, there.", response_format="pcm", speed=speed
        )
        lengths.append(len(await response.aread()))
    assert lengths[0] > 2 * lengths[1]
