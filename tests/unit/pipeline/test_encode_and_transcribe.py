"""Encoding and transcribing a clip by one call."""

import numpy as np
import pytest

from lyra.v1.common_pb2 import ELEMENT_TYPE_FLOAT32, SpeechTokens, Tensor, TensorChunk
from lyra.v1.speech_encoder_pb2 import HearResponse
from services.shared.pipeline.clients import ModelClients
from services.shared.pipeline.encode_and_transcribe import encode_and_transcribe
from services.shared.pipeline.messages import AudioPart
from services.shared.service_errors import Failed, InvalidInput, Unavailable
from tests.unit.pipeline.scripted import Script

CLIP = AudioPart(b"sound", "clip 3")


async def test_clip_becomes_speech_tokens_and_a_transcript(services: ModelClients, script: Script) -> None:
    clip = await encode_and_transcribe(services, CLIP, "acme", adapter="long_speech", language="de")
    np.testing.assert_array_equal(clip.tokens_NE, [[0, 1], [2, 3], [4, 5]])
    assert [segment.text for segment in clip.segments] == script.words
    assert (clip.segments[1].start_seconds, clip.segments[1].end_seconds) == (1.0, 2.0)
    assert (clip.adapter, clip.language) == ("long_speech", "de")
    assert script.heard == [("long_speech", "de")]
    assert script.uploads == [b"sound"]
    assert script.tenants == {"acme"}


async def test_the_chosen_adapter_and_language_are_reported(services: ModelClients) -> None:
    clip = await encode_and_transcribe(services, CLIP, "acme")
    assert (clip.adapter, clip.language) == ("speech", "en")


async def test_unavailable_service_is_retried(services: ModelClients, script: Script) -> None:
    script.unavailable["hear"] = 2
    assert (await encode_and_transcribe(services, CLIP, "acme")).segments
    assert script.calls["hear"] == 3


async def test_a_service_that_stays_down_is_unavailable(unreachable: ModelClients) -> None:
    with pytest.raises(Unavailable):
        await encode_and_transcribe(unreachable, CLIP, "acme")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("audio", "clip 3"), ("audio.encoding", "clip 3"), ("adapter", "adapter"), ("language", "language")],
)
async def test_an_error_names_the_field_as_in_the_request(
    services: ModelClients, script: Script, theirs: str, ours: str
) -> None:
    script.invalid["hear"] = InvalidInput(theirs, "is no good")
    with pytest.raises(InvalidInput, match="is no good") as caught:
        await encode_and_transcribe(services, CLIP, "acme")
    assert caught.value.field == ours


async def test_recording_longer_than_a_clip_is_refused(services: ModelClients, script: Script) -> None:
    script.hear_also = [HearResponse(speech_tokens=SpeechTokens(clip_index=1))]
    with pytest.raises(InvalidInput, match="clip 3: is longer than one clip"):
        await encode_and_transcribe(services, CLIP, "acme")


async def test_a_response_without_its_summary_is_incomplete(services: ModelClients, script: Script) -> None:
    script.hear_ends = False
    with pytest.raises(Failed, match="the summary are missing"):
        await encode_and_transcribe(services, CLIP, "acme")


async def test_a_malformed_response_is_not_a_client_error(services: ModelClients, script: Script) -> None:
    rows = Tensor(dtype=ELEMENT_TYPE_FLOAT32, shape=[1, 2], data=b"\0" * 8)
    chunk = TensorChunk(rows=rows, row_offset=3, rows_total=3)
    script.hear_also = [HearResponse(speech_tokens=SpeechTokens(tokens=chunk))]
    with pytest.raises(Failed, match="speech_tokens"):
        await encode_and_transcribe(services, CLIP, "acme")
