"""Nano's units: the sounds of its voice, numbered, and where each of them lies in what the voice read.

The voice (VITS) is given phonemes, marks and, between any two of them, a pad; it decides how many frames each lasts. A
unit is a sound with the stress mark before it, the length mark, blank and pads behind it: 13 units to a second of
speech. Clusters (k-means) of the voice's latents would be units that say more of its melody and less of what is said:
the likeliest sound of each of 256 clusters is right for two units of five.
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
_NUMBERS = {sound: number for number, sound in enumerate(PHONES)}


def unstressed(unit: int) -> int:
    """The same sound without stress."""
    return _NUMBERS[PHONES[unit].lstrip("ˈˌ")]


def answer_phonemes(text: str, phonemes: "EnglishPhonemes") -> str:
    """A whole answer as the voice says it, clause by clause; a clause without a mark is closed by a comma."""
    splitter = ClauseSplitter()
    said = [phonemes.phonemes(clause).strip() for clause in (*splitter.push(text), *splitter.finish())]
    return " ".join(clause if clause[-1] in _MARKS + ";:" else clause + "," for clause in said if clause.strip(_MARKS))


def phone_units(phonemes: str) -> list[int]:
    """Numbers of the sounds of a line of phonemes, in PHONES."""
    return [unit for unit, _ in units_with_durations(list(unicodedata.normalize("NFD", phonemes)), None)]


def units_with_durations(symbols: Sequence[str], frames: Sequence[int] | None) -> list[tuple[int, int]]:
    """Units and how many frames each lasts.

    Args:
        symbols: What the voice was given: letters, marks, blanks, stresses, pads `_`, beginning `^` and end `$`.
        frames: How many frames each of them lasts; None for none.
    """
    found: list[tuple[int, int]] = []
    waiting, stress = 0, ""  # frames of what belongs to the unit to come, and its stress
    for symbol, length in zip(symbols, frames or [0] * len(symbols), strict=True):
        known = symbol.translate(_SAME)
        if symbol in ("ˈ", "ˌ", "^"):
            waiting, stress = waiting + length, symbol.strip("^")
        elif known in _NUMBERS:
            unit = _NUMBERS.get(stress + known, _NUMBERS[known])
            found.append((unit, waiting + length))
            waiting, stress = 0, ""
        elif waiting or stress or not found:  # a pad behind a stress mark
            waiting += length
        else:
            found[-1] = (found[-1][0], found[-1][1] + length)
    if found and waiting:
        found[-1] = (found[-1][0], found[-1][1] + waiting)
    return found
