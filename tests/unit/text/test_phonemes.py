"""Text normalization and phonemes."""

# ruff: noqa: RUF001 - typographic marks and phonetic letters are the subject

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.text.normalisation import normalise
from model_core.text.numbers import numbers_to_words
from model_core.text.phonemes import EnglishPhonemes

ENGLISH = EnglishPhonemes()


def normalized(text: str) -> str:
    return normalise(text, {"nasa", "hello", "world", "must"}.__contains__)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("1,250 people", "one thousand two hundred fifty people"),
        ("3.14", "three point one four"),
        ("-5 degrees", "minus five degrees"),
        (
            "$3.50, $1, $1.01 and $0.99",
            "three dollars and fifty cents, one dollar, one dollar and one cent and ninety nine cents",
        ),
        ("$2.5 million", "two point five million dollars"),
        ("€20", "twenty euros"),
        ("45%", "forty five percent"),
        ("3rd and 21st", "third and twenty first"),
        ("in 1987, 2005 and 2021", "in nineteen eighty seven, two thousand five and twenty twenty one"),
        ("the 1980s", "the nineteen eighties"),
        ("2021-05-17", "may seventeenth, twenty twenty one"),
        ("March 3, 1987", "march third, nineteen eighty seven"),
        ("at 4:30 p.m. today", "at four thirty P M today"),
        ("at 12:00", "at twelve o'clock"),
        ("at 6:05", "at six oh five"),
        ("9 a.m.", "nine A M."),
        ("call 555-1234", "call five five five, one two three four"),
        ("3-5 km/h", "three to five kilometers per hour"),
        ("1 kg, 16 GB, 20°C", "one kilogram, sixteen gigabytes, twenty degrees celsius"),
        ("1/2 cup, 3/4 full", "one half cup, three quarters full"),
        ("version 1.2.3", "version one point two point three"),
        ("007", "zero zero seven"),
        ("3 x 4 = 12", "three times four equals twelve"),
        ("No. 5 and #7", "number five and number seven"),
    ],
)
def test_numbers_are_spoken_as_words(written: str, words: str) -> None:
    assert normalized(written) == words


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("Dr. Smith met Mrs. Jones.", "doctor smith met missus jones."),
        ("fruit, e.g. apples, etc.", "fruit, for example, apples, et cetera."),
        ("the FBI, NASA and the U.S. Army", "the F B I, nasa and the U S army"),
        ("HELLO WORLD, hello", "hello world, hello"),
        ("you MUST do IT", "you must do it"),
        ("vitamin C and grade A", "vitamin C and grade A"),
        ("apples & pears, and/or nuts", "apples and pears, and or nuts"),
        ("see https://www.lyra.ai/a-b?x=1.", "see lyra dot ai slash a dash b."),
        ("mail me.you@lyra.ai", "mail me dot you at lyra dot ai"),
        ("**Bold**, *slanted* and `code_name()`", "bold, slanted and code name,"),
        ("# Title", "title"),
        ("- first item", "first item"),
        ("2. second item", "two, second item"),
        ("[the label](https://x.y/z) stays", "the label stays"),
        ("getName", "get name"),
        ("Don’t “quote” me…", "don't quote me."),
        ("café naïve", "cafe naive"),
        ("well done 👍🏽", "well done"),
    ],
)
def test_markup_symbols_and_abbreviations_are_spoken_sensibly(written: str, words: str) -> None:
    assert normalized(written) == words


@pytest.mark.parametrize("written", ["😀", "你好", "Привет", "\ue000", "∑", "$", "①"])
def test_standalone_symbols_are_spoken(written: str) -> None:
    assert normalized(written)


@pytest.mark.parametrize("written", ["", "  ", "---", "...", "***", "\u200b", "|---|"])
def test_punctuation_alone_is_silent(written: str) -> None:
    assert normalized(written) == ""
    assert ENGLISH.phonemes(written) == ""


@given(st.text(max_size=240))
def test_any_text_becomes_words_and_punctuation(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z',.;:?! ]*", normalise(text))


@given(st.text(alphabet="0123456789.,:-/$%°x# \nkmst'ap", max_size=60))
def test_no_digit_is_left_in_normalized_text(text: str) -> None:
    assert not re.search(r"\d", numbers_to_words(text))


@given(st.text(max_size=120))
def test_any_text_has_phonemes_without_an_error(text: str) -> None:
    ENGLISH.phonemes(text)


def test_known_words_have_espeaks_phonemes() -> None:
    assert ENGLISH.phonemes("Hello there, how are you?") == "həlˈoʊ ðɛɹ, hˌaʊ ɑːɹ juː?"


def test_an_initialism_is_one_word_stressed_on_the_last_letter() -> None:
    assert ENGLISH.phonemes("FBI") == "ˌɛfbˌiːˈaɪ"


def test_the_last_phoneme_of_a_word_is_kept() -> None:
    assert ENGLISH.phonemes("a green can it") == "ɐ ɡɹˈiːn kæn ɪt"


def test_the_article_changes_before_a_vowel() -> None:
    assert ENGLISH.phonemes("the apple") == "ðɪ ˈæpəl"
    assert ENGLISH.phonemes("the pear").startswith("ðə ")


def test_nouns_and_verbs_may_be_pronounced_differently() -> None:
    assert "wˈɪnd" in ENGLISH.phonemes("The wind was so strong.")
    assert "wˈaɪnd" in ENGLISH.phonemes("She could not wind the kite string.")


def test_unknown_words_are_guessed_and_words_without_vowels_are_spelled_out() -> None:
    assert ENGLISH.phonemes("zorbulated")
    assert ENGLISH.phonemes("xj") == "ˌɛksdʒˌeɪ"
