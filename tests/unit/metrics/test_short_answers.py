"""Metrics against cases computed by hand from their papers' definitions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.metrics.short_answers import (
    anls,
    contains_answer,
    is_right,
    relaxed_match,
    vqa_accuracy,
    vqa_normalize,
)


@pytest.mark.parametrize(
    ("agreeing", "accuracy"),
    [
        # n of ten annotators give the answer. Leaving one of them out leaves n - 1, leaving out another leaves n.
        (0, 0.0),
        (1, (1 * 0 + 9 * 1 / 3) / 10),
        (2, (2 * 1 / 3 + 8 * 2 / 3) / 10),
        (3, (3 * 2 / 3 + 7 * 1) / 10),
        (4, 1.0),
        (10, 1.0),
    ],
)
def test_vqa_accuracy_leaves_each_person_out_in_turn(agreeing: int, accuracy: float) -> None:
    answers = ["red"] * agreeing + [f"other {number}" for number in range(10 - agreeing)]
    assert vqa_accuracy("red", answers) == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Red Car!", "red car"),
        ("two", "2"),
        ("None", "0"),
        ("an apple a day", "apple day"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),
        ("couldn'tve", "couldn't've"),
        ("10,000", "10000"),
        ("3.5", "3.5"),
        ("yes.", "yes"),
        ("t-shirt", "t shirt"),
        ("t- shirt", "t shirt"),
        ("coca-cola / pepsi", "coca cola pepsi"),
        ("(left)", "left"),
        ("joe's diner", "joe 's diner"),
        ("first\nsecond\tthird", "first second third"),
        ("oclock", "o'clock"),
    ],
)
def test_vqa_normalization_is_that_of_the_evaluation_server(text: str, normalized: str) -> None:
    assert vqa_normalize(text) == normalized


def test_vqa_accuracy_compares_normalized_answers() -> None:
    assert vqa_accuracy("The two.", ["2"] * 10) == 1.0


@pytest.mark.parametrize(
    ("prediction", "answers", "similarity"),
    [
        ("hello", ["hello"], 1.0),
        ("HELLO", ["hello"], 1.0),
        ("hallo", ["hello"], 1 - 1 / 5),
        ("helo world", ["hello world"], 1 - 1 / 11),
        ("abcd", ["abxy"], 0.0),  # distance 2 of 4 is not below one half
        ("abcde", ["abcxy"], 1 - 2 / 5),
        ("xyz", ["hello"], 0.0),
        ("", ["hello"], 0.0),
        ("0.28 mg", ["0.28", "0.28 mg"], 1.0),
        ("new  york", ["New York"], 1.0),
    ],
)
def test_anls_is_the_similarity_to_the_nearest_answer_if_at_least_one_half(
    prediction: str, answers: list[str], similarity: float
) -> None:
    assert anls(prediction, answers) == pytest.approx(similarity)


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        ("95", "100", True),
        ("105", "100", True),
        ("94.9", "100", False),
        ("-105", "-100", True),
        ("105", "-100", False),
        ("12%", "0.12", True),
        ("12.7%", "12%", False),
        ("0", "0", True),
        ("0.01", "0", False),
        ("Lamb", "lamb", True),
        ("lamb.", "lamb", False),
        ("about 100", "100", False),
        ("100", "one hundred", False),
        (" 14 ", "14", True),
    ],
)
def test_relaxed_accuracy_tolerates_five_percent_for_numbers_and_nothing_for_words(
    prediction: str, answer: str, right: bool
) -> None:
    assert relaxed_match(prediction, answer) is right


def test_exact_match_needs_the_whole_answer_and_contained_a_part_of_it() -> None:
    assert is_right("The Paris.", ["paris"])
    assert not is_right("It is Paris.", ["paris"])
    assert contains_answer("It is Paris.", ["london", "paris"])
    assert not contains_answer("It is Parisian.", ["paris"])
    assert not contains_answer("anything", ["..."])


@given(st.text(max_size=20), st.lists(st.text(max_size=20), min_size=1, max_size=10))
def test_scores_lie_between_zero_and_one(prediction: str, answers: list[str]) -> None:
    assert 0 <= anls(prediction, answers) <= 1
    assert 0 <= vqa_accuracy(prediction, answers) <= 1


@given(st.lists(st.text(max_size=20), min_size=4, max_size=10))
def test_an_answer_of_four_annotators_is_correct(answers: list[str]) -> None:
    assert vqa_accuracy(answers[0], [answers[0]] * 4 + answers) == 1
