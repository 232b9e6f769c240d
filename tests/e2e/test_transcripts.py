"""Transcripts of preset nano by CTranslate2: segments in order, and nearly the words of our own decoder."""

from collections.abc import Callable

import pytest
import torch

from model_core.audio.tensors import SAMPLE_RATE, Clip
from model_core.kernels import instructions
from model_core.metrics.word_errors import WordErrors, word_errors
from model_core.presets import build_speech_encoder
from tests.e2e.test_encode_and_transcribe import encoder, held_out_sentences, recordings

pytestmark = pytest.mark.kernels


def test_segments_of_several_sentences_are_in_order() -> None:
    spoken = torch.cat([each.samples for each in recordings()[:4]])
    seconds = len(spoken) / SAMPLE_RATE
    segments = list(encoder("nano").transcriber.transcribe([Clip(0, 0.0, seconds, spoken)]))
    starts = [s.start_seconds for s in segments]
    assert len(segments) > 1
    assert starts == sorted(starts)
    assert segments[-1].end_seconds <= seconds


# Single words may differ by chance, so the limit is for all sentences together. Over all 200 sentences, 0.3 to 0.5 % of
# the words differ on any processor.
@pytest.mark.parametrize(
    ("every", "at_most"), [(10, 0.04), pytest.param(1, 0.02, marks=[pytest.mark.full, pytest.mark.timeout(1800)])]
)
def test_ctranslate2_transcribes_nearly_what_our_own_decoder_does(
    every: int, at_most: float, record_property: Callable[[str, object], None]
) -> None:
    served, own = encoder("nano"), build_speech_encoder("nano")
    clips = held_out_sentences(slice(None, None, every))
    between = WordErrors()
    for each in clips:
        quick, exact = (" ".join(s.text for s in model.transcriber.transcribe([each], "en")) for model in (served, own))
        between += word_errors(exact, quick)
    report = f"{between.rate:.4f} of {between.words} words differ in {len(clips)} sentences"
    record_property("agreement", report)
    print(f"{report}: {instructions()}, {served.number_format}, {served.transcriber.number_format}")
    assert between.rate < at_most
