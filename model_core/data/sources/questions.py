"""Short questions to speak, in named collections: facts with their answers, and open questions for a language model.

None of them asks for a held-out fact (`facts`).
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from model_core.data.sources.chat import load_texts
from model_core.data.sources.facts import all_facts, asks_held_out_fact
from model_core.data.sources.packages import CHATTERBOT, WORDNET, package_folder
from model_core.data.sources.sentences import finished, is_held_out, is_speakable
from model_core.data.sources.texts import known_word
from model_core.errors import InvalidInput

_MIN_WORDS = 4
_GENERAL = (
    "What is {}?", "What is {} used for?", "Can you tell me what {} is?", "What do you know about {}?",
    "Tell me something about {}.", "How would you describe {}?", "Why is {} important?", "What does {} look like?",
)  # fmt: skip
_MEANING = ("What does the word {} mean?", "What is the meaning of {}?", "Use the word {} in a sentence.")
# WordNet's lexicographer files of concrete nouns.
_THINGS = frozenset({"05", "06", "13", "17", "20"})  # animals, artifacts, food, natural objects, plants
_MAX_LETTERS = 12


@dataclass(frozen=True, slots=True)
class Question:
    """A question of one sentence.

    Args:
        text: The question.
        answer: The correct answer, if known; None for a language model to answer.
        accept: Other correct answers.
    """

    text: str
    answer: str | None = None
    accept: tuple[str, ...] = ()


def load_questions(name: str, packages: Path) -> list[Question]:
    """The training questions of a collection, without duplicates, shuffled with a fixed seed.

    Args:
        name: A key of QUESTIONS.
        packages: Folder of packages; missing ones are fetched.

    Raises:
        InvalidInput: the collection does not exist.
        WeightsMissing: its package cannot be fetched.
    """
    if name not in QUESTIONS:
        raise InvalidInput("source", f"{name!r} is not a collection of questions; those are {', '.join(QUESTIONS)}")
    questions = {question.text: question for question in QUESTIONS[name](packages)}
    usable = [
        question for text, question in questions.items() if not is_held_out(text) and not asks_held_out_fact(text)
    ]
    random.Random(0).shuffle(usable)
    return usable


def held_out_facts() -> list[Question]:
    """The held-out facts, each in its first form."""
    return [Question(fact.asked[0], fact.answers[0], fact.answers[1:]) for fact in all_facts() if fact.is_held_out]


def _facts(packages: Path) -> list[Question]:
    return [
        Question(text, fact.answers[0], fact.answers[1:])
        for fact in all_facts()
        if not fact.is_held_out
        for text in fact.asked
    ]


def _wordnet(packages: Path) -> list[Question]:
    """Questions for what things are and what words mean, for words with tagged senses in WordNet."""
    rng = random.Random(0)
    known = known_word()
    folder = package_folder(WORDNET, packages) / WORDNET.members[0]
    questions = []
    for part in ("noun", "verb", "adj"):
        for word, kind in _seen_words(folder, part):
            if known(word):
                general = part == "noun" and kind in _THINGS
                form = rng.choice(_GENERAL if general else _MEANING)
                questions.append(Question(form.format(_with_article(word) if general else word)))
    return questions


def _seen_words(folder: Path, part: str) -> Iterator[tuple[str, str]]:
    """Words with a tagged sense in WordNet for this part of speech, with the lexicographer file of that sense.

    Only single lower-case words, which excludes names. Formats: `man wndb`.
    """
    synsets = {}
    for line in (folder / f"data.{part}").read_text().splitlines():
        if not line.startswith(" "):
            offset, kind, _, words, *rest = line.partition(" | ")[0].split()
            synsets[offset] = kind, {word.partition("(")[0] for word in rest[: 2 * int(words, 16) : 2]}
    for line in (folder / f"index.{part}").read_text().splitlines():
        word, _, _, pointers, *rest = line.split() if not line.startswith(" ") else ("", "", "", "0")
        if word.isalpha() and 3 <= len(word) <= _MAX_LETTERS:
            tagged, offset = rest[int(pointers) + 1], rest[int(pointers) + 2]
            kind, spelled = synsets[offset]
            if int(tagged) and word in spelled:
                yield word, kind


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


def _chitchat(packages: Path) -> list[Question]:
    """Questions from chats."""
    texts = load_texts(packages).sentences
    return [Question(text) for text in texts if text.endswith("?") and len(text.split()) >= _MIN_WORDS]


def _chatterbot(packages: Path) -> list[Question]:
    """First turns of dialogues on many topics."""
    folder = package_folder(CHATTERBOT, packages) / CHATTERBOT.members[0]
    known = known_word()
    talks = [
        talk for file in sorted(folder.glob("*.yml")) for talk in yaml.safe_load(file.read_text())["conversations"]
    ]
    texts = [finished(str(talk[0])) for talk in talks]
    return [Question(text) for text in texts if text.endswith("?") and is_speakable(text, known)]


QUESTIONS: dict[str, Callable[[Path], list[Question]]] = {
    "facts": _facts,
    "wordnet": _wordnet,
    "chitchat": _chitchat,
    "chatterbot": _chatterbot,
}
