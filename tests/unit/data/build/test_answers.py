"""Answers of a text-only language model, several at a time, as of preset tiny."""

import json
from pathlib import Path

import pytest

from model_core.data.build.answers import WrittenAnswer, written_answers
from model_core.engine.language_model import LanguageModel
from model_core.engine.request import Delta, GenerationOptions
from model_core.engine.sampling_params import SamplingParams
from model_core.language.messages import Message, Role
from model_core.presets import build_language_model

QUESTIONS = [f"What is {'very ' * (number % 5)}number {number}?" for number in range(40)]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return build_language_model("tiny")


def alone(model: LanguageModel, question: str, max_tokens: int) -> str:
    options = GenerationOptions(sampling=SamplingParams(max_tokens=max_tokens), adapter="base")
    events = model.generate([Message(Role.USER, [question])], options)
    return "".join(event.text for event in events if isinstance(event, Delta)).strip()


def test_answers_of_a_batch_are_those_given_alone(model: LanguageModel, tmp_path: Path) -> None:
    answers = written_answers(model, QUESTIONS, tmp_path, 12)
    assert [answer.text for answer in answers] == [alone(model, question, 12) for question in QUESTIONS]


def test_an_answer_cut_off_at_the_limit_is_a_prefix(model: LanguageModel, tmp_path: Path) -> None:
    answers = written_answers(model, QUESTIONS, tmp_path, 3)
    assert any(not answer.ended for answer in answers)
    longer = written_answers(model, QUESTIONS, tmp_path, 12)
    assert all(long.text == short.text for long, short in zip(longer, answers, strict=True) if short.ended)


def test_answers_are_cached_by_prompt_model_and_length(model: LanguageModel, tmp_path: Path) -> None:
    first = written_answers(model, QUESTIONS, tmp_path, 4)
    (file,) = tmp_path.iterdir()
    file.write_text(json.dumps([{"text": f"kept {number}", "ended": True} for number in range(40)]))
    assert written_answers(model, QUESTIONS, tmp_path, 4)[39] == WrittenAnswer("kept 39", True)
    assert written_answers(model, QUESTIONS[1:], tmp_path, 4) == first[1:]
    assert written_answers(model, QUESTIONS, tmp_path, 5)[39].text != "kept 39"


def test_progress_counts_answers(model: LanguageModel, tmp_path: Path) -> None:
    told: list[int] = []
    answers = written_answers(model, [f"{number}?" for number in range(130)], tmp_path, 1, told.append)
    assert told == [128, 130]
    assert all(isinstance(answer, WrittenAnswer) for answer in answers)
