"""Grapheme to phoneme: English text to espeak's phonemes for `en-us`, which the voice was trained on.

gruut (MIT) ships a lexicon of 124,000 words and a model for unknown words in espeak's notation, and a part-of-speech
tagger. Only these tables are used: no network access, and no espeak process.
"""

# ruff: noqa: RUF001, RUF002 - typographic marks and phonetic letters are the subject

import re
import sqlite3
import threading
from contextlib import closing

import gruut_lang_en
from gruut.g2p import GraphemesToPhonemes
from gruut.pos import PartOfSpeechTagger

from model_core.text.normalisation import normalise

_LETTERS = {
    "A": "eɪ", "B": "biː", "C": "siː", "D": "diː", "E": "iː", "F": "ɛf", "G": "dʒiː", "H": "eɪtʃ", "I": "aɪ",
    "J": "dʒeɪ", "K": "keɪ", "L": "ɛl", "M": "ɛm", "N": "ɛn", "O": "oʊ", "P": "piː", "Q": "kjuː", "R": "ɑːɹ",
    "S": "ɛs", "T": "tiː", "U": "juː", "V": "viː", "W": "dʌbəljuː", "X": "ɛks", "Y": "waɪ", "Z": "ziː",
}  # fmt: skip
_VOWELS = "aæɑɐeɛəɚɜiɪᵻoɔuʊʌ"
# Heteronyms by Penn tag, of which the lexicon has one pronunciation.
_BY_TAG = {
    ("wind", "V"): "wˈaɪnd", ("live", "V"): "lˈɪv", ("lives", "V"): "lˈɪvz", ("lives", "N"): "lˈaɪvz",
    ("use", "N"): "jˈuːs", ("use", "V"): "jˈuːz", ("close", "V"): "klˈoʊz", ("close", "J"): "klˈoʊs",
    ("record", "V"): "ɹᵻkˈoːɹd", ("present", "V"): "pɹizˈɛnt", ("object", "V"): "əbdʒˈɛkt",
    ("project", "V"): "pɹədʒˈɛkt", ("produce", "N"): "pɹˈoʊduːs", ("house", "V"): "hˈaʊz",
    ("read", "VBD"): "ɹˈɛd", ("read", "VBN"): "ɹˈɛd", ("tear", "V"): "tˈɛɹ", ("lead", "V"): "lˈiːd",
}  # fmt: skip
_OVERRIDES = {"over": "ˈoʊvɚ", "miz": "mɪz", "ok": "oʊkˈeɪ", "has": "hæz", "can": "kæn"}
_TOKEN = re.compile(r"[A-Za-z']+|[,.;:?!]")


class EnglishPhonemes:
    """Turns text into espeak-style IPA. Thread-safe; a clause takes about a millisecond."""

    def __init__(self) -> None:
        folder = gruut_lang_en.get_lang_dir()
        with closing(sqlite3.connect(folder / "espeak" / "lexicon.db")) as lexicon:
            rows = lexicon.execute("SELECT word, phonemes FROM word_phonemes WHERE role = '' ORDER BY pron_order DESC")
            # The preferred pronunciation of a word comes last and wins.
            self._lexicon: dict[str, str] = {word: _alone(word, sounds.replace(" ", "")) for word, sounds in rows}
        self._lexicon.update(_OVERRIDES)
        self._guess = GraphemesToPhonemes(folder / "espeak" / "g2p" / "model.crf")
        self._tag = PartOfSpeechTagger(folder / "pos" / "model.crf")
        self._lock = threading.Lock()  # crfsuite taggers are stateful

    def phonemes(self, text: str) -> str:
        """IPA of `text`, with spaces and punctuation kept: `"Hello, you."` -> `"həlˈoʊ, juː."`; may be empty."""
        tokens = _TOKEN.findall(normalise(text, self._lexicon.__contains__))
        with self._lock:
            tags = self._tag(tokens) if tokens else []
            sounds = [self._sound(token, tag) for token, tag in zip(tokens, tags, strict=True)]
        return _joined(tokens, sounds)

    def _sound(self, token: str, tag: str) -> str:
        if token in _LETTERS or not token[0].isalpha():
            return token
        by_tag = _BY_TAG.get((token, tag)) or _BY_TAG.get((token, tag[:1]))
        if by_tag:
            return by_tag
        known = self._lexicon.get(token)
        if known is None and token.endswith("'s"):
            stem = self._sound(token[:-2], tag) if len(token) > 2 else ""
            return stem + (
                "ɪz" if stem.endswith(("s", "z", "ʃ", "ʒ")) else "s" if stem.endswith(tuple("ptkfθ")) else "z"
            )
        if known is None and not set(token) & set("aeiouy"):
            letters = [letter.upper() for letter in token if letter != "'"]  # js, mp
            return "".join(_stressed(_LETTERS[letter], "ˌ") for letter in letters)
        if known is None:
            return "".join(self._guess(token.replace("'", "")))
        return known


def _alone(word: str, sounds: str) -> str:
    """Undoes the assimilation of a last phone to a following word: `can` `kæŋ`, `actor` `ˈæktɚɹ`, `it` `ɪɾ`."""
    if sounds.endswith("ŋ") and word.endswith(("n", "ne")):
        return sounds[:-1] + "n"
    if sounds.endswith("ɚɹ"):
        return sounds[:-1]
    return sounds[:-1] + "t" if sounds.endswith("ɾ") else sounds


def _joined(tokens: list[str], sounds: list[str]) -> str:
    """Words and punctuation in one line: consecutive letter names become one word, `the` is `ðɪ` before a vowel."""
    line = ""
    for index, (token, sound) in enumerate(zip(tokens, sounds, strict=True)):
        if not token[0].isalpha():
            line += token
            continue
        if token in _LETTERS and not _is_pronoun(tokens, index):
            last = index + 1 == len(tokens) or tokens[index + 1] not in _LETTERS
            follows = index > 0 and tokens[index - 1] in _LETTERS
            line += ("" if follows or not line else " ") + _stressed(_LETTERS[token], "ˈ" if last else "ˌ")
            continue
        if _starts_with_vowel(sounds[index + 1 : index + 2]):
            sound = {"the": "ðɪ", "it": "ɪɾ", "at": "æɾ"}.get(token, sound)
        if token == "I":
            sound = "aɪ"
        line += (" " if line else "") + sound
    return line


def _is_pronoun(tokens: list[str], index: int) -> bool:
    """Whether the token is `I` outside of an initialism."""
    return tokens[index] == "I" and not any(
        near in _LETTERS for near in (*tokens[max(0, index - 1) : index], *tokens[index + 1 : index + 2])
    )


def _starts_with_vowel(following: list[str]) -> bool:
    """Whether the next word, if any, starts with a vowel (letter names too: the F)."""
    return any(_LETTERS.get(sound, sound).lstrip("ˈˌ").startswith(tuple(_VOWELS)) for sound in following)


def _stressed(sound: str, mark: str) -> str:
    """Puts the stress mark before the vowel, as in `bˈiː`."""
    vowel = next(position for position, phoneme in enumerate(sound) if phoneme in _VOWELS)
    return sound[:vowel] + mark + sound[vowel:]
