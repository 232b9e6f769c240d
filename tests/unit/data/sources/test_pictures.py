"""Drawings of named objects, and questions about pictures."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_core.data.sources.drawings import NamedPicture, load_drawings, place, with_article
from model_core.data.sources.packages import GOOGLE_DRAWINGS
from model_core.data.sources.pictures import (
    DESCRIBE_QUESTIONS,
    PictureQuestion,
    draw_questions,
    shape_descriptions,
    shape_facts,
)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A package of three drawings, of which one is missing and one has no everyday name."""
    listing, folder = (
        tmp_path / f"{GOOGLE_DRAWINGS.name}-{GOOGLE_DRAWINGS.version}" / member for member in GOOGLE_DRAWINGS.members
    )
    folder.mkdir(parents=True)
    names = {"1.png": "CAT FACE", "2.png": "OWL", "3.png": "LEVEL SLIDER"}
    listing.write_text(json.dumps([{"name": name, "image": image} for image, name in names.items()]))
    for image in ("1.png", "3.png"):
        Image.new("RGBA", (64, 64), (255, 0, 0, 255)).save(folder / image)
    return tmp_path


def test_drawings_without_an_everyday_name_or_file_are_skipped(cache: Path) -> None:
    assert [drawing.name for drawing in load_drawings(GOOGLE_DRAWINGS, cache)] == ["cat"]


def test_a_placement_depends_only_on_its_seed_and_shows_the_whole_drawing(cache: Path, tmp_path: Path) -> None:
    (cat,) = load_drawings(GOOGLE_DRAWINGS, cache)
    pictures = [
        np.asarray(Image.open(place(cat, seed, tmp_path / folder).image))
        for seed, folder in [(0, "a"), (0, "b"), (1, "a")]
    ]
    assert pictures[0].shape == (224, 224, 3)
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])
    for picture in pictures:
        rows, columns = np.nonzero((picture == (255, 0, 0)).all(-1))
        assert np.ptp(rows) == np.ptp(columns) >= 224 * 2 // 5 - 3


@pytest.mark.parametrize(("name", "said"), [("owl", "an owl"), ("umbrella", "an umbrella"), ("unicorn", "a unicorn")])
def test_names_get_the_right_article(name: str, said: str) -> None:
    assert with_article(name) == said


SHAPES = [
    PictureQuestion(Path("0.png"), "What shape is shown?", "circle"),
    PictureQuestion(Path("0.png"), "What color is the circle?", "red"),
    PictureQuestion(Path("0.png"), "Is there a circle?", "yes"),
    PictureQuestion(Path("1.png"), "What shape is shown?", "triangle"),
]


def test_a_shape_is_described_if_both_its_facts_are_known() -> None:
    assert shape_facts(SHAPES) == {Path("0.png"): {"shape": "circle", "color": "red"}}
    assert [question.answer for question in shape_descriptions(SHAPES)] == ["the picture shows a red circle"]


def test_a_quarter_of_the_questions_name_an_object_and_presence_is_answered_correctly() -> None:
    named = [NamedPicture(Path(f"{name}.png"), name) for name in ("owl", "cat", "dog")]
    questions = draw_questions(SHAPES, named, 800, random.Random(0))
    about_things = [question for question in questions if question.image.stem in ("owl", "cat", "dog")]
    assert (len(questions), len(about_things)) == (800, 200)
    for question in about_things:
        name = question.image.stem
        if question.question in DESCRIBE_QUESTIONS:
            assert question.answer == f"the picture shows {with_article(name)}"
        else:
            assert question.answer == ("yes" if f" {name} " in question.question else "no")
    kinds = Counter(question.answer in ("yes", "no") for question in about_things)
    assert 40 < kinds[True] < 100
