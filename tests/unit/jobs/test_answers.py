"""Stretches of clips that are answered from at once: all of them, in order, none larger than what can be read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lyra.v1.language_model_pb2 import LanguageModelDescribeResponse
from services.shared.service_errors import Failed
from services.worker.answers import group_clips, window_budget
from services.worker.settings import WorkerSettings


@given(st.lists(st.integers(0, 150), min_size=1, max_size=200), st.integers(150, 3000))
def test_every_clip_is_in_one_stretch_that_can_be_read(counts: list[int], budget: int) -> None:
    tokens = {2 * place: count for place, count in enumerate(counts)}  # clips between were not heard
    groups = group_clips(tokens, budget)
    members = [[index for index in tokens if first <= index <= last] for first, last in groups]
    assert [index for group in members for index in group] == list(tokens)
    assert all(sum(tokens[index] for index in group) <= budget for group in members)
    # Not many more than there have to be.
    assert len(groups) <= 2 * (sum(counts) // budget + 1)


def test_what_fits_is_one_stretch() -> None:
    assert group_clips({0: 100, 1: 120, 2: 80}, 300) == ((0, 2),)


def test_stretches_are_of_about_the_same_size() -> None:
    groups = group_clips(dict.fromkeys(range(100), 100), 6000)
    assert [last - first + 1 for first, last in groups] == [51, 49]


@pytest.mark.parametrize(
    ("set_tokens", "model_tokens", "budget"),
    [(0, 0, 7308), (0, 2048, 2048), (500, 2048, 500), (4096, 2048, 4096), (100_000, 0, 7308)],
)
def test_a_stretch_is_as_long_as_is_set_or_the_model_answers_well_from(
    set_tokens: int, model_tokens: int, budget: int
) -> None:
    settings = WorkerSettings(window_tokens=set_tokens)
    model = LanguageModelDescribeResponse(context_tokens=8192, window_tokens=model_tokens)
    assert window_budget(settings, model) == budget


def test_a_model_that_reads_too_little_for_a_question_is_refused() -> None:
    with pytest.raises(Failed, match="context of 512 tokens"):
        window_budget(WorkerSettings(), LanguageModelDescribeResponse(context_tokens=512))
