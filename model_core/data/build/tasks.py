"""Tasks on a long recording, derived from its sentences."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from model_core.errors import InvalidInput
from model_core.language.messages import REPEAT_INSTRUCTION

TRANSCRIBE, PART, AFTER, BEFORE, ORDER, NEEDLE = "transcribe", "part", "after", "before", "order", "needle"
QUESTION, SUMMARY = "question", "summary"
TASKS = (TRANSCRIBE, PART, AFTER, BEFORE, ORDER, NEEDLE, QUESTION, SUMMARY)
BY_LANGUAGE_MODEL = (QUESTION, SUMMARY)
MIN_SENTENCES = 3

_PART_SENTENCES = 3
_WINDOW_SENTENCES = 8
_MAX_WORDS = 1_500  # of a text that a language model reads
_FIRST = ("Repeat the first sentence.", "Repeat the first two sentences.", "Repeat the first three sentences.")
_LAST = ("Repeat the last sentence.", "Repeat the last two sentences.", "Repeat the last three sentences.")
_SUMMARY_QUESTIONS = ("Summarize the recording.", "What is the recording about?")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its answer."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Weights:
    """Relative frequencies of tasks.

    Args:
        weights: Tasks with their weights.
    """

    weights: tuple[tuple[str, float], ...]

    def __post_init__(self) -> None:
        for task, weight in self.weights:
            if task not in TASKS:
                raise InvalidInput("tasks", f"{task!r} is not one of {', '.join(TASKS)}")
            if weight < 0:
                raise InvalidInput("tasks", f"the weight of {task} is less than 0")
        if not any(weight for _, weight in self.weights):
            raise InvalidInput("tasks", "none has a weight greater than 0")

    @classmethod
    def parse(cls, text: str) -> "Weights":
        """Reads `needle=3,after=2`. Raises InvalidInput."""
        weights = []
        for piece in filter(None, (piece.strip() for piece in text.split(","))):
            task, _, weight = piece.partition("=")
            try:
                weights.append((task, float(weight) if weight else 1.0))
            except ValueError as error:
                raise InvalidInput("tasks", f"{piece!r}: {weight!r} is not a weight") from error
        return cls(tuple(weights))

    def draw(self, rng: random.Random) -> str:
        """A random task."""
        tasks, weights = zip(*self.weights, strict=True)
        drawn: str = rng.choices(tasks, weights)[0]
        return drawn

    def has(self, tasks: Sequence[str]) -> bool:
        """Whether any of these tasks can be drawn."""
        return any(task in tasks and weight for task, weight in self.weights)


def ask(task: str, sentences: Sequence[str], rng: random.Random) -> Asked:
    """A question and answer from the sentences alone: for every task except needles and those of a language model.

    Args:
        task: The task.
        sentences: At least MIN_SENTENCES, in order.
        rng: Chooses among them.
    """
    if task == TRANSCRIBE:
        return Asked(REPEAT_INSTRUCTION, " ".join(sentences))
    if task == PART:
        count = rng.randint(1, _PART_SENTENCES)
        if rng.random() < 0.5:
            return Asked(_FIRST[count - 1], " ".join(sentences[:count]))
        return Asked(_LAST[count - 1], " ".join(sentences[-count:]))
    # A repeated sentence would have two answers.
    once = [at for at, sentence in enumerate(sentences) if sentences.count(sentence) == 1]
    if task == ORDER:
        first, second = sorted(rng.sample(once, 2)) if len(once) > 1 else (0, len(sentences) - 1)
        named = [sentences[first], sentences[second]]
        rng.shuffle(named)
        return Asked(f'Which is said first: "{named[0]}" or "{named[1]}"?', sentences[first])
    if task == AFTER:
        at = rng.choice([at for at in once if at + 1 < len(sentences)] or [0])
        return Asked(f'What is said right after "{sentences[at]}"?', sentences[at + 1])
    at = rng.choice([at for at in once if at] or [1])
    return Asked(f'What is said right before "{sentences[at]}"?', sentences[at - 1])


def window(sentences: Sequence[str], rng: random.Random) -> str:
    """Some consecutive sentences for a language model to ask about."""
    start = rng.randrange(max(len(sentences) - _WINDOW_SENTENCES, 0) + 1)
    return " ".join(sentences[start : start + _WINDOW_SENTENCES])


def question_prompt(text: str) -> str:
    """A prompt for a question about a text."""
    return f"{_cut(text)}\n\nWrite one short question that this text answers. Write only the question."


def answer_prompt(text: str, question: str) -> str:
    """A prompt for the answer to that question."""
    return f"{_cut(text)}\n\nAnswer in one sentence: {question}"


def summary_prompt(text: str) -> str:
    """A prompt for a summary of a text."""
    return f"{_cut(text)}\n\nSay in one or two sentences what this text is about."


def summary_question(rng: random.Random) -> str:
    """A question that asks for a summary."""
    return rng.choice(_SUMMARY_QUESTIONS)


def _cut(text: str) -> str:
    return " ".join(text.split()[:_MAX_WORDS])
