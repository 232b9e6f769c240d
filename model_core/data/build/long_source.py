"""What all sources of long recordings share: tasks, needles, and questions asked by a language model."""

import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from model_core.data.build import tasks
from model_core.data.build.answers import answers_of
from model_core.data.build.reading import Reading, ReadingRoom, Samples
from model_core.data.build.sources import Made, OpenSource, sample_id
from model_core.data.build.tasks import Asked, Weights
from model_core.data.build.work import Dropped, Workplace, rng_of
from model_core.data.conversation import SPEECH, Conversation, Speech, Turn
from model_core.data.data_errors import SampleError
from model_core.data.files import written_aside
from model_core.data.sources.needles import Needle, needle
from model_core.errors import InvalidInput
from model_core.language.messages import Role

TOO_SHORT, NO_QUESTION = "too-short", "no-question"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How long recordings are asked about.

    Args:
        weights: How often each task is drawn.
        transcribe_seconds: Longer recordings are not transcribed whole.
        answers_by: Preset whose language model asks and answers where a task wants it.
        answer_tokens: Its longer answers are cut there, and learned as beginnings.
        checkpoint: Where the preset runs one.
    """

    weights: Weights
    transcribe_seconds: float = 60.0
    answers_by: str = "nano"
    answer_tokens: int = 64
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        for field, value in (("transcribe_seconds", self.transcribe_seconds), ("answer_tokens", self.answer_tokens)):
            if value < 1:
                raise InvalidInput(field, f"{value} is below 1")


@dataclass(frozen=True, slots=True)
class Hidden:
    """A needle [S] to lay into a recording, and how deep: 0 at its beginning, 1 at its end."""

    needle: Needle
    depth: float
    samples: Samples


@dataclass(frozen=True, slots=True)
class Laid:
    """A recording, and where its needle begins as a share of its seconds."""

    speech: Speech
    depth: float = 0.0


class LongSource(OpenSource):
    """Recordings that are asked about.

    Args:
        name: Of the source.
        count: Samples planned.
        seed: Of the data set.
        asking: What is asked.
        room: Where needles are read.
        place: Where results of the language model are kept.
    """

    def __init__(self, name: str, count: int, seed: int, asking: Asking, room: ReadingRoom, place: Workplace) -> None:
        self.name, self.count, self.seed = name, count, seed
        self._asking, self._room, self._place = asking, room, place
        self._kept = place.scratch / f"asked-{name}.json"

    @abstractmethod
    def sentences(self, index: int) -> Sequence[str]:
        """What is said in a recording, beside a needle."""

    @abstractmethod
    def lay(self, index: int, hidden: Hidden | None) -> Laid:
        """The recording. Raises SampleError where it cannot be used."""

    def task(self, index: int) -> str:
        """What is asked about a recording."""
        return self._asking.weights.draw(rng_of(self.seed, self.name, index, "task"))

    def prepare(self) -> None:
        """Has the language model ask and answer where a task wants it."""
        wanted = [index for index in range(self.count) if self.task(index) in tasks.BY_LANGUAGE_MODEL]
        if not wanted or self._kept.is_file():
            return
        rngs = {index: rng_of(self.seed, self.name, index, "text") for index in wanted}
        summed = [index for index in wanted if self.task(index) == tasks.SUMMARY]
        asked = [index for index in wanted if self.task(index) == tasks.QUESTION]
        texts = {index: tasks.window(self.sentences(index), rngs[index]) for index in asked}
        questions = {index: tasks.summary_question(rngs[index]) for index in summed}
        found = self._by_model([tasks.question_prompt(texts[index]) for index in asked])
        questions |= {index: " ".join(text.split()) for index, (text, _) in zip(asked, found, strict=True)}
        prompts = [tasks.answer_prompt(texts[index], questions[index]) for index in asked]
        prompts += [tasks.summary_prompt(" ".join(self.sentences(index))) for index in summed]
        answers = self._by_model(prompts)
        rows = {str(index): [questions[index], *answer] for index, answer in zip(asked + summed, answers, strict=True)}
        with written_aside(self._kept) as partial:
            partial.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")

    def make(self, indices: Sequence[int]) -> Iterator[Made]:
        """A conversation for each recording."""
        for index in indices:
            try:
                yield self._sample(index)
            except SampleError as error:
                yield Dropped.of(error)

    def _sample(self, index: int) -> Made:
        name, task = sample_id(self.name, index), self.task(index)
        sentences = self.sentences(index)
        if len(sentences) < tasks.FEWEST_SENTENCES and task != tasks.TRANSCRIBE:
            message = f"{len(sentences)} sentences are fewer than {tasks.FEWEST_SENTENCES}"
            return Dropped(name, TOO_SHORT, message)
        rng = rng_of(self.seed, self.name, index, "asked")
        source, ended = f"{self.name} {task}", True
        if task == tasks.NEEDLE:
            hidden = self._hidden(index)
            laid = self.lay(index, hidden)
            asked = Asked(hidden.needle.question, hidden.needle.sentence)
            source += f" depth {laid.depth:.2f} of {laid.speech.seconds:.0f} s"
        else:
            laid = self.lay(index, None)
            if task in tasks.BY_LANGUAGE_MODEL:
                question, answer, ended = self._asked_by_model[str(index)]
                if (task == tasks.QUESTION and not question.endswith("?")) or not answer:
                    return Dropped(name, NO_QUESTION, f"{self._asking.answers_by} asks {question!r}")
                asked = Asked(question, answer)
            else:
                too_long = laid.speech.seconds > self._asking.transcribe_seconds
                asked = tasks.ask(tasks.PART if task == tasks.TRANSCRIBE and too_long else task, sentences, rng)
        turns = (
            Turn(role=Role.USER, text=f"{SPEECH}\n{asked.question}"),
            Turn(role=Role.ASSISTANT, text=asked.answer),
        )
        return Conversation(id=name, turns=turns, speech=(laid.speech,), source=source, ended=ended)

    def _hidden(self, index: int) -> Hidden:
        rng = rng_of(self.seed, self.name, index, "needle")
        drawn = needle(rng)
        seed = f"{self.seed} {self.name} {index} needle"
        (samples,) = self._room.plain([Reading(drawn.sentence, self._room.voice(seed), seed)])
        return Hidden(drawn, rng.random(), samples)

    def _by_model(self, prompts: list[str]) -> list[tuple[str, bool]]:
        asking = self._asking
        made = answers_of(
            prompts, asking.answers_by, self._place, max_tokens=asking.answer_tokens, checkpoint=asking.checkpoint
        )
        return [(answer.text, answer.ended) for answer in made]

    @cached_property
    def _asked_by_model(self) -> dict[str, tuple[str, str, bool]]:
        rows: dict[str, tuple[str, str, bool]] = json.loads(self._kept.read_text(encoding="utf-8"))
        return rows
