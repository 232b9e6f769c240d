"""Samples about pictures from released packages: easy-vqa's shapes, and drawings of everyday things."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model_core.data.build.sources import Made, OpenSource, sample_id, texts_sha256
from model_core.data.build.work import BuildContext, rng_of
from model_core.data.conversation import IMAGE, Conversation, Turn
from model_core.data.sources.drawings import NamedPicture, load_drawings, place
from model_core.data.sources.packages import GOOGLE_DRAWINGS
from model_core.data.sources.pictures import (
    DESCRIBE_QUESTIONS,
    PictureQuestion,
    answer_sentence,
    description,
    load_picture_questions,
    presence_question,
    shape_facts,
)
from model_core.errors import InvalidInput
from model_core.language.messages import Role

EASY_VQA, DRAWINGS = "easy-vqa", "drawings"
PICTURES = (EASY_VQA, DRAWINGS)
# Placements of each drawing that count as distinct pictures.
_PLACINGS = 8
_CLOSED = ("yes", "no")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about a picture, with its answer as a sentence."""

    image: bytes
    question: str
    answer: str


class Pictures:
    """The pictures and questions of a source.

    Args:
        name: `easy-vqa` or `drawings`.
        seed: Seed of the data set.
        context: Folders of packages and of placed drawings.
    """

    def __init__(self, name: str, seed: int, context: BuildContext) -> None:
        self._seed, self._name = seed, name
        self._folder = context.scratch / "pictures"
        if name == EASY_VQA:
            questions = load_picture_questions(context.packages, "train")
            facts = shape_facts(questions)
            self._shapes = [NamedPicture(image, f"{fact['color']} {fact['shape']}") for image, fact in facts.items()]
            self._closed = [question for question in questions if question.answer in _CLOSED]
            self._opened = [question for question in questions if question.answer not in _CLOSED]
            self.pictures, self.questions = len(self._shapes), len(questions)
            self.origin = texts_sha256(f"{q.image.name} {q.question} {q.answer}" for q in questions)
        elif name == DRAWINGS:
            self._drawings = load_drawings(GOOGLE_DRAWINGS, context.packages)
            self._names = sorted({drawing.name for drawing in self._drawings})
            self.pictures = self.questions = len(self._drawings) * _PLACINGS
            self.origin = texts_sha256(f"{drawing.file.name} {drawing.name}" for drawing in self._drawings)
        else:
            raise InvalidInput("source", f"{name!r} is not a source of pictures; those are {', '.join(PICTURES)}")

    def named(self, index: int) -> tuple[bytes, str]:
        """A picture and what it shows, without an article."""
        picture = self._shapes[index % len(self._shapes)] if self._name == EASY_VQA else self._placed(index)
        return picture.image.read_bytes(), picture.name

    def asked(self, index: int) -> Asked:
        """A question about a picture.

        For shapes, 1/2 are yes-no questions, 3/8 open questions, 1/8 ask for a description; for drawings, 1/3 are
        yes-no questions and the others ask for a description.
        """
        rng = rng_of(self._seed, self._name, "asked", index)
        drawn = self._about_shape(rng) if self._name == EASY_VQA else self._about_drawing(index, rng)
        return Asked(drawn.image.read_bytes(), drawn.question, answer_sentence(drawn.answer))

    def _about_shape(self, rng: random.Random) -> PictureQuestion:
        kind = rng.randrange(8)
        if kind == 0:
            return description(rng.choice(self._shapes), rng.choice(DESCRIBE_QUESTIONS))
        return rng.choice(self._closed if kind <= 4 else self._opened)

    def _about_drawing(self, index: int, rng: random.Random) -> PictureQuestion:
        picture = self._placed(index)
        if rng.random() >= 1 / 3:
            return description(picture, rng.choice(DESCRIBE_QUESTIONS))
        asked = picture.name if rng.random() < 0.5 else rng.choice(self._names)
        answer = _CLOSED[0] if asked == picture.name else _CLOSED[1]
        return PictureQuestion(picture.image, presence_question(asked), answer)

    def _placed(self, index: int) -> NamedPicture:
        drawing = self._drawings[index % len(self._drawings)]
        return place(drawing, index // len(self._drawings), self._folder)


class PictureNames(OpenSource):
    """Pictures with the words that name them, for stage 1."""

    def __init__(self, name: str, seed: int, context: BuildContext) -> None:
        self._name, self._pictures = name, Pictures(name, seed, context)
        self.available = self._pictures.pictures
        self.origin = self._pictures.origin

    def make(self, indices: Sequence[int]) -> Iterator[Made]:
        """A conversation for each."""
        for index in indices:
            image, words = self._pictures.named(index)
            turns = (
                Turn(role=Role.USER, text=f"{IMAGE}\n{DESCRIBE_QUESTIONS[0]}"),
                Turn(role=Role.ASSISTANT, text=words),
            )
            yield Conversation(id=sample_id(self._name, index), turns=turns, images=(image,), source=self._name)
