"""Text filters: language, repetition, blocked words."""

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from model_core.data.data_errors import DataError

_LOOP = 4  # order of the n-grams whose repetition is counted
_MIN_WORDS = 12  # shorter texts are not counted as repetitive
_SURE = 0.5
_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")


def words_of(text: str) -> list[str]:
    """The words in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def repetition(text: str) -> float:
    """Share of a text's four-word sequences that are repeated, 0 to 1; 0 for fewer than twelve words."""
    words = words_of(text)
    if len(words) < _MIN_WORDS:
        return 0.0
    grams = Counter(tuple(words[at : at + _LOOP]) for at in range(len(words) - _LOOP + 1))
    return 1 - len(grams) / grams.total()


def is_in_another_language(text: str, languages: Iterable[str]) -> bool:
    """Whether a text is confidently detected as a language other than these (ISO 639-1)."""
    language, probability = _identifier().classify(text)
    return probability >= _SURE and language not in languages


def known_languages() -> tuple[str, ...]:
    """Codes of the languages that can be detected."""
    return tuple(sorted({str(each) for each in _identifier().labels}))


def read_blocked_words(path: Path) -> tuple[str, ...]:
    """Words and phrases, one per line; `#` starts a comment. Raises DataError."""
    try:
        lines = [line.partition("#")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, f"cannot be read as a list of words ({error})") from error
    phrases = [" ".join(words_of(line)) for line in lines if words_of(line)]
    if not phrases:
        raise DataError(path, "contains no word: write one word or phrase per line")
    return tuple(sorted(set(phrases)))


def blocked_words(text: str, phrases: Iterable[str]) -> list[str]:
    """The phrases that a text contains as whole words, ignoring case."""
    spaced = f" {' '.join(words_of(text))} "
    return [phrase for phrase in phrases if f" {phrase} " in spaced]


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
