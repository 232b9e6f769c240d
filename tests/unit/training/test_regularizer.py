"""Soft-DTW and the regularizer: against the reference numbers, every path counted, and finite differences."""

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from model_core.errors import InvalidInput
from model_core.training.regularizer import contrastive_cost, regularizer_loss, soft_dtw
from tests.paths import DATA

NAN = float("nan")
lengths = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5)), min_size=1, max_size=4)
seeds = st.integers(0, 2**16)


def random_batch(sizes: list[tuple[int, int]], seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Speech and text tokens of each row, float64, 3 wide, unpadded."""
    generator = torch.Generator().manual_seed(seed)
    speech, text = (
        [torch.randn(count, 3, generator=generator, dtype=torch.float64) for count in counts]
        for counts in zip(*sizes, strict=True)
    )
    return speech, text


def padded(rows: list[Tensor], extra: int, filler: float = NAN) -> Tensor:
    """Stacks rows, padded with `filler`."""
    longest = max(len(row) for row in rows) + extra
    return torch.stack([torch.nn.functional.pad(row, (0, 0, 0, longest - len(row)), value=filler) for row in rows])


def path_costs(cost: Tensor, row: int = 0, column: int = 0) -> Iterator[Tensor]:
    """The cost of every monotone path, one by one."""
    rows, columns = cost.shape
    if (row, column) == (rows - 1, columns - 1):
        yield cost[row, column]
        return
    for step in ((1, 0), (0, 1), (1, 1)):
        if row + step[0] < rows and column + step[1] < columns:
            for rest in path_costs(cost, row + step[0], column + step[1]):
                yield cost[row, column] + rest


@pytest.mark.parametrize("case", ["dtw0", "dtw1", "dtw2"])
def test_value_loss_and_gradients_match_the_reference(case: str) -> None:
    stored = load_file(DATA / "parity" / "regularizer.safetensors")
    want = {name.removeprefix(f"{case}."): tensor for name, tensor in stored.items() if name.startswith(case)}
    speech, text = want["speech"][None].requires_grad_(), want["text"][None].requires_grad_()
    lengths, temperature = ([speech.shape[1]], [text.shape[1]]), want["temperature"].item()
    value = soft_dtw(contrastive_cost(speech, text, lengths[1], temperature), *lengths)
    loss = regularizer_loss(speech, text, *lengths, temperature)
    grad_speech, grad_text = torch.autograd.grad(loss, (speech, text))
    got = {"value": value, "loss": loss[None], "grad_speech": grad_speech[0], "grad_text": grad_text[0]}
    torch.testing.assert_close(got, {name: want[name] for name in got}, rtol=1e-4, atol=1e-4)


@given(seeds, st.integers(1, 5), st.integers(1, 4), st.sampled_from([0.05, 0.1, 1.0]))
@settings(max_examples=25)
def test_value_and_gradient_match_an_enumeration_of_all_paths(seed: int, rows: int, columns: int, gamma: float) -> None:
    cost = torch.rand(1, rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    cost.requires_grad_()
    counted = -gamma * torch.stack([-path / gamma for path in path_costs(cost[0])]).logsumexp(0)
    value = soft_dtw(cost, [rows], [columns], gamma)
    torch.testing.assert_close(value[0], counted)
    torch.testing.assert_close(*(torch.autograd.grad(what, cost)[0] for what in (value[0], counted)))


@given(lengths, seeds, st.sampled_from([0.02, 0.1, 1.0]))
@settings(max_examples=15)
def test_gradient_of_soft_dtw_equals_finite_differences(sizes: list[tuple[int, int]], seed: int, gamma: float) -> None:
    cost = torch.rand(len(sizes), 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rows, columns = zip(*sizes, strict=True)
    assert torch.autograd.gradcheck(lambda c: soft_dtw(c, rows, columns, gamma), cost.requires_grad_())


@given(lengths, seeds)
@settings(max_examples=10)
def test_gradient_of_the_loss_equals_finite_differences(sizes: list[tuple[int, int]], seed: int) -> None:
    speech, text = (padded(rows, 1, 0.5).requires_grad_() for rows in random_batch(sizes, seed))
    speech_lengths, text_lengths = zip(*sizes, strict=True)

    def loss(speech: Tensor, text: Tensor) -> Tensor:
        return regularizer_loss(speech, text, speech_lengths, text_lengths, temperature=0.5)

    assert torch.autograd.gradcheck(loss, (speech, text))


@given(lengths, seeds, st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=40)
def test_batching_and_padding_never_change_value_or_gradient(
    sizes: list[tuple[int, int]], seed: int, extra_speech: int, extra_text: int
) -> None:
    speech_rows, text_rows = random_batch(sizes, seed)
    speech = padded(speech_rows, extra_speech).requires_grad_()
    text = padded(text_rows, extra_text).requires_grad_()
    speech_lengths, text_lengths = zip(*sizes, strict=True)
    loss = regularizer_loss(speech, text, speech_lengths, text_lengths)
    grads = torch.autograd.grad(loss, (speech, text))
    alone = []
    for row, (own_speech, own_text) in enumerate(zip(speech_rows, text_rows, strict=True)):
        pair = own_speech[None].requires_grad_(), own_text[None].requires_grad_()
        alone.append(regularizer_loss(*pair, [len(own_speech)], [len(own_text)]))
        for grad, own in zip(grads, torch.autograd.grad(alone[-1], pair), strict=True):
            torch.testing.assert_close(grad[row, : own.shape[1]], own[0] / len(sizes))
            assert not grad[row, own.shape[1] :].any()
    torch.testing.assert_close(loss, torch.stack(alone).mean())


@pytest.mark.parametrize("counts", [(4, 0), (0, 3), (0, 0), (4, 1), (1, 1)])
def test_rows_without_speech_or_text_or_with_one_token_contribute_nothing(
    counts: tuple[int, int],
) -> None:
    speech, text = torch.randn(2, 4, 8, requires_grad=True), torch.randn(2, 3, 8, requires_grad=True)
    loss = regularizer_loss(speech, text, [4, counts[0]], [3, counts[1]])
    loss.backward()
    assert loss == regularizer_loss(speech[:1], text[:1], [4], [3]) / 2
    assert speech.grad is not None
    assert text.grad is not None
    assert speech.grad[0].any()
    assert not speech.grad[1].any()
    assert not text.grad[1].any()


@pytest.mark.parametrize("shape", [(2, 0, 3), (2, 4, 0), (2, 0, 0), (0, 4, 3)])
def test_an_empty_table_has_zero_value_and_gradient(shape: tuple[int, int, int]) -> None:
    cost = torch.zeros(shape, requires_grad=True)
    value = soft_dtw(cost, [shape[1]] * shape[0], [shape[2]] * shape[0])
    value.sum().backward()
    assert value.tolist() == [0.0] * shape[0]
    assert cost.grad is not None
    assert cost.grad.shape == shape


def test_a_single_row_or_column_has_one_path() -> None:
    cost = torch.arange(12.0).reshape(1, 3, 4).requires_grad_()
    assert soft_dtw(cost, [1], [4]).item() == 0 + 1 + 2 + 3
    assert soft_dtw(cost, [3], [1]).item() == 0 + 4 + 8
    (grad,) = torch.autograd.grad(soft_dtw(cost, [3], [1]), cost)
    assert grad[0].tolist() == [[1, 0, 0, 0]] * 3


def test_float32_stays_accurate_for_large_sums() -> None:
    cost = torch.rand(2, 200, 80, generator=torch.Generator().manual_seed(1)) * 1000
    single, double = cost.requires_grad_(), cost.detach().double().requires_grad_()
    values = [soft_dtw(c, [200, 150], [80, 60], 0.01) for c in (single, double)]
    grads = [torch.autograd.grad(v.sum(), c)[0] for v, c in zip(values, (single, double), strict=True)]
    assert values[0].dtype == torch.float32
    torch.testing.assert_close(values[0].double(), values[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(grads[0].double(), grads[1], rtol=1e-6, atol=1e-6)


def test_autocast_changes_nothing() -> None:
    speech, text = torch.randn(2, 9, 16, requires_grad=True), torch.randn(2, 4, 16, requires_grad=True)

    plain = regularizer_loss(speech, text, [9, 7], [4, 2])
    with torch.autocast("cpu", torch.bfloat16):
        cast = regularizer_loss(speech, text, [9, 7], [4, 2])
    assert cast == plain
    grads = [torch.autograd.grad(loss, (speech, text)) for loss in (plain, cast)]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_half_precision_tokens_are_compared_in_float32() -> None:
    speech = torch.randn(2, 9, 16).bfloat16().requires_grad_()
    text = torch.randn(2, 4, 16).bfloat16()
    loss = regularizer_loss(speech, text, torch.tensor([9, 7]), torch.tensor([4, 2]))
    assert loss.dtype == torch.float32
    assert loss == regularizer_loss(speech.float(), text.float(), [9, 7], [4, 2])
    loss.backward()
    assert speech.grad is not None
    assert speech.grad.dtype == torch.bfloat16


SPEECH, TEXT, COST = torch.zeros(2, 4, 8), torch.zeros(2, 3, 8), torch.zeros(2, 4, 3)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: regularizer_loss(SPEECH, TEXT, [4, 5], [3, 3]), "speech_lengths"),
        (lambda: regularizer_loss(SPEECH, TEXT, [4, 4], [3, -1]), "text_lengths"),
        (lambda: regularizer_loss(SPEECH, TEXT, [4], [3, 3]), "speech_lengths"),
        (lambda: regularizer_loss(SPEECH, TEXT, [4, 4], [3.0, 3.0]), "text_lengths"),  # type: ignore[list-item]
        (lambda: regularizer_loss(SPEECH, TEXT[..., :7], [4, 4], [3, 3]), "text"),
        (lambda: regularizer_loss(SPEECH[0], TEXT, [4, 4], [3, 3]), "speech"),
        (lambda: regularizer_loss(SPEECH[:0], TEXT[:0], [], []), "speech"),
        (lambda: regularizer_loss(SPEECH, TEXT, [4, 4], [3, 3], temperature=0), "temperature"),
        (lambda: regularizer_loss(SPEECH, TEXT, [4, 4], [3, 3], gamma=NAN), "gamma"),
        (lambda: soft_dtw(COST[0], [4], [3]), "cost"),
        (lambda: soft_dtw(COST.long(), [4, 4], [3, 3]), "cost"),
        (lambda: soft_dtw(COST, [4, 4], [3, 4]), "text_lengths"),
        (lambda: soft_dtw(COST, [4, 4], [3, 3], gamma=0), "gamma"),
    ],
)
def test_mismatched_inputs_are_named(call: Callable[[], Tensor], field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        call()
    assert error.value.field == field
