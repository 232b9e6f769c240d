import pytest

from model_core.metrics.word_errors import WordErrors, normalize, same_answer, word_errors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mister Smith won't pay $5!", "mister smith will not pay $5"),
        ("  Mr. Brown,  you're LATE -- ok? ", "mister brown you are late ok"),
        ("twenty-one people", "21 people"),
        ("Um, [laughs] yes.", "yes"),
        ("", ""),
    ],
)
def test_texts_are_compared_ignoring_case_punctuation_and_number_spelling(text: str, expected: str) -> None:
    assert normalize(text) == expected


@pytest.mark.parametrize(
    ("reference", "prediction", "expected"),
    [
        ("the cat sat", "The cat sat.", WordErrors(3, 0, 0, 0)),
        ("the cat sat", "the bat sat", WordErrors(3, 1, 0, 0)),
        ("the cat sat", "the sat", WordErrors(3, 0, 1, 0)),
        ("the cat sat", "the cat sat down here", WordErrors(3, 0, 0, 2)),
        ("the cat sat", "", WordErrors(3, 0, 3, 0)),
        ("Um.", "two words", WordErrors(0, 0, 0, 2)),
        ("we sat and ate all of it", "we stood and ate of it now", WordErrors(7, 1, 1, 1)),
    ],
)
def test_word_errors_match_a_count_by_hand(reference: str, prediction: str, expected: WordErrors) -> None:
    assert word_errors(reference, prediction) == expected


def test_the_corpus_rate_weights_words_not_utterances() -> None:
    total = word_errors("one wrong", "one long") + word_errors("every word of these eight is right here", "")
    assert total == WordErrors(words=10, substitutions=1, deletions=8, insertions=0)
    assert total.rate == pytest.approx(0.9)


def test_the_rate_exceeds_one_for_runaway_predictions() -> None:
    assert word_errors("yes", "no no no").rate == 3


@pytest.mark.parametrize(
    ("expected", "prediction", "same"),
    [
        ("yes", "Yes.", True),
        ("circle", "A circle.", True),
        ("a red circle", "the red circle", True),
        ("2", "two", True),
        ("yes", "no", False),
        ("circle", "It is a circle.", False),
        ("yes", "", False),
    ],
)
def test_answers_match_exactly_except_for_case_punctuation_and_articles(
    expected: str, prediction: str, same: bool
) -> None:
    assert same_answer(expected, prediction) is same
