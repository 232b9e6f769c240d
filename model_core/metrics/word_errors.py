"""Word error rate and exact match of normalised texts."""

from dataclasses import dataclass

import jiwer
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

# Whisper's own normaliser, with which word error rates are published: case, punctuation, contractions, titles, number
# words, fillers. Its table of British spellings is not part of the package, so these stay unchanged.
_NORMALIZER = EnglishTextNormalizer({})  # type: ignore[no-untyped-call]
_ARTICLES = frozenset({"a", "an", "the"})


@dataclass(frozen=True, slots=True)
class WordErrors:
    """Word edits between references and predictions; can be added up over a corpus.

    Attributes:
        words: Number of words in the references.
    """

    words: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def rate(self) -> float:
        """Edits per reference word, which may be greater than 1. `words` must not be 0."""
        return (self.substitutions + self.deletions + self.insertions) / self.words

    def __add__(self, other: "WordErrors") -> "WordErrors":
        return WordErrors(
            self.words + other.words,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


def normalize(text: str) -> str:
    """Normalises English text for comparison: "Mister Smith won't pay $5!" -> "mister smith will not pay $5"."""
    normalized: str = _NORMALIZER(text)
    return normalized


def word_errors(reference: str, prediction: str) -> WordErrors:
    """Minimum word edits between the normalised texts of one utterance."""
    found = jiwer.process_words(normalize(reference), normalize(prediction))
    return WordErrors(
        words=found.hits + found.substitutions + found.deletions,
        substitutions=found.substitutions,
        deletions=found.deletions,
        insertions=found.insertions,
    )


def same_answer(expected: str, prediction: str) -> bool:
    """Whether two short answers have the same words, ignoring articles: "A circle." and "circle" do."""
    return _answer_words(expected) == _answer_words(prediction)


def _answer_words(text: str) -> list[str]:
    return [word for word in normalize(text).split() if word not in _ARTICLES]
