"""What a text is like: its language, loops in it, blocked words."""

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from model_core.data.data_errors import DataError

_LOOP = 4  # words of the n-grams whose repetition is counted
_LEAST_WORDS = 12  # a shorter text is no loop
_SURE = 0.5
_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")


def words_of(text: str) -> list[str]:
    """The words in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def repetition(text: str) -> float:
    """Share of a text's four-word sequences that it has had before, 0 to 1; 0 below twelve words."""
    words = words_of(text)
    if len(words) < _LEAST_WORDS:
        return 0.0
    grams = Counter(tuple(words[at : at + _LOOP]) for at in range(len(words) - _LOOP + 1))
    return 1 - len(grams) / grams.total()


def is_in_another_language(text: str, languages: Iterable[str]) -> bool:
    """Whether a text is surely in none of the languages (ISO 639-1); a few words that could be anything are not."""
    language, probability = _identifier().classify(text)
    return probability >= _SURE and language not in languages


def known_languages() -> tuple[str, ...]:
    """Codes of the languages that can be told apart."""
    return tuple(sorted({str(each) for each in _identifier().labels}))


def read_blocked_words(path: Path) -> tuple[str, ...]:
    """Words and phrases, one a line; `#` begins a remark. Raises DataError."""
    try:
        lines = [line.partition("#")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, f"cannot be read as a list of words ({error})") from error
    phrases = [" ".join(words_of(line)) for line in lines if words_of(line)]
    if not phrases:
        raise DataError(path, "holds no word; give one word or phrase a line")
    return tuple(sorted(set(phrases)))


def blocked_words(text: str, phrases: Iterable[str]) -> list[str]:
    """Those phrases that a text holds as whole words, in any case."""
    spaced = f" {' '.join(words_of(text))} "
    return [phrase for phrase in phrases if f" {phrase} " in spaced]


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
