"""Prose split into sentences that a voice can read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.data.sources.chat import tidy
from model_core.data.sources.sentences import MAX_WORDS, is_held_out, is_speakable, sentences_of


def known(word: str) -> bool:
    return word != "xyzzy"


@pytest.mark.parametrize(
    ("prose", "sentences"),
    [
        ("It was late.  He\nslept.", ["It was late.", "He slept."]),
        ("Mr. Hill met Mrs Long at St. James.", ["Mister Hill met Missus Long at Saint James."]),
        ('"Well," said she; "is it—true?"', ["Well, said she, is it, true?"]),
        ("The _great_ house (his own) was old.", ["The great house was old."]),
        ("she's at the ladies' door", ["She's at the ladies door."]),
    ],
)
def test_prose_is_split_at_sentence_ends(prose: str, sentences: list[str]) -> None:
    assert list(sentences_of(prose)) == sentences


def test_a_long_sentence_is_split_at_semicolons_then_at_commas() -> None:
    start, long = " ".join(["word"] * 15), ", ".join([" ".join(["more"] * 9)] * 4)
    pieces = list(sentences_of(f"{start}; {long}."))
    assert [len(piece.split()) for piece in pieces] == [15, 18, 18]
    assert pieces[0] == f"W{start[1:]}."


@given(st.lists(st.sampled_from(["one,", "two;", "three", "Four", "five.", "six--seven", "(eight)"]), max_size=90))
def test_every_sentence_starts_in_upper_case_and_ends_with_one_mark(words: list[str]) -> None:
    for sentence in sentences_of(" ".join(words)):
        if len(sentence) > 1:
            assert sentence[-1] in ".!?"
            assert sentence[-2].isalnum()
            assert sentence[0] == sentence[0].upper()


@pytest.mark.parametrize(
    "text",
    [
        "Too short.",
        "There were 3 of them there.",
        "The USA is a large country.",
        "He said xyzzy to the door.",
        "The letter q is seldom seen.",
        "It was so. and then it went on.",
        " ".join(["word", "other"] * (MAX_WORDS // 2 + 1)) + ".",
        "No no no no no no.",
    ],
)
def test_sentences_that_a_voice_would_misread_are_left_out(text: str) -> None:
    assert not is_speakable(text, known)


def test_a_plain_sentence_is_speakable() -> None:
    assert is_speakable("She didn't know the well-worn path, did she?", known)


@pytest.mark.parametrize(
    ("said", "tidied"),
    [
        ("im sure thats nice", "I'm sure that's nice."),
        ("how are you?", "How are you?"),
        ("well... ok!!", "Well. ok!"),
        ("u know i like it,", "You know I like it."),
    ],
)
def test_chat_text_is_tidied(said: str, tidied: str) -> None:
    assert tidy(said) == tidied


def test_held_out_does_not_depend_on_case_or_punctuation() -> None:
    texts = [f"sentence number {word}" for word in ("one", "two", "three", "four", "five")] * 20
    assert [is_held_out(text) for text in texts] == [is_held_out(text.upper() + "!") for text in texts]
    many = [is_held_out(f"{a} {b} words") for a in "abcdefghijklmnopqrst" for b in "abcdefghijklmnopqrst"]
    assert 2 < sum(many) < 25
