"""Short facts that a small language model may know, asked in several forms, split into training and test facts.

The split is by fact, not by wording: a third of all facts, chosen by a hash of their subject, is never asked in any
form in training; a fact and its reverse (hot - cold, cold - hot) belong together. `asks_held_out_fact` detects them in
texts of other sources too, ignoring function words.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from num2words import num2words

from model_core.data.sources.sentences import upper_first, words_of

# Length to which models answer: when held-out facts are chosen for the test sets, and when they are measured.
MAX_ANSWER_TOKENS = 32
_HELD_OUT_SHARE = 3
_COUNTRY_ANSWERS = ("capital", "continent", "language")
# Families whose facts hold the other way round too.
_TWO_WAY = ("opposite", "next")
_SMALL_WORDS = frozenset({
    "a", "an", "the", "what", "which", "who", "where", "when", "how", "is", "are", "was", "do", "does", "did", "in",
    "on", "of", "to", "for", "and", "or", "that", "it", "this", "you", "me", "i", "we", "tell", "know", "name", "say",
    "please", "can", "could", "would", "word", "called", "call", "main", "there", "question", "quick",
})  # fmt: skip
_SUMS = {
    "plus": ("What is {} plus {}?", "How much is {} plus {}?", "What do you get if you add {} and {}?"),
    "minus": ("What is {} minus {}?", "How much is {} minus {}?", "What is left if from {} you take away {}?"),
    "times": ("What is {} times {}?", "How much is {} times {}?", "What do you get if you multiply {} by {}?"),
}


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact, and how to ask for it.

    Args:
        family: Kind of fact.
        about: Identifies it within its family; the same for a fact and its reverse.
        asked: Questions for it; tests use the first.
        answers: Correct answers; the first is the plainest.
    """

    family: str
    about: str
    asked: tuple[str, ...]
    answers: tuple[str, ...]

    @property
    def is_held_out(self) -> bool:
        """Whether it is a test fact."""
        digest = hashlib.sha256(f"{self.family}: {self.about}".encode()).digest()
        return int.from_bytes(digest[:4]) % _HELD_OUT_SHARE == 0


@cache
def all_facts() -> tuple[Fact, ...]:
    """All facts, in a fixed order."""
    families: dict[str, Any] = {}
    for file in sorted(Path(__file__).parent.glob("*.yaml")):
        # The base loader reads every scalar as a string: `yes` and `true` are words here.
        families |= yaml.load(file.read_text(encoding="utf-8"), yaml.BaseLoader)
    countries = families.pop("countries")
    return (
        *_country_facts(countries),
        *(fact for name, family in families.items() for fact in _family_facts(name, family)),
        *_sums(),
    )


def asks_held_out_fact(text: str) -> bool:
    """Whether a question asks for a held-out fact, in one of its forms or with other function words."""
    return _essence(text) in _held_out_essences()


def _country_facts(countries: dict[str, Any]) -> Iterator[Fact]:
    for country, answers in countries["facts"].items():
        for family, answer in zip(_COUNTRY_ANSWERS, answers, strict=True):
            yield _fact(family, country, countries[family], answer)


def _family_facts(name: str, family: dict[str, Any]) -> Iterator[Fact]:
    for subject, answer in family["facts"].items():
        yield _fact(name, subject, family["ask"], answer)


def _fact(family: str, subject: str, forms: list[str], answer: str) -> Fact:
    answers = tuple(answer.split("|"))
    about = " ".join(sorted({words_of(subject)[-1], answers[0].lower()})) if family in _TWO_WAY else subject
    return Fact(family, about, tuple(upper_first(form.format(subject)) for form in forms), answers)


def _sums() -> Iterator[Fact]:
    """Sums and differences up to 24, products up to 100; `about` is the same for 2 + 3 and 3 + 2."""
    triples = [("plus", a, b, a + b) for a in range(1, 13) for b in range(1, a + 1)]
    triples += [("minus", a, b, a - b) for a in range(2, 13) for b in range(1, a)]
    triples += [("times", a, b, a * b) for a in range(2, 11) for b in range(2, a + 1)]
    for family, a, b, result in triples:
        asked = tuple(form.format(num2words(a), num2words(b)) for form in _SUMS[family])
        yield Fact(family, f"{a} {b}", asked, (num2words(result), str(result)))


def _essence(text: str) -> frozenset[str]:
    return frozenset(words_of(text)) - _SMALL_WORDS


@cache
def _held_out_essences() -> frozenset[frozenset[str]]:
    return frozenset(_essence(question) for fact in all_facts() if fact.is_held_out for question in fact.asked)
