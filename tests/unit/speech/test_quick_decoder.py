"""Words that CTranslate2 writes in 8-bit integers: nearly those of our own decoder, and by the same rules."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from model_core.errors import CheckpointError
from model_core.evaluation.metrics import word_errors
from model_core.presets import build_speech_encoder
from model_core.speech.audio import SAMPLE_RATE, Clip
from model_core.speech.quick_decoder import QuickDecoder, QuickDraft
from model_core.speech.transcriber import DecodingOptions, Segment, Transcriber
from tests.unit.speech.test_hearing import encoder, recordings
from tests.unit.speech.test_transcriber import TOKENIZER, TOKENS, Scripted, letters, timestamp
from tests.unit.speech.tiny_whisper import clip, frames_of


class Drafts:
    """Gives the same draft for each clip; the place of a QuickDecoder."""

    def __init__(
        self, tokens: list[int], mean_log_probability: float = -0.2, no_speech_probability: float = 0.0
    ) -> None:
        self.draft = QuickDraft(tokens, mean_log_probability, no_speech_probability)
        self.batches: list[int] = []

    def write(self, frames: list[Tensor], prompt: list[int], never: list[int], **limits: int) -> list[QuickDraft]:
        assert prompt == [TOKENS.start]
        assert TOKENS.no_speech in never
        self.batches.append(len(frames))
        return [self.draft] * len(frames)


def written(drafts: Drafts, clips: list[Clip], scripts: list[list[int]] | None = None) -> list[Segment]:
    quick: QuickDecoder = drafts  # type: ignore[assignment]
    transcriber = Transcriber(Scripted(scripts or []), TOKENIZER, frames_of, DecodingOptions(batch=8), quick=quick)
    return list(transcriber.transcribe(clips))


def test_drafts_are_cut_at_their_timestamps_and_at_the_end_of_the_clip() -> None:
    drafts = Drafts(
        [timestamp(0), *letters("one"), timestamp(2), timestamp(2), *letters("two"), timestamp(9), timestamp(20)]
    )
    segments = written(drafts, [clip(3), clip(4, start=30)])
    assert drafts.batches == [2]
    assert [(s.start_seconds, s.end_seconds, s.text) for s in segments] == [
        (0, 2, "one"),
        (2, 3, "two"),
        (30, 32, "one"),
        (32, 34, "two"),
    ]
    assert [s.mean_log_probability for s in segments] == pytest.approx([-0.2] * 4)


def test_a_draft_that_repeats_itself_is_tried_again_by_our_own_decoder() -> None:
    again = [timestamp(0), *letters("heard"), timestamp(1)]
    drafts = Drafts([timestamp(0), *letters("la " * 40), timestamp(3)])
    (segment,) = written(drafts, [clip(3)], [again])
    assert (segment.text, segment.end_seconds) == ("heard", 1)


def test_nobody_speaks_where_a_draft_says_so() -> None:
    assert written(Drafts([timestamp(0), *letters("um"), timestamp(1)], -2.0, 0.9), [clip(3)]) == []


def test_nano_served_writes_nearly_what_its_own_decoder_writes() -> None:
    served, own = encoder("nano"), build_speech_encoder("nano")
    spoken = recordings()[:4]
    for each in spoken:
        quick, exact = (" ".join(s.text for s in model.transcriber.transcribe([each])) for model in (served, own))
        assert word_errors(exact, quick).rate < 0.2
    joined = torch.cat([each.samples for each in spoken])
    segments = list(served.transcriber.transcribe([Clip(0, 0.0, len(joined) / SAMPLE_RATE, joined)]))
    starts = [s.start_seconds for s in segments]
    assert len(segments) > 1
    assert starts == sorted(starts)
    assert segments[-1].end_seconds <= len(joined) / SAMPLE_RATE


@pytest.mark.parametrize("damage", ["missing", "torn"])
def test_weights_that_cannot_be_read_are_refused(damage: str, tmp_path: Path) -> None:
    if damage == "torn":
        (tmp_path / "model.bin").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match=r"model\.bin"):
        QuickDecoder(tmp_path, 1, 8)
