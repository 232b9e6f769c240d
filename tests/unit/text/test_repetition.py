"""Repetitive texts are distinguished from others, and reduced to one occurrence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.text.repetition import loop_end, without_loop

SENTENCE = "The first series. The colour of the house. "


@pytest.mark.parametrize(
    ("text", "once"),
    [
        ("The numbers that are named are" + " five," * 20, "The numbers that are named are five"),
        ("It is about this. " + SENTENCE * 6, "It is about this. The first series. The colour of the house."),
        (SENTENCE * 3 + "The first ser", SENTENCE.strip()),
        ("No" + "!" * 60, "No!"),
    ],
)
def test_repeated_text_is_kept_once(text: str, once: str) -> None:
    assert without_loop(text) == once


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Ha ha ha ha!",
        SENTENCE * 2,
        "One, two, three, four, five.",
        "It costs 1,000,000,000,000.",
        " five," * 20 + " six.",
    ],
)
def test_text_without_loops_is_unchanged(text: str) -> None:
    assert loop_end(text) is None
    assert without_loop(text) == text


@given(st.text("ab ", max_size=20), st.text("cd ", min_size=1, max_size=40), st.integers(50, 60))
def test_every_loop_is_found_wherever_it_starts(before: str, said: str, times: int) -> None:
    end = loop_end(before + said * times)
    assert end is not None
    assert end <= len(before + said)
