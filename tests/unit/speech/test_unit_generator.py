"""The speech generator: reference numbers, streams against one pass, CTC, errors."""

from copy import deepcopy
from itertools import chain, groupby
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from model_core.errors import InvalidInput
from model_core.speech.ctc import IGNORED
from model_core.speech.unit_generator import UnitGenerator

PARITY = Path(__file__).parents[2] / "data" / "parity" / "speech_generator.safetensors"
WIDTH, UPSAMPLE = 12, 4


def reference() -> tuple[UnitGenerator, dict[str, Tensor]]:
    tensors = load_file(PARITY)
    hidden_width, layers, width, heads, feed_forward, upsample, units = tensors["config"].tolist()
    generator = UnitGenerator.Config(
        hidden_width=hidden_width,
        layers=layers,
        width=width,
        heads=heads,
        feed_forward=feed_forward,
        upsample=upsample,
        units=units,
    ).build()
    weights = {name.removeprefix("weight."): x.float() for name, x in tensors.items() if name.startswith("weight.")}
    generator.load_state_dict(weights)
    return generator.eval().requires_grad_(False), tensors


def random_generator() -> UnitGenerator:
    torch.manual_seed(0)
    shape = UnitGenerator.Config(
        hidden_width=WIDTH, layers=2, width=16, heads=2, feed_forward=24, upsample=UPSAMPLE, units=30
    )
    return shape.build().eval().requires_grad_(False)


GENERATOR = random_generator()
HIDDEN = 3.0 * torch.randn(80, WIDTH, generator=torch.Generator().manual_seed(1))


def test_the_reference_frames_are_reproduced_exactly() -> None:
    generator, tensors = reference()
    assert generator.predict(tensors["predict.hidden"]).tolist() == tensors["predict.frames"].tolist()


def test_single_hidden_states_reproduce_the_reference_frames_too() -> None:
    generator, tensors = reference()
    state = generator.new_state()
    frames = [generator.step([state], [hidden[None]])[0] for hidden in tensors["predict.hidden"]]
    assert torch.cat(frames).tolist() == tensors["predict.frames"].tolist()


def test_the_reference_loss_is_reproduced() -> None:
    generator, tensors = reference()
    value = generator.loss(tensors["loss.hidden"], tensors["loss.labels"], tensors["loss.units"])
    assert value.item() == pytest.approx(tensors["loss.value"].item(), rel=1e-5)


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.lists(st.integers(0, 12), min_size=1, max_size=5)), min_size=1, max_size=4
    )
)
def test_streams_in_any_chunks_and_batches_equal_one_pass(streams: list[tuple[int, list[int]]]) -> None:
    """Each stream is a start within HIDDEN and the sizes of its chunks."""
    states = [GENERATOR.new_state() for _ in streams]
    frames: list[list[Tensor]] = [[] for _ in streams]
    for turn in range(max(len(sizes) for _, sizes in streams)):
        rows = [row for row, (_, sizes) in enumerate(streams) if turn < len(sizes)]
        starts = [streams[row][0] + sum(streams[row][1][:turn]) for row in rows]
        chunks = [HIDDEN[start : start + streams[row][1][turn]] for row, start in zip(rows, starts, strict=True)]
        for row, found in zip(rows, GENERATOR.step([states[row] for row in rows], chunks), strict=True):
            frames[row].append(found)
    for (start, sizes), heard in zip(streams, frames, strict=True):
        whole = GENERATOR.predict(HIDDEN[start : start + sum(sizes)])
        assert len(whole) == UPSAMPLE * min(sum(sizes), len(HIDDEN) - start)
        assert torch.cat(heard).tolist() == whole.tolist()


def test_many_hidden_states_in_one_step_equal_one_pass() -> None:
    (frames,) = GENERATOR.step([GENERATOR.new_state()], [HIDDEN])
    assert frames.tolist() == GENERATOR.predict(HIDDEN).tolist()


@given(st.lists(st.lists(st.integers(27, 30), max_size=8), max_size=6))
def test_repeats_are_merged_and_blanks_dropped_across_steps(chunks: list[list[int]]) -> None:
    state = GENERATOR.new_state()
    units = [
        unit
        for chunk in chunks
        for unit in GENERATOR.collapse([state], [torch.tensor(chunk, dtype=torch.int64)])[0].tolist()
    ]
    assert units == [frame for frame, _ in groupby(chain.from_iterable(chunks)) if frame != GENERATOR.blank]


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(2, WIDTH + 1),
        torch.zeros(WIDTH),
        torch.zeros(2, WIDTH, dtype=torch.int64),
        torch.full((1, WIDTH), float("nan")),
        torch.full((1, WIDTH), float("inf")),
    ],
    ids=["width", "dimensions", "integers", "nan", "infinity"],
)
def test_mismatched_hidden_states_are_refused_and_no_stream_advances(wrong: Tensor) -> None:
    states = [GENERATOR.new_state(), GENERATOR.new_state()]
    GENERATOR.step(states, [HIDDEN[:2], HIDDEN[:3]])
    untouched = deepcopy(states)
    with pytest.raises(InvalidInput, match="hidden_states"):
        GENERATOR.step(states, [HIDDEN[2:3], wrong])
    with pytest.raises(InvalidInput, match="hidden_states"):
        GENERATOR.predict(wrong)
    for state, before in zip(states, untouched, strict=True):
        (frames,) = GENERATOR.step([state], [HIDDEN[5:9]])
        assert torch.equal(frames, GENERATOR.step([before], [HIDDEN[5:9]])[0])


def test_an_answer_without_tokens_has_no_frames() -> None:
    assert len(GENERATOR.predict(HIDDEN[:0])) == 0
    (frames,) = GENERATOR.step([GENERATOR.new_state()], [HIDDEN[:0]])
    assert len(frames) == 0
    assert GENERATOR.step([], []) == []


def test_the_loss_of_a_batch_does_not_depend_on_padding_or_neighbours() -> None:
    labels = torch.tensor([[IGNORED, 1, 1, IGNORED, IGNORED], [1, 1, 1, 1, IGNORED]])
    units = torch.tensor([[3, 4, IGNORED, IGNORED], [5, 6, 7, IGNORED]])
    hidden = HIDDEN[:10].view(2, 5, WIDTH)
    alone = [GENERATOR.loss(hidden[row : row + 1], labels[row : row + 1], units[row : row + 1]) for row in (0, 1)]
    together = GENERATOR.loss(hidden, labels, units)
    assert together.item() == pytest.approx((2 * alone[0].item() + 3 * alone[1].item()) / 5, rel=1e-5)
    cut = GENERATOR.loss(hidden[:, :4], labels[:, :4], units[:, :3])
    assert cut.item() == pytest.approx(together.item(), rel=1e-5)


def test_hidden_states_are_stretched_where_a_target_is_longer_than_their_frames() -> None:
    units = torch.arange(7)[None] % 2
    value = GENERATOR.loss(HIDDEN[None, :1], torch.tensor([[1]]), units)
    assert UPSAMPLE < 7
    assert 0.0 < value.item() < float("inf")


def test_a_batch_without_units_has_zero_loss_and_can_be_backpropagated() -> None:
    generator = random_generator().requires_grad_(True)
    nothing = torch.full((1, 3), IGNORED)
    value = generator.loss(HIDDEN[None, :3], nothing, nothing)
    value.backward()
    assert value.item() == 0.0


def test_targets_that_are_unknown_or_have_no_answer_are_refused() -> None:
    labels = torch.ones(1, 3, dtype=torch.int64)
    with pytest.raises(InvalidInput, match="units"):
        GENERATOR.loss(HIDDEN[None, :3], labels, torch.tensor([[30]]))
    with pytest.raises(InvalidInput, match="labels"):
        GENERATOR.loss(HIDDEN[None, :3], torch.full((1, 3), IGNORED), torch.tensor([[2]]))


def test_training_reduces_the_loss() -> None:
    generator = random_generator().requires_grad_(True)
    optimizer = torch.optim.Adam(generator.parameters(), 1e-2)
    labels, units = torch.ones(1, 6, dtype=torch.int64), torch.tensor([[1, 2, 3, 4, 5, 6, 7]])
    losses = []
    for _ in range(30):
        loss = generator.loss(HIDDEN[None, :6], labels, units)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
