"""CTranslate2 in 8-bit integers transcribes nearly like our own decoder, by the same rules."""

from pathlib import Path
from types import SimpleNamespace

import ctranslate2
import numpy as np
import pytest
import torch
from torch import Tensor

from model_core.audio.tensors import Clip
from model_core.errors import CheckpointError
from model_core.speech.ctranslate2_decoder import CTranslate2Decoder, GreedyHypothesis
from model_core.speech.segments import Segment
from model_core.speech.transcriber import DecodingOptions, Transcriber
from tests.unit.speech.test_transcriber import TOKENIZER, TOKENS, Scripted, letters, timestamp
from tests.unit.speech.tiny_whisper import clip, frames_of

pytestmark = pytest.mark.kernels


class Drafts:
    """Stands in for CTranslate2Decoder, with the same draft for each clip."""

    def __init__(
        self, tokens: list[int], mean_log_probability: float = -0.2, no_speech_probability: float = 0.0
    ) -> None:
        self.hypothesis = GreedyHypothesis(tokens, mean_log_probability, no_speech_probability)
        self.batches: list[int] = []

    def decode(
        self, frames: list[Tensor], prompt: list[int], suppressed: list[int], **limits: int
    ) -> list[GreedyHypothesis]:
        assert prompt == [TOKENS.start]
        assert TOKENS.no_speech in suppressed
        self.batches.append(len(frames))
        return [self.hypothesis] * len(frames)


def transcribed(drafts: Drafts, clips: list[Clip], scripts: list[list[int]] | None = None) -> list[Segment]:
    greedy: CTranslate2Decoder = drafts  # type: ignore[assignment]
    transcriber = Transcriber(
        Scripted(scripts or []), TOKENIZER, frames_of, DecodingOptions(batch=8), greedy_decoder=greedy
    )
    return list(transcriber.transcribe(clips))


def test_hypotheses_are_cut_at_their_timestamps_and_at_the_end_of_the_clip() -> None:
    drafts = Drafts(
        [timestamp(0), *letters("one"), timestamp(2), timestamp(2), *letters("two"), timestamp(9), timestamp(20)]
    )
    segments = transcribed(drafts, [clip(3), clip(4, start=30)])
    assert drafts.batches == [2]
    assert [(s.start_seconds, s.end_seconds, s.text) for s in segments] == [
        (0, 2, "one"),
        (2, 3, "two"),
        (30, 32, "one"),
        (32, 34, "two"),
    ]
    assert [s.mean_log_probability for s in segments] == pytest.approx([-0.2] * 4)


def test_a_repetitive_draft_is_decoded_again_by_our_own_decoder() -> None:
    again = [timestamp(0), *letters("heard"), timestamp(1)]
    drafts = Drafts([timestamp(0), *letters("la " * 40), timestamp(3)])
    (segment,) = transcribed(drafts, [clip(3)], [again])
    assert (segment.text, segment.end_seconds) == ("heard", 1)


def test_a_draft_without_speech_has_no_segments() -> None:
    assert transcribed(Drafts([timestamp(0), *letters("um"), timestamp(1)], -2.0, 0.9), [clip(3)]) == []


class Kernels:
    """Stands in for ctranslate2.models.Whisper. `slips`: results depend on the number of rows in the batch."""

    def __init__(self, slips: bool) -> None:
        self.slips, self.batches = slips, list[int]()

    def generate(self, frames: ctranslate2.StorageView, prompts: list[list[int]], **_: object) -> list[SimpleNamespace]:
        self.batches.append(len(prompts))
        slip = 1e-7 * len(prompts) if self.slips else 0.0
        rows = np.array(frames)[:, 0, 0]
        return [
            SimpleNamespace(sequences_ids=[[1, 2]], scores=[-0.1 + slip + 1e-3 * float(row)], no_speech_prob=0.1)
            for row in rows
        ]


@pytest.mark.parametrize(("slips", "batches"), [(False, [3]), (True, [1, 1, 1])])
def test_clips_are_decoded_one_by_one_if_kernels_depend_on_the_batch(
    slips: bool, batches: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernels = Kernels(slips)
    monkeypatch.setattr(ctranslate2.models, "Whisper", lambda *_, **__: kernels)
    decoder = CTranslate2Decoder(tmp_path, 1, 8)
    kernels.batches.clear()
    frames = [torch.full((1500, 8), float(row)) for row in range(3)]
    together = decoder.decode(frames, [0], [], max_first=50, max_tokens=10)
    assert kernels.batches == batches
    assert decoder.batched is not slips
    assert together == [decoder.decode([each], [0], [], max_first=50, max_tokens=10)[0] for each in frames]


@pytest.mark.parametrize("damage", ["missing", "torn"])
def test_unreadable_weights_are_refused(damage: str, tmp_path: Path) -> None:
    if damage == "torn":
        (tmp_path / "model.bin").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match=r"model\.bin"):
        CTranslate2Decoder(tmp_path, 1, 8)
