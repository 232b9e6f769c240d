"""The order of samples in training."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from more_itertools import chunked

from model_core.errors import InvalidInput
from model_core.training.dataset import MixtureSampler

shares = st.lists(st.tuples(st.integers(1, 40), st.floats(0.05, 3)), min_size=1, max_size=3)


def sampler(parts: list[tuple[int, float]], batch: int, seed: int = 0, epoch: int = 0) -> MixtureSampler:
    """Over samples whose lengths repeat."""
    lengths = [(index * 37) % 101 for index in range(sum(count for count, _ in parts))]
    made = MixtureSampler(lengths, parts, batch, seed)
    made.set_epoch(epoch)
    return made


@given(shares.filter(lambda parts: any(round(count * weight) for count, weight in parts)), st.integers(1, 9))
def test_an_epoch_samples_each_source_by_weight_and_fills_the_last_batch(
    parts: list[tuple[int, float]], batch: int
) -> None:
    order = list(sampler(parts, batch))
    wanted = [round(count * weight) for count, weight in parts]
    start, found = 0, []
    for count, _ in parts:
        found.append(sum(start <= index < start + count for index in order))
        start += count
    assert len(order) == len(sampler(parts, batch)) == -(-sum(wanted) // batch) * batch
    assert all(have >= want for have, want in zip(found, wanted, strict=True))
    assert sum(found) - sum(wanted) < batch


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 5))
def test_a_whole_source_is_seen_once_an_epoch(count: int, batch: int, epoch: int) -> None:
    order = list(sampler([(count, 1.0)], batch, epoch=epoch))
    assert set(order) == set(range(count))


@given(st.integers(2, 40), st.integers(0, 3))
def test_epochs_of_half_a_source_continue_where_the_last_one_ended(count: int, seed: int) -> None:
    seen = Counter(index for epoch in range(4) for index in sampler([(2 * count, 0.5)], 1, seed, epoch))
    assert set(seen.values()) == {2}


def test_batches_have_similar_lengths_and_are_shuffled() -> None:
    made = sampler([(480, 1.0)], 8)
    spans = [max(lengths) - min(lengths) for lengths in chunked([made.lengths[index] for index in made], 8)]
    assert sum(spans) / len(spans) < 15  # of 100, where chance would give about 80
    means = [sum(lengths) for lengths in chunked([made.lengths[index] for index in made], 8)]
    assert any(one > other for one, other in pairwise(means))
    assert any(one < other for one, other in pairwise(means))


def test_the_order_depends_only_on_seed_and_epoch() -> None:
    parts = [(30, 1.0), (20, 0.5)]
    assert list(sampler(parts, 4, 1, 2)) == list(sampler(parts, 4, 1, 2))
    assert list(sampler(parts, 4, 1, 2)) != list(sampler(parts, 4, 1, 3))
    assert list(sampler(parts, 4, 1, 2)) != list(sampler(parts, 4, 2, 2))


def test_weights_that_select_nothing_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no sample"):
        sampler([(3, 0.1)], 2)
