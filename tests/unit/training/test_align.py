"""Stage 1 against the embedding table."""

import math
from dataclasses import replace
from itertools import groupby, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from model_core.presets import tiny
from model_core.speech.projector import SpeechProjector
from model_core.training.align import Align, can_align
from model_core.training.projectors import Projectors


@given(st.lists(st.integers(1, 3), max_size=3), st.integers(0, 4))
def test_alignable_transcripts_are_those_that_some_ctc_path_spells(tokens: list[int], length: int) -> None:
    paths = product(range(4), repeat=length)  # 0 is the blank
    reads = ([token for token, _ in groupby(path) if token] for path in paths)
    assert can_align(tokens, length) == (bool(tokens) and any(found == tokens for found in reads))


WORDS = [3, 5, 8, 13]
# A projector with arbitrary tokens, and one that mixes embeddings of word pieces.
_MIXES = replace(tiny.SPEECH_ENCODER.projector, context_layers=1, context_width=16, kernel=1, pieces=len(WORDS))
PROJECTORS = (tiny.SPEECH_ENCODER.projector, _MIXES)


def aligned(vision: nn.Module | None = None, projector: SpeechProjector.Config = PROJECTORS[0]) -> Align:
    torch.manual_seed(0)
    speech = projector.build()
    table = torch.randn(20, tiny.LANGUAGE.width)
    if speech.pieces_VE is None:
        return Align(Projectors(speech, vision), table, WORDS).eval()
    speech.pieces_VE.copy_(table[WORDS])
    return Align(Projectors(speech, vision), table, WORDS, pieces=WORDS).eval()


def test_the_loss_of_a_batch_is_the_mean_over_recordings_without_padding() -> None:
    module = aligned()
    frames = torch.randn(2, 40, tiny.SPEECH_ENCODER.projector.encoder_width)
    lengths, texts = torch.tensor([40, 24]), torch.tensor([[3, 5, 8], [13, 13, 0]])
    text_lengths = torch.tensor([3, 2])

    def loss(row: slice, length: int) -> float:
        outputs = module(frames[row, :length], lengths[row], texts[row], text_lengths[row])
        return float(outputs["loss"].item())

    alone = [loss(slice(0, 1), 40), loss(slice(1, 2), 24)]
    assert loss(slice(0, 2), 40) == pytest.approx(sum(alone) / 2, rel=1e-4)


@pytest.mark.parametrize("projector", PROJECTORS)
def test_ctc_sums_over_every_path_that_spells_the_transcript(projector: SpeechProjector.Config) -> None:
    module = aligned(projector=projector)
    frames = torch.randn(1, 16, tiny.SPEECH_ENCODER.projector.encoder_width)  # four speech tokens
    log_probabilities = module.log_probabilities(frames, torch.tensor([16]))[0][0].detach().exp()
    torch.testing.assert_close(log_probabilities.sum(-1), torch.ones(4))
    wanted = [1, 2]  # rows of the ids 3 and 5 behind the blank
    total = sum(
        math.prod(float(log_probabilities[at, row]) for at, row in enumerate(path))
        for path in product(range(5), repeat=4)
        if [row for row, _ in groupby(path) if row] == wanted
    )
    outputs = module(frames, torch.tensor([16]), torch.tensor([[3, 5]]), torch.tensor([2]))
    assert outputs["speech_loss"].item() == pytest.approx(-math.log(total) / 2, rel=1e-3)


class _Given(nn.Module):
    """Stands in for a projector: the features are the tokens."""

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        return seen


def test_a_picture_word_is_matched_by_its_nearest_token() -> None:
    module = aligned(_Given())
    row = module.head.rows_VE[0]  # of the id 3
    far, near = -row, row
    outputs = module(
        visual_features=torch.stack([torch.stack((far, near, far)), torch.stack((far, far, far))]),
        names=torch.tensor([[3], [3]]),
        name_lengths=torch.tensor([1, 1]),
    )
    said = module.head.log_probabilities(torch.stack((near, far)))[:, 1]
    assert outputs["picture_loss"].item() == pytest.approx(-said.mean().item(), rel=1e-4)


@pytest.mark.parametrize("projector", PROJECTORS)
def test_a_frozen_embedding_table_trains_the_projector(projector: SpeechProjector.Config) -> None:
    torch.manual_seed(0)
    module = aligned(projector=projector).train()
    alphabet = torch.randn(4, tiny.SPEECH_ENCODER.projector.encoder_width) * 3
    texts = torch.tensor([[3, 5, 8], [5, 13, 3], [8, 3, 13], [13, 8, 5]])
    rows = {3: 0, 5: 1, 8: 2, 13: 3}
    frames = torch.stack([alphabet[[rows[int(i)] for i in text]].repeat_interleave(8, 0) for text in texts])
    lengths, text_lengths = torch.full((4,), 24), torch.full((4,), 3)
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.02)
    for _ in range(150):
        module(frames, lengths, texts, text_lengths)["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
    module.eval()
    assert [module.decode(one) for one in frames] == texts.tolist()
