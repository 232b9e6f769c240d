"""Splits prose into sentences that a voice can speak: cleaned, checked, and split into training and test sentences."""

# ruff: noqa: RUF001 - typographic marks are the subject

import hashlib
import re
from collections.abc import Callable, Iterator

MIN_WORDS, MAX_WORDS = 3, 22
_HELD_OUT_SHARE = 40
_MAX_CHARACTERS = 140
_WORD = re.compile(r"[a-z']+")
_SPEAKABLE = re.compile(r"[A-Za-z][A-Za-z' ,.!?-]+")
_MARKS = str.maketrans({
    "’": "'", "‘": "'", "“": '"', "”": '"', "—": ", ", "–": ", ", "…": ".", "_": "", "*": "", ";": ",", ":": ",",
})  # fmt: skip
# A full stop after these does not end a sentence; they are spoken in full.
_TITLES = {
    "Mr": "Mister", "Mrs": "Missus", "Dr": "Doctor", "St": "Saint", "Capt": "Captain", "Col": "Colonel",
    "Esq": "Esquire", "Rev": "Reverend", "Gen": "General", "Prof": "Professor",
}  # fmt: skip
_TITLE = re.compile(rf"\b({'|'.join(_TITLES)})(?:\.|\b(?<=Mr)|\b(?<=Mrs)|\b(?<=Dr))")
# Initialisms, single letters, words split by a hyphen, and full stops within a sentence.
_SPELLED = re.compile(r"[A-Z]{2}|(?<![\w'])[B-HJ-Zb-hj-z](?![\w'])|-\s|\s-|\.\s+[a-z]")
_BRACKETS = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]*[A-Z])")
_CLAUSE_END = re.compile(r"\s*(?:[;:]|--|—)\s*")
_QUOTE = re.compile(r"\"|(?<!\w)'|'(?!\w)")
_RUN_OF_MARKS = re.compile(r"\s*([,.!?])[\s,.!?]*(?=[,.!?])|\s+(?=[,.!?])")


def words_of(text: str) -> list[str]:
    """The words in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def is_held_out(text: str) -> bool:
    """Whether a text is held out for tests: one in 40, by SHA-256 of its words."""
    digest = hashlib.sha256(" ".join(words_of(text)).encode()).digest()
    return int.from_bytes(digest[:4]) % _HELD_OUT_SHARE == 0


def upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def sentences_of(prose: str) -> Iterator[str]:
    """The sentences of running text, without line breaks and quotation marks, each with one final punctuation mark.

    A sentence of more than MAX_WORDS words is split at semicolons, colons and dashes, or else at commas.
    """
    flat = _TITLE.sub(lambda title: _TITLES[title[1]], " ".join(_BRACKETS.sub(" ", prose).split()))
    for sentence in _SENTENCE_END.split(flat):
        if len(sentence.split()) <= MAX_WORDS:
            yield finished(sentence)
            continue
        for clause in _CLAUSE_END.split(sentence):
            yield from (finished(piece) for piece in _shortened(clause))


def finished(text: str) -> str:
    """Replaces typographic and quotation marks, capitalises the start, and ends with one punctuation mark."""
    plain = _QUOTE.sub("", " ".join(text.translate(_MARKS).replace("--", ", ").split()))
    plain = " ".join(_RUN_OF_MARKS.sub("", plain).split()).strip(" ,-'")
    return upper_first(plain if plain[-1:] in tuple(".!?") else plain + ".")


def is_speakable(text: str, known_word: Callable[[str], bool]) -> bool:
    """Whether a voice can speak a sentence as written: 3 to 22 known words, no digits, no initialisms."""
    words = words_of(text)
    return (
        MIN_WORDS <= len(words) <= MAX_WORDS
        and 12 < len(text) <= _MAX_CHARACTERS
        and _SPEAKABLE.fullmatch(text) is not None
        and _SPELLED.search(text) is None
        and len(set(words)) > len(words) // 2
        and all(map(known_word, words))
    )


def _shortened(clause: str) -> Iterator[str]:
    """Splits a clause at commas into pieces of at most MAX_WORDS words."""
    piece: list[str] = []
    for part in clause.split(", "):
        words = part.split()
        if piece and len(piece) + len(words) > MAX_WORDS:
            yield " ".join(piece)
            piece = []
        piece += [*words[:-1], words[-1] + ","] if words else []
    if piece:
        yield " ".join(piece)
