"""Nano's speech units: the phones of its voice, numbered, and their alignment with an utterance.

The input of the voice (VITS) is phonemes, punctuation and a pad between any two of them; it predicts the duration of
each. A unit is a phone with the stress mark before it and the length mark, blank and pads after it: 13 units a second.
K-means clusters of the voice's latents would say more about intonation and less about content: the most frequent phone
of each of 256 clusters is right for two units of five.
"""

# ruff: noqa: RUF001 - phonetic letters are the subject

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from model_core.text.clauses import ClauseSplitter

if TYPE_CHECKING:
    from model_core.text.phonemes import EnglishPhonemes

_STRESSES = ("", "ˈ", "ˌ")
_VOWELS = "aæɑɐeɛəɚɜiɪᵻoɔuʊʌ"
_CONSONANTS = "bdfhjklmnpstvwzðŋɡɹɾʃʒʔθ"
_MARKS = ",.?!"
_SAME = str.maketrans({";": ",", ":": ",", "r": "ɹ", "ɬ": "l", "x": "k"})

PHONES: tuple[str, ...] = (*_MARKS, *_CONSONANTS, *(stress + vowel for vowel in _VOWELS for stress in _STRESSES))
_NUMBERS = {phone: number for number, phone in enumerate(PHONES)}


def unstressed(unit: int) -> int:
    """The same phone without stress."""
    return _NUMBERS[PHONES[unit].lstrip("ˈˌ")]


def answer_phonemes(text: str, phonemes: "EnglishPhonemes") -> str:
    """Phonemes of a whole answer, clause by clause; a clause without punctuation gets a comma."""
    splitter = ClauseSplitter()
    said = [phonemes.phonemes(clause).strip() for clause in (*splitter.push(text), *splitter.finish())]
    return " ".join(clause if clause[-1] in _MARKS + ";:" else clause + "," for clause in said if clause.strip(_MARKS))


def phone_units(phonemes: str) -> list[int]:
    """Units of a line of phonemes: indices in PHONES."""
    return [unit for unit, _ in units_with_durations(list(unicodedata.normalize("NFD", phonemes)), None)]


def units_with_durations(symbols: Sequence[str], frames: Sequence[int] | None) -> list[tuple[int, int]]:
    """Units and the duration of each in frames.

    Args:
        symbols: Input of the voice: phonemes, punctuation, blanks, stress marks, pads `_`, start `^` and end `$`.
        frames: Duration of each symbol; None for 0.
    """
    found: list[tuple[int, int]] = []
    waiting, stress = 0, ""  # frames that belong to the next unit, and its stress
    for symbol, length in zip(symbols, frames or [0] * len(symbols), strict=True):
        known = symbol.translate(_SAME)
        if symbol in ("ˈ", "ˌ", "^"):
            waiting, stress = waiting + length, symbol.strip("^")
        elif known in _NUMBERS:
            unit = _NUMBERS.get(stress + known, _NUMBERS[known])
            found.append((unit, waiting + length))
            waiting, stress = 0, ""
        elif waiting or stress or not found:  # a pad after a stress mark
            waiting += length
        else:
            found[-1] = (found[-1][0], found[-1][1] + length)
    if found and waiting:
        found[-1] = (found[-1][0], found[-1][1] + waiting)
    return found
