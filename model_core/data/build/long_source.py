"""Base class of sources of long recordings: tasks, needles, and questions asked by a language model."""

import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from model_core.data.build import tasks
from model_core.data.build.answers import answers_of
from model_core.data.build.sources import Made, OpenSource, sample_id
from model_core.data.build.synthesis import Samples, Utterance, UtteranceSynthesizer
from model_core.data.build.tasks import Asked, Weights
from model_core.data.build.work import BuildContext, Dropped, rng_of
from model_core.data.conversation import SPEECH, Conversation, Speech, Turn
from model_core.data.data_errors import SampleError
from model_core.data.files import written_aside
from model_core.data.sources.needles import Needle, needle
from model_core.errors import InvalidInput
from model_core.language.messages import Role

TOO_SHORT, NO_QUESTION = "too-short", "no-question"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """Tasks on long recordings.

    Args:
        weights: Relative frequency of each task.
        transcribe_seconds: Maximum length of recordings that are transcribed in full.
        answers_by: Preset whose language model asks and answers for tasks that need it.
        answer_tokens: Maximum tokens of the model's answers; longer ones are cut off and trained without an end token.
        checkpoint: Checkpoint of the preset, if it needs one.
    """

    weights: Weights
    transcribe_seconds: float = 60.0
    answers_by: str = "nano"
    answer_tokens: int = 64
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        for field, value in (("transcribe_seconds", self.transcribe_seconds), ("answer_tokens", self.answer_tokens)):
            if value < 1:
                raise InvalidInput(field, f"{value} is less than 1")


@dataclass(frozen=True, slots=True)
class NeedleAudio:
    """A needle with its audio [S], and its relative position in a recording: 0 at the start, 1 at the end."""

    needle: Needle
    depth: float
    samples: Samples


@dataclass(frozen=True, slots=True)
class LongRecording:
    """A recording, and the relative position of its needle."""

    speech: Speech
    depth: float = 0.0


class LongSource(OpenSource):
    """Long recordings with tasks.

    Args:
        name: Name of the source.
        count: Planned samples.
        seed: Seed of the data set.
        asking: The tasks.
        synthesizer: Speaks the needles.
        context: Folders; the language model's output is cached in its scratch folder.
    """

    def __init__(
        self,
        name: str,
        count: int,
        seed: int,
        asking: TaskOptions,
        synthesizer: UtteranceSynthesizer,
        context: BuildContext,
    ) -> None:
        self.name, self.count, self.seed = name, count, seed
        self._asking, self._synthesizer, self._context = asking, synthesizer, context
        self._kept = context.scratch / f"asked-{name}.json"

    @abstractmethod
    def sentences(self, index: int) -> Sequence[str]:
        """The sentences of a recording, without a needle."""

    @abstractmethod
    def recording(self, index: int, hidden: NeedleAudio | None) -> LongRecording:
        """The recording, with a needle if one is given. Raises SampleError if it cannot be used."""

    def task(self, index: int) -> str:
        """The task of a recording."""
        return self._asking.weights.draw(rng_of(self.seed, self.name, index, "task"))

    def prepare(self) -> None:
        """Lets the language model ask and answer for the tasks that need it."""
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
        """A conversation per recording."""
        for index in indices:
            try:
                yield self._sample(index)
            except SampleError as error:
                yield Dropped.of(error)

    def _sample(self, index: int) -> Made:
        name, task = sample_id(self.name, index), self.task(index)
        sentences = self.sentences(index)
        if len(sentences) < tasks.MIN_SENTENCES and task != tasks.TRANSCRIBE:
            message = f"{len(sentences)} sentences are fewer than the minimum of {tasks.MIN_SENTENCES}"
            return Dropped(name, TOO_SHORT, message)
        rng = rng_of(self.seed, self.name, index, "asked")
        source, ended = f"{self.name} {task}", True
        if task == tasks.NEEDLE:
            hidden = self._hidden(index)
            recording = self.recording(index, hidden)
            asked = Asked(hidden.needle.question, hidden.needle.sentence)
            source += f" depth {recording.depth:.2f} of {recording.speech.seconds:.0f} s"
        else:
            recording = self.recording(index, None)
            if task in tasks.BY_LANGUAGE_MODEL:
                question, answer, ended = self._asked_by_model[str(index)]
                if (task == tasks.QUESTION and not question.endswith("?")) or not answer:
                    return Dropped(name, NO_QUESTION, f"{self._asking.answers_by} asks {question!r}")
                asked = Asked(question, answer)
            else:
                too_long = recording.speech.seconds > self._asking.transcribe_seconds
                asked = tasks.ask(tasks.PART if task == tasks.TRANSCRIBE and too_long else task, sentences, rng)
        turns = (
            Turn(role=Role.USER, text=f"{SPEECH}\n{asked.question}"),
            Turn(role=Role.ASSISTANT, text=asked.answer),
        )
        return Conversation(id=name, turns=turns, speech=(recording.speech,), source=source, ended=ended)

    def _hidden(self, index: int) -> NeedleAudio:
        rng = rng_of(self.seed, self.name, index, "needle")
        drawn = needle(rng)
        seed = f"{self.seed} {self.name} {index} needle"
        utterance = Utterance(drawn.sentence, self._synthesizer.voice(seed), seed)
        (samples,) = self._synthesizer.synthesize_clean([utterance])
        return NeedleAudio(drawn, rng.random(), samples)

    def _by_model(self, prompts: list[str]) -> list[tuple[str, bool]]:
        asking = self._asking
        made = answers_of(
            prompts, asking.answers_by, self._context, max_tokens=asking.answer_tokens, checkpoint=asking.checkpoint
        )
        return [(answer.text, answer.ended) for answer in made]

    @cached_property
    def _asked_by_model(self) -> dict[str, tuple[str, str, bool]]:
        rows: dict[str, tuple[str, str, bool]] = json.loads(self._kept.read_text(encoding="utf-8"))
        return rows
