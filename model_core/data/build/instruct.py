"""Data of stage 2: spoken and written questions with answers."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from model_core.data.build.answers import WrittenAnswer, answers_of
from model_core.data.build.pictures import PICTURES, Pictures
from model_core.data.build.published import PublishedRecords
from model_core.data.build.sources import Made, Mixture, OpenSource, Source, sample_id, texts_sha256
from model_core.data.build.spoken_turns import TurnSynthesizer
from model_core.data.build.synthesis import Style, UtteranceSynthesizer
from model_core.data.build.work import BuildContext, Dropped, Maker, Spec
from model_core.data.conversation import IMAGE, Conversation, Turn
from model_core.data.data_errors import Reason
from model_core.data.files import written_aside
from model_core.data.sources.questions import Question, load_questions
from model_core.errors import InvalidInput
from model_core.language.messages import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructSpec(Spec):
    """Specification of an instruct set.

    Args:
        sources: Named questions (`model_core.data.sources.questions`), a .txt file with one question per line,
            `easy-vqa`, `drawings`, or a .json file in the published layout, whose human turns are synthesized.
        style: Voices and augmentation.
        spoken_share: Share of conversations with spoken user turns, 0 to 1.
        longest_spoken: Maximum words of a spoken turn; longer turns stay written.
        answers_by: Preset whose text-only language model answers questions without a picture.
        known_answers: Keep the answers that questions come with; otherwise the model answers these too, so that spoken
            questions are answered like written ones.
        answer_tokens: Maximum tokens of the model's answers; longer ones are cut off and trained without an end token.
        checkpoint: Checkpoint of the preset, if it needs one.
        media_root: Folder of a .json file's media; None for the file's own folder.
    """

    kind: ClassVar[str] = "instruct"

    sources: tuple[Source, ...]
    style: Style
    spoken_share: float = 1.0
    longest_spoken: int = 60
    answers_by: str = "nano"
    known_answers: bool = False
    answer_tokens: int = 64
    checkpoint: Path | None = None
    media_root: Path | None = None

    def __post_init__(self) -> None:
        super(InstructSpec, self).__post_init__()
        if not 0 <= self.spoken_share <= 1:
            raise InvalidInput("spoken_share", f"{self.spoken_share} is not between 0 and 1")
        for field, value in (("longest_spoken", self.longest_spoken), ("answer_tokens", self.answer_tokens)):
            if value < 1:
                raise InvalidInput(field, f"{value} is less than 1")

    def open(self, context: BuildContext) -> Maker:
        """Raises InvalidInput if a source or a voice does not exist."""
        synthesizer = UtteranceSynthesizer(self.style, context.home) if self.spoken_share else None
        speaking = TurnSynthesizer(synthesizer, self.seed, self.spoken_share, self.longest_spoken)
        opened = [(source, self._open(source, context, speaking)) for source in self.sources]
        return Mixture(opened, self.seed, self.samples)

    def _open(self, source: Source, context: BuildContext, speaking: TurnSynthesizer) -> OpenSource:
        if source.name in PICTURES:
            return PictureQuestions(source.name, Pictures(source.name, self.seed, context), speaking)
        if source.path is None:
            asked = load_questions(source.name, context.packages)[: source.count]
            return Questions(source.name, asked, self, context, speaking)
        if source.path.suffix == ".txt":
            lines = (line.strip() for line in source.path.read_text(encoding="utf-8").splitlines())
            asked = [Question(line) for line in dict.fromkeys(lines) if line][: source.count]
            return Questions(source.name, asked, self, context, speaking)
        records = PublishedRecords(source.path, self.media_root or source.path.parent, context.scratch)
        return PublishedQuestions(source.name, records, speaking)


class Questions(OpenSource):
    """Questions without a picture, answered by a language model."""

    def __init__(
        self, name: str, questions: list[Question], spec: InstructSpec, context: BuildContext, speaking: TurnSynthesizer
    ) -> None:
        self._name, self._questions, self._spec = name, questions, spec
        self._context, self._speaking = context, speaking
        self._kept = context.scratch / f"answers-{name}.json"
        self.available = len(questions)
        self.origin = texts_sha256(f"{question.text} {question.answer}" for question in questions)

    def prepare(self) -> None:
        """Lets the language model answer."""
        if self._kept.is_file():
            return
        open_texts = [question.text for question in self._questions if self._is_open(question)]
        made = answers_of(
            open_texts,
            self._spec.answers_by,
            self._context,
            max_tokens=self._spec.answer_tokens,
            checkpoint=self._spec.checkpoint,
        )
        with written_aside(self._kept) as partial:
            rows = {text: [answer.text, answer.ended] for text, answer in zip(open_texts, made, strict=True)}
            partial.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")

    def _is_open(self, question: Question) -> bool:
        return question.answer is None or not self._spec.known_answers

    @cached_property
    def _answers(self) -> dict[str, WrittenAnswer]:
        rows = json.loads(self._kept.read_text(encoding="utf-8"))
        return {text: WrittenAnswer(*row) for text, row in rows.items()}

    def make(self, indices: Sequence[int]) -> Iterator[Made]:
        """A conversation for each."""
        return iter(self._speaking.spoken([self._written(index) for index in indices]))

    def _written(self, index: int) -> Made:
        question, name = self._questions[index % self.available], sample_id(self._name, index)
        answer = self._answers[question.text] if self._is_open(question) else WrittenAnswer(question.answer or "", True)
        if not answer.text:
            return Dropped(name, Reason.NO_ANSWER, f"{self._spec.answers_by} has no answer to {question.text!r}")
        turns = (Turn(role=Role.USER, text=question.text), Turn(role=Role.ASSISTANT, text=answer.text))
        return Conversation(id=name, turns=turns, source=self._name, ended=answer.ended)


class PictureQuestions(OpenSource):
    """Questions about pictures from released packages."""

    def __init__(self, name: str, pictures: Pictures, speaking: TurnSynthesizer) -> None:
        self._name, self._pictures, self._speaking = name, pictures, speaking
        self.available, self.origin = pictures.questions, pictures.origin

    def make(self, indices: Sequence[int]) -> Iterator[Made]:
        """A conversation for each."""
        return iter(self._speaking.spoken([self._written(index) for index in indices]))

    def _written(self, index: int) -> Conversation:
        asked = self._pictures.asked(index)
        turns = (
            Turn(role=Role.USER, text=f"{IMAGE}\n{asked.question}"),
            Turn(role=Role.ASSISTANT, text=asked.answer),
        )
        return Conversation(id=sample_id(self._name, index), turns=turns, images=(asked.image,), source=self._name)


class PublishedQuestions(OpenSource):
    """Text-image instruction data in the published layout."""

    def __init__(self, name: str, records: PublishedRecords, speaking: TurnSynthesizer) -> None:
        self._name, self._records, self._speaking = name, records, speaking
        self.available, self.origin = records.count, records.sha256

    def make(self, indices: Sequence[int]) -> Iterator[Made]:
        """A conversation per record; records with missing or broken media are dropped."""
        return iter(self._speaking.spoken([self._records.read(index, self._name) for index in indices]))
