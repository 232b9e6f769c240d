"""Data of stage 4: answers with their units; a small voice and tokenizer stand in for nano's."""

# ruff: noqa: RUF001 - phonetic letters are the subject

import random
import re
from pathlib import Path

import numpy as np
import pytest

from model_core.data.build import speech_generation
from model_core.data.build.sources import Mixture, Source
from model_core.data.build.speech_generation import (
    CODEBOOK,
    NOT_SPEAKABLE,
    TOO_MANY_UNITS,
    AnswerMaker,
    Figures,
    Sentences,
    SpeechGenerationSpec,
    figures_text,
)
from model_core.data.build.work import BuildContext, Dropped, Maker, build
from model_core.data.conversation import Conversation
from model_core.data.dataset import ConversationDataset
from model_core.presets import nano, tiny
from model_core.speech.codebook import read_codebook
from model_core.speech.ctc import frames_needed
from model_core.speech.latents import Utterance
from model_core.speech.phone_units import PHONES, phone_units

TEXTS = ["The sun is hot.", "Is it late?", "Apples, and pears."]


class SmallReader:
    """A reader with one frame per phoneme, and latents that identify it."""

    def read(self, phonemes: str) -> Utterance:
        units = phone_units(phonemes)
        latents = np.array([[unit, 1.0] for unit in units], np.float32)
        return Utterance(latents, tuple(units), (1,) * len(units))


@pytest.fixture(scope="module")
def answers() -> AnswerMaker:
    return AnswerMaker(tiny.tokenizer())


def test_an_answer_has_the_units_of_its_phonemes(answers: AnswerMaker) -> None:
    made = answers.sample("a-1", "Is it late?", "mine")
    assert isinstance(made, Conversation)
    assert made.answers == ("Is it late?",)
    assert [PHONES[unit] for unit in made.units[0]] == ["ɪ", "z", "ɪ", "t", "l", "ˈe", "ɪ", "t", "?"]


def test_an_unspeakable_answer_is_dropped_with_a_reason(answers: AnswerMaker) -> None:
    silent = answers.sample("a-1", "...", "mine")
    assert isinstance(silent, Dropped)
    assert silent.reason == NOT_SPEAKABLE
    one = AnswerMaker(OneToken())  # type: ignore[arg-type]
    crowded = one.sample("a-2", "Twenty-seven thousand three hundred and forty-one.", "mine")
    assert isinstance(crowded, Dropped)
    assert crowded.reason == TOO_MANY_UNITS
    assert str(nano.UNIT_GENERATOR.frames) in crowded.message


class OneToken:
    """A tokenizer to which every text is one token."""

    ids = (7,)

    def encode(self, text: str, **_: object) -> "OneToken":
        return self


def test_answers_are_of_one_to_three_sentences_and_begin_with_the_one_asked_for(answers: AnswerMaker) -> None:
    source = Sentences("mine", TEXTS, 0, answers)
    made = [sample for sample in source.make(range(30)) if isinstance(sample, Conversation)]
    assert all(sample.answers[0].startswith(TEXTS[row % 3]) for row, sample in enumerate(made))
    assert {len(re.findall(r"[.?]", sample.answers[0])) for sample in made} == {1, 2, 3}
    assert any("\n" in sample.answers[0] for sample in made)


def test_figures_contain_digits_and_their_units_fit_the_frames(answers: AnswerMaker) -> None:
    made = list(Figures(0, answers).make(range(60)))
    assert all(isinstance(sample, Conversation) for sample in made)
    assert all(re.search(r"\d", sample.answers[0]) for sample in made if isinstance(sample, Conversation))
    assert figures_text(random.Random(3)) == figures_text(random.Random(3))


def test_repeated_units_need_a_frame_between_them() -> None:
    assert frames_needed([1, 2, 1]) == 3
    assert frames_needed([1, 1, 1]) == 5


def test_a_build_is_reproducible_and_has_a_codebook_from_its_first_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    monkeypatch.setattr(SpeechGenerationSpec, "open", open_small)
    source = Source(name="texts.txt", count=8, path=texts)
    for folder in ("one", "two"):
        spec = SpeechGenerationSpec(name="t", sources=(source,), readings=4, shard_samples=3)
        build(spec, tmp_path / folder, home=tmp_path / "home")
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert Path(CODEBOOK) in files
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)
    samples = list(ConversationDataset(tmp_path / "one"))
    readings = read_codebook(tmp_path / "one" / CODEBOOK).utterances()
    assert [tuple(units.tolist()) for units, _, _ in readings] == [sample.units[0] for sample in samples[:4]]


def open_small(spec: SpeechGenerationSpec, context: BuildContext) -> Maker:
    """As `open`, with a small tokenizer and voice."""
    maker = Mixture(
        [(source, Sentences(source.name, TEXTS, spec.seed, AnswerMaker(tiny.tokenizer()))) for source in spec.sources],
        spec.seed,
        spec.samples,
    )
    return speech_generation.with_codebook(maker, SmallReader(), spec.readings, context)
