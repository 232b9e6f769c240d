"""Questions about pictures: easy-vqa's shapes, and drawings of named things."""

import json
import random
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from model_core.data.sources.drawings import NamedPicture, with_article
from model_core.data.sources.packages import EASY_VQA, package_folder
from model_core.data.sources.sentences import upper_first

DESCRIBE_QUESTIONS = ("What is in the picture?", "Describe the picture.", "What do you see?")
_SHAPES = ("circle", "rectangle", "triangle")
_CLOSED = ("yes", "no")


@dataclass(frozen=True, slots=True)
class PictureQuestion:
    """A question about a picture file."""

    image: Path
    question: str
    answer: str


def load_picture_questions(packages: Path, split: str) -> list[PictureQuestion]:
    """The questions of easy-vqa's split `train` or `test`, capitalised."""
    folder = package_folder(EASY_VQA, packages) / EASY_VQA.members[0] / split
    rows = json.loads((folder / "questions.json").read_text())
    return [PictureQuestion(folder / "images" / f"{image}.png", upper_first(q), a) for q, a, image in rows]


def draw_questions(
    about_shapes: list[PictureQuestion], named: list[NamedPicture], count: int, rng: random.Random
) -> list[PictureQuestion]:
    """`count` questions in random order, three quarters about shapes.

    Of those about shapes, 1/2 are yes-no questions, 3/8 open questions, 1/8 ask for a description; of those about named
    things, 1/3 are yes-no questions, the rest ask for a description.
    """
    shapes, things = count * 3 // 4, count // 4
    closed = [question for question in about_shapes if question.answer in _CLOSED]
    opened = [question for question in about_shapes if question.answer not in _CLOSED]
    drawn = rng.choices(closed, k=shapes // 2) + rng.choices(opened, k=shapes * 3 // 8)
    drawn += rng.choices(shape_descriptions(about_shapes), k=count - things - len(drawn))
    names = sorted({picture.name for picture in named})
    for picture in rng.choices(named, k=things):
        if rng.random() < 1 / 3:
            asked = picture.name if rng.random() < 0.5 else rng.choice(names)
            drawn.append(PictureQuestion(picture.image, presence_question(asked), _yes_or_no(asked == picture.name)))
        else:
            drawn.append(description(picture, rng.choice(DESCRIBE_QUESTIONS)))
    rng.shuffle(drawn)
    return drawn


def shape_facts(questions: list[PictureQuestion]) -> dict[Path, dict[str, str]]:
    """`color` and `shape` of each picture for which the answers contain both."""
    facts: dict[Path, dict[str, str]] = {}
    for question in questions:
        if question.answer not in _CLOSED:
            facts.setdefault(question.image, {})["shape" if question.answer in _SHAPES else "color"] = question.answer
    return {image: fact for image, fact in facts.items() if len(fact) == 2}


def shape_descriptions(questions: list[PictureQuestion]) -> list[PictureQuestion]:
    """A one-sentence description of each picture of a shape."""
    asked = cycle(DESCRIBE_QUESTIONS)
    return [
        description(NamedPicture(image, f"{fact['color']} {fact['shape']}"), next(asked))
        for image, fact in shape_facts(questions).items()
    ]


def description(picture: NamedPicture, question: str) -> PictureQuestion:
    """A question for the content of a picture, with its answer."""
    return PictureQuestion(picture.image, question, f"the picture shows {with_article(picture.name)}")


def presence_question(name: str) -> str:
    """`owl` -> `Is there an owl in the picture?`"""
    return f"Is there {with_article(name)} in the picture?"


def answer_sentence(answer: str) -> str:
    """`yes` -> `Yes.`"""
    return upper_first(answer) + "."


def _yes_or_no(holds: bool) -> str:
    return "yes" if holds else "no"
