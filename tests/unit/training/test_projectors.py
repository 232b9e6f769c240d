"""Projectors in training."""

from itertools import groupby

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_core.presets import tiny
from model_core.speech.projector import SpeechProjector
from model_core.training.projectors import Projectors

WIDTH = tiny.SPEECH_ENCODER.projector.encoder_width


def projector(context_layers: int, *, pieces: int | None = None) -> SpeechProjector:
    torch.manual_seed(0)
    made = SpeechProjector.Config(
        encoder_width=WIDTH, model_width=6, group=3, hidden_width=5, context_layers=context_layers, context_width=4,
        kernel=5, pieces=pieces,
    ).build()  # fmt: skip
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # so that context layers do something
    if made.pieces_VE is not None:
        torch.nn.init.normal_(made.pieces_VE)
    return made.eval()


@pytest.mark.parametrize(("context_layers", "pieces"), [(0, None), (2, None), (2, 7)])
@given(lengths=st.lists(st.integers(3, 30), min_size=1, max_size=4))
def test_a_recording_gives_the_same_tokens_in_any_batch(
    context_layers: int, pieces: int | None, lengths: list[int]
) -> None:
    own = projector(context_layers, pieces=pieces)
    projectors = Projectors(own, None)
    clips = [torch.randn(length, WIDTH, generator=torch.Generator().manual_seed(length)) for length in lengths]
    # Padding after the end of a recording may be anything.
    frames = torch.full((len(clips), max(lengths), WIDTH), 7.0)
    for row, clip in enumerate(clips):
        frames[row, : len(clip)] = clip
    heard = projectors.speech_tokens(frames, torch.tensor(lengths))
    assert heard.own.sum(-1).tolist() == [length // 3 for length in lengths]
    tokens, counts = heard.without_pauses()
    for row, clip in enumerate(clips):
        torch.testing.assert_close(tokens[row, : counts[row]], own.read(clip))


def test_pauses_give_no_tokens() -> None:
    own = projector(1, pieces=200)
    frames = torch.randn(36, WIDTH)
    tokens, pauses = own.tokens_and_pauses(frames[None])
    assert pauses is not None
    assert own.pause is not None
    some = pauses[0] < 0
    assert 0 < some.sum() < len(some)
    torch.testing.assert_close(own.read(frames), tokens[0, some])
    # If there are only pauses, the likeliest word is kept: a recording always has a token.
    torch.nn.init.constant_(own.pause.bias, 1e4)
    torch.testing.assert_close(own.read(frames), tokens[0, pauses[0].argmin()][None])


def test_a_confident_projector_gives_the_embedding_of_each_piece_once() -> None:
    own = projector(1, pieces=4)
    assert own.pieces_VE is not None
    assert own.pause is not None
    torch.nn.init.constant_(own.pause.bias, -1e4)  # no group is a pause
    assert own.log_scale is not None
    torch.nn.init.constant_(own.log_scale, 9.0)  # and the likeliest piece is certain
    frames = torch.randn(60, WIDTH)
    best = own.piece_log_probs(frames[None])[0][0].argmax(-1).tolist()
    expected = [piece for piece, _ in groupby(best)]
    assert 1 < len(expected) < len(best)
    torch.testing.assert_close(own.read(frames), own.pieces_VE[expected], rtol=1e-3, atol=1e-3)


def test_an_uncertain_projector_gives_the_mean_embedding() -> None:
    own = projector(1, pieces=4)
    assert own.pieces_VE is not None
    said, _ = own.piece_log_probs(torch.randn(1, 30, WIDTH, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(said.exp().sum(-1), torch.ones(1, 10))
    tokens = own(torch.randn(1, 30, WIDTH, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(tokens, said.exp() @ own.pieces_VE)


def test_a_recording_shorter_than_a_token_gives_one_token() -> None:
    heard = Projectors(projector(0), None).speech_tokens(torch.randn(1, 1, WIDTH), torch.tensor([1]))
    assert heard.own.tolist() == [[True]]


def test_without_context_layers_the_tensors_are_those_of_the_published_checkpoints() -> None:
    names = ["linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias"]
    assert list(projector(0).state_dict()) == names
    assert set(names) < set(projector(1).state_dict())


def test_spans_are_masked_only_in_training() -> None:
    frames, lengths = torch.randn(2, 30, WIDTH), torch.tensor([30, 30])
    projectors = Projectors(projector(0), None, mask_frames=10)
    evaluated = projectors.eval().speech_tokens(frames, lengths).tokens
    assert torch.equal(evaluated, projectors.speech_tokens(frames, lengths).tokens)
    torch.manual_seed(0)
    assert not torch.equal(evaluated, projectors.train().speech_tokens(frames, lengths).tokens)
