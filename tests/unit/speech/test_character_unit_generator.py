"""Nano's speech generator: streams against one pass, letters, training, errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model_core.errors import InvalidInput
from model_core.presets import tiny
from model_core.speech.character_unit_generator import CharacterUnitGenerator, letters_of, spread
from model_core.speech.streaming import Layer

WIDTH, VOCABULARY, FRAMES, UNITS = 6, 40, 4, 5
LAYERS = (Layer(kernel=3, dilation=1, ahead=1), Layer(kernel=3, dilation=2, ahead=3), Layer(kernel=3, dilation=3))


def random_generator() -> CharacterUnitGenerator:
    torch.manual_seed(0)
    config = CharacterUnitGenerator.Config(
        hidden_width=WIDTH, vocabulary=VOCABULARY, units=UNITS, width=8, frames=FRAMES, layers=LAYERS
    )
    generator = config.build().eval()
    generator.spelling_VT.copy_(torch.randint(1, 96, (VOCABULARY, FRAMES)))
    torch.nn.init.normal_(generator.out.weight, std=2.0)
    return generator.set_output_table(torch.randn(VOCABULARY, WIDTH)).requires_grad_(False)


GENERATOR = random_generator()
HIDDEN = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(1))


def units_in_steps(*streams: list[Tensor]) -> list[list[int]]:
    """Units of concurrent streams, step by step; shorter ones end first."""
    states = [GENERATOR.new_state() for _ in streams]
    heard: list[list[int]] = [[] for _ in streams]
    for step in range(max(map(len, streams))):
        rows = [row for row, stream in enumerate(streams) if step < len(stream)]
        own = [states[row] for row in rows]
        last = [step + 1 == len(streams[row]) for row in rows]
        frames = GENERATOR.step(own, [streams[row][step] for row in rows], last)
        for row, units in zip(rows, GENERATOR.collapse(own, frames), strict=True):
            heard[row] += units.tolist()
    return heard


def one_pass(hidden: Tensor) -> list[int]:
    return units_in_steps([hidden])[0]


def test_an_answer_has_several_different_units() -> None:
    assert len(set(one_pass(HIDDEN))) > 2


@settings(max_examples=30)
@given(st.lists(st.integers(0, len(HIDDEN)), max_size=6).map(sorted))
def test_chunks_of_any_size_give_the_units_of_one_pass(cuts: list[int]) -> None:
    pieces = list(HIDDEN.tensor_split(cuts))
    assert units_in_steps(pieces) == [one_pass(HIDDEN)]


def test_concurrent_streams_are_independent() -> None:
    streams = [list(HIDDEN.split(3)), list(HIDDEN[5:12].split(1)), [HIDDEN[:1]], [HIDDEN[:0]]]
    assert units_in_steps(*streams) == [one_pass(HIDDEN), one_pass(HIDDEN[5:12]), one_pass(HIDDEN[:1]), []]


def test_frames_are_held_back_by_one_token_until_the_end() -> None:
    state, found = GENERATOR.new_state(), []
    for token in range(4):
        found.append(len(GENERATOR.step([state], [HIDDEN[token : token + 1]], [token == 3])[0]))
    assert found == [0, FRAMES, FRAMES, 2 * FRAMES]


def test_a_hidden_state_is_mapped_to_its_likeliest_token() -> None:
    table = torch.eye(VOCABULARY, WIDTH)
    generator = random_generator().set_output_table(table)
    assert generator.tokens(3.0 * table[:WIDTH] + 0.1).tolist() == list(range(WIDTH))


def test_frames_of_a_word_piece_depend_only_on_the_next_piece() -> None:
    tokens = torch.tensor([3, 7, 9])
    first = GENERATOR.logits([tokens])[0]
    other_next = GENERATOR.logits([torch.tensor([3, 8, 9])])[0]
    other_last = GENERATOR.logits([torch.tensor([3, 7, 1])])[0]
    assert not torch.allclose(first[:FRAMES], other_next[:FRAMES])
    torch.testing.assert_close(first[:FRAMES], other_last[:FRAMES])


def test_letters_are_spread_evenly_over_the_frames() -> None:
    assert spread(letters_of("ab"), 4) == [66, 66, 67, 67]
    assert spread(letters_of("abc"), 4) == [66, 66, 67, 68]
    assert spread(letters_of("abcdef"), 4) == [66, 67, 68, 69]
    assert spread(letters_of(""), 3) == [0, 0, 0]
    assert letters_of(" ~é\n") == [1, 95, 0, 0]


def test_a_generator_knows_the_spelling_of_a_vocabulary() -> None:
    tokenizer = tiny.tokenizer()
    size = tokenizer.get_vocab_size()
    config = CharacterUnitGenerator.Config(hidden_width=4, vocabulary=size, units=3, width=4, frames=2, layers=LAYERS)
    generator = config.build().set_spelling(tokenizer)
    assert generator.spelling_VT[tokenizer.token_to_id("a")].tolist() == letters_of("aa")
    assert generator.spelling_VT[tokenizer.token_to_id("<|im_end|>")].tolist() == [0, 0]


def test_the_generator_can_overfit_a_few_answers() -> None:
    generator = random_generator().requires_grad_(True).train()
    answers = [torch.tensor([1, 2, 3]), torch.tensor([3, 1])]
    units = [torch.tensor([0, 1, 2, 3]), torch.tensor([3, 3, 0])]
    optimizer = torch.optim.Adam(generator.parameters(), 0.02)
    for _ in range(120):
        optimizer.zero_grad()
        generator.loss(answers, units).backward()
        optimizer.step()
    generator.eval()
    frames = [logits.argmax(-1) for logits in generator.logits(answers)]
    states = [generator.new_state() for _ in answers]
    assert [found.tolist() for found in generator.collapse(states, frames)] == [each.tolist() for each in units]


@pytest.mark.parametrize(
    "hidden",
    [torch.zeros(2, WIDTH + 1), torch.zeros(WIDTH), torch.zeros(2, WIDTH).long(), torch.full((1, WIDTH), torch.nan)],
)
def test_bad_hidden_states_are_refused_and_change_nothing(hidden: Tensor) -> None:
    state = GENERATOR.new_state()
    GENERATOR.step([state], [HIDDEN[:3]], [False])
    with pytest.raises(InvalidInput, match="hidden_states"):
        GENERATOR.step([state], [hidden], [False])
    assert state.past.position == 3 * FRAMES


def test_an_unknown_unit_or_a_table_of_another_model_is_refused() -> None:
    with pytest.raises(InvalidInput, match="units"):
        GENERATOR.loss([torch.tensor([1])], [torch.tensor([UNITS])])
    with pytest.raises(InvalidInput, match="table"):
        random_generator().set_output_table(torch.zeros(VOCABULARY, WIDTH + 1))
