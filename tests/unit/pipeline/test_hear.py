"""Hearing a clip: its tokens and its words by one call."""

import numpy as np
import pytest

from lyra.v1.common_pb2 import ELEMENT_TYPE_FLOAT32, SpeechTokens, Tensor, TensorChunk
from lyra.v1.speech_encoder_pb2 import HearResponse
from services.shared.pipeline.clients import ModelClients
from services.shared.pipeline.encode_and_transcribe import hear
from services.shared.pipeline.messages import AudioPart
from services.shared.service_errors import Failed, InvalidInput, Unavailable
from tests.unit.pipeline.scripted import Script

CLIP = AudioPart(b"sound", "clip 3")


async def test_a_clip_becomes_its_tokens_and_its_words(services: ModelClients, script: Script) -> None:
    heard = await hear(services, CLIP, "acme", adapter="long_speech", language="de")
    np.testing.assert_array_equal(heard.tokens_NE, [[0, 1], [2, 3], [4, 5]])
    assert [segment.text for segment in heard.segments] == script.words
    assert (heard.segments[1].start_seconds, heard.segments[1].end_seconds) == (1.0, 2.0)
    assert (heard.adapter, heard.language) == ("long_speech", "de")
    assert script.heard == [("long_speech", "de")]
    assert script.uploads == [b"sound"]
    assert script.tenants == {"acme"}


async def test_what_is_not_named_is_told(services: ModelClients) -> None:
    heard = await hear(services, CLIP, "acme")
    assert (heard.adapter, heard.language) == ("speech", "en")


async def test_a_service_that_is_away_is_asked_again(services: ModelClients, script: Script) -> None:
    script.unavailable["hear"] = 2
    assert (await hear(services, CLIP, "acme")).segments
    assert script.calls["hear"] == 3


async def test_a_service_that_stays_away_is_unavailable(nobody: ModelClients) -> None:
    with pytest.raises(Unavailable):
        await hear(nobody, CLIP, "acme")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("audio", "clip 3"), ("audio.encoding", "clip 3"), ("adapter", "adapter"), ("language", "language")],
)
async def test_what_is_wrong_with_a_clip_is_named(
    services: ModelClients, script: Script, theirs: str, ours: str
) -> None:
    script.invalid["hear"] = InvalidInput(theirs, "is no good")
    with pytest.raises(InvalidInput, match="is no good") as caught:
        await hear(services, CLIP, "acme")
    assert caught.value.field == ours


async def test_a_recording_longer_than_a_clip_is_refused(services: ModelClients, script: Script) -> None:
    script.hear_also = [HearResponse(speech_tokens=SpeechTokens(clip_index=1))]
    with pytest.raises(InvalidInput, match="clip 3: is longer than one clip"):
        await hear(services, CLIP, "acme")


async def test_an_answer_without_its_end_is_not_taken_for_a_whole_one(services: ModelClients, script: Script) -> None:
    script.hear_ends = False
    with pytest.raises(Failed, match="the summary are missing"):
        await hear(services, CLIP, "acme")


async def test_a_malformed_answer_is_not_the_callers_fault(services: ModelClients, script: Script) -> None:
    rows = Tensor(dtype=ELEMENT_TYPE_FLOAT32, shape=[1, 2], data=b"\0" * 8)
    chunk = TensorChunk(rows=rows, row_offset=3, rows_total=3)
    script.hear_also = [HearResponse(speech_tokens=SpeechTokens(tokens=chunk))]
    with pytest.raises(Failed, match="speech_tokens"):
        await hear(services, CLIP, "acme")
