"""Splits depend only on the text, and are never inside a number, an abbreviation or an address."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.text.clauses import ClauseSplitter

_FRAGMENTS = st.sampled_from(
    (
        *(
            "Hello",
            " there",
            ", ",
            ". ",
            "Dr. ",
            "3",
            ".",
            "5",
            " e.g. ",
            "\n",
            " — ",
            " - ",
            "- item",
            "1. ",
            "?",
            "!",
            " ",
        ),
        *("\t", "word" * 30, "a.m. ", "https://lyra.ai/a?b=1. ", "…", '" ', "你好。", ";", ":", ") "),
    )
)


def clauses_of(*deltas: str) -> list[str]:
    splitter = ClauseSplitter()
    return [clause for delta in deltas for clause in splitter.push(delta)] + splitter.finish()


@given(st.lists(_FRAGMENTS, max_size=60).map("".join), st.data())
def test_any_split_into_deltas_gives_the_same_clauses(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    deltas = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert clauses_of(*deltas) == clauses_of(text) == clauses_of(*text)


@given(st.text(max_size=800))
def test_only_whitespace_is_lost_and_no_clause_exceeds_the_limit(text: str) -> None:
    clauses = clauses_of(text)
    assert "".join("".join(clauses).split()) == "".join(text.split())
    assert all(0 < len(clause) <= 200 for clause in clauses)


@pytest.mark.parametrize(
    "text",
    [
        "It is 3.5 long.",
        "Dr. Smith and Mr. Jones met.",
        "Use fruit, e.g. apples.",
        "See https://lyra.ai/a.b?c=d now.",
        "J. R. Smith wrote it.",
        "In the U.S. today.",
        "It opens at 9 a.m. on Monday.",
        "1. First",
    ],
)
def test_periods_in_numbers_abbreviations_and_addresses_do_not_end_a_clause(text: str) -> None:
    *before, last = clauses_of(f"A first clause that is long enough. {text}")
    assert [*before, last] == ["A first clause that is long enough.", text]


def test_a_sentence_ends_as_soon_as_whitespace_follows_its_punctuation() -> None:
    splitter = ClauseSplitter()
    assert splitter.push("Yes, it is") == []
    assert splitter.push(".") == []
    assert splitter.push(" A") == ["Yes, it is."]


def test_only_the_first_clause_may_end_at_an_early_comma() -> None:
    assert clauses_of("The picture shows, I think, a circle, red, on white.") == [
        "The picture shows,",
        "I think, a circle, red, on white.",
    ]


def test_text_without_punctuation_is_split_and_the_first_clause_is_shorter() -> None:
    splitter = ClauseSplitter()
    clauses = splitter.push("word " * 200)
    assert len(clauses[0]) <= 80 < len(clauses[1]) <= 200
    assert all(clause.split() == ["word"] * len(clause.split()) for clause in clauses)


def test_every_line_of_a_list_is_a_clause() -> None:
    assert clauses_of("Buy:\n- milk\n- bread\n1. First\n2. Second") == [
        "Buy:",
        "- milk",
        "- bread",
        "1. First",
        "2. Second",
    ]


def test_blank_text_has_no_clauses() -> None:
    assert clauses_of(" \n\t ", "\n") == []
