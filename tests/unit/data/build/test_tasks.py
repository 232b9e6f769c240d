"""Questions about long recordings are answered from their sentences."""

import random
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.data.build import tasks
from model_core.data.sources.needles import needle

SENTENCES = st.lists(st.integers(0, 30).map(lambda number: f"Sentence number {number}."), min_size=3, max_size=20)
SEEDS = st.integers(0, 1000).map(random.Random)


def quoted(question: str) -> list[str]:
    return re.findall(r'"([^"]+)"', question)


@given(SENTENCES, SEEDS)
def test_the_answer_to_what_follows_is_the_next_sentence(sentences: list[str], rng: random.Random) -> None:
    asked = tasks.ask(tasks.AFTER, sentences, rng)
    (named,) = quoted(asked.question)
    assert (named, asked.answer) in pairwise(sentences)


@given(SENTENCES, SEEDS)
def test_the_answer_to_what_precedes_is_the_previous_sentence(sentences: list[str], rng: random.Random) -> None:
    asked = tasks.ask(tasks.BEFORE, sentences, rng)
    (named,) = quoted(asked.question)
    assert (asked.answer, named) in pairwise(sentences)


@given(SENTENCES, SEEDS)
def test_the_answer_to_which_came_first_is_the_earlier_sentence(sentences: list[str], rng: random.Random) -> None:
    asked = tasks.ask(tasks.ORDER, sentences, rng)
    places = [sentences.index(named) for named in quoted(asked.question)]
    assert len(places) == 2
    assert sentences.index(asked.answer) == min(places)


@given(SENTENCES, SEEDS)
def test_a_partial_transcript_is_the_beginning_or_the_end(sentences: list[str], rng: random.Random) -> None:
    asked = tasks.ask(tasks.PART, sentences, rng)
    count = 1 + ("two" in asked.question) + 2 * ("three" in asked.question)
    part = sentences[:count] if "first" in asked.question else sentences[-count:]
    assert asked.answer == " ".join(part)


def test_a_full_transcript_has_every_sentence_in_order() -> None:
    assert tasks.ask(tasks.TRANSCRIBE, ["A.", "B.", "C."], random.Random(0)).answer == "A. B. C."


def test_tasks_are_drawn_by_weight() -> None:
    weights = tasks.Weights.parse("needle=3,after,order=0")
    rng = random.Random(0)
    drawn = [weights.draw(rng) for _ in range(400)]
    assert set(drawn) == {"needle", "after"}
    assert drawn.count("needle") / 400 == pytest.approx(0.75, abs=0.08)
    assert weights.has([tasks.AFTER])
    assert not weights.has([tasks.ORDER])


@given(st.integers(0, 10_000))
def test_a_needle_answers_its_question_with_a_word_of_its_sentence(seed: int) -> None:
    drawn = needle(random.Random(seed))
    assert drawn.answer in drawn.sentence
    assert drawn.question.endswith("?")
    assert drawn == needle(random.Random(seed))


def test_held_out_words_are_never_trained_on() -> None:
    trained = {needle(random.Random(seed)).answer for seed in range(2000)}
    tested = {needle(random.Random(seed), held_out=True).answer for seed in range(2000)}
    assert len(trained) > 50
    assert len(tested) > 15
    assert not trained & tested
