"""Written prose to sentences that a voice can read: cut, tidied, checked, and told apart for training and testing."""

# ruff: noqa: RUF001 - typographic marks are the subject

import hashlib
import re
from collections.abc import Callable, Iterator

FEWEST_WORDS, MOST_WORDS = 3, 22
_HELD_OUT_SHARE = 40
_MOST_CHARACTERS = 140
_WORD = re.compile(r"[a-z']+")
_SPEAKABLE = re.compile(r"[A-Za-z][A-Za-z' ,.!?-]+")
_MARKS = str.maketrans({
    "’": "'", "‘": "'", "“": '"', "”": '"', "—": ", ", "–": ", ", "…": ".", "_": "", "*": "", ";": ",", ":": ",",
})  # fmt: skip
# A full stop after these ends no sentence; said as the words they stand for.
_TITLES = {
    "Mr": "Mister", "Mrs": "Missus", "Dr": "Doctor", "St": "Saint", "Capt": "Captain", "Col": "Colonel",
    "Esq": "Esquire", "Rev": "Reverend", "Gen": "General", "Prof": "Professor",
}  # fmt: skip
_TITLE = re.compile(rf"\b({'|'.join(_TITLES)})(?:\.|\b(?<=Mr)|\b(?<=Mrs)|\b(?<=Dr))")
# Initialisms, letters that stand alone, words cut by a hyphen, and a full stop within a sentence.
_SPELLED = re.compile(r"[A-Z]{2}|(?<![\w'])[B-HJ-Zb-hj-z](?![\w'])|-\s|\s-|\.\s+[a-z]")
_BRACKETS = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]*[A-Z])")
_CLAUSE_END = re.compile(r"\s*(?:[;:]|--|—)\s*")
_QUOTE = re.compile(r"\"|(?<!\w)'|'(?!\w)")
_RUN_OF_MARKS = re.compile(r"\s*([,.!?])[\s,.!?]*(?=[,.!?])|\s+(?=[,.!?])")


def words_of(text: str) -> list[str]:
    """Lower-case words, marks left out."""
    return _WORD.findall(text.lower())


def is_held_out(text: str) -> bool:
    """Whether a text belongs to the tests: one in 40 by SHA-256 of its words."""
    digest = hashlib.sha256(" ".join(words_of(text)).encode()).digest()
    return int.from_bytes(digest[:4]) % _HELD_OUT_SHARE == 0


def upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def sentences_of(prose: str) -> Iterator[str]:
    """The sentences of running text, line breaks and quotation marks gone, one full stop or other mark at the end.

    A sentence of more than MOST_WORDS words is cut where semicolons, colons and dashes part it, else at commas.
    """
    flat = _TITLE.sub(lambda title: _TITLES[title[1]], " ".join(_BRACKETS.sub(" ", prose).split()))
    for sentence in _SENTENCE_END.split(flat):
        if len(sentence.split()) <= MOST_WORDS:
            yield finished(sentence)
            continue
        for clause in _CLAUSE_END.split(sentence):
            yield from (finished(piece) for piece in _shortened(clause))


def finished(text: str) -> str:
    """Typographic and quotation marks replaced, upper case at the start, one mark at the end."""
    plain = _QUOTE.sub("", " ".join(text.translate(_MARKS).replace("--", ", ").split()))
    plain = " ".join(_RUN_OF_MARKS.sub("", plain).split()).strip(" ,-'")
    return upper_first(plain if plain[-1:] in tuple(".!?") else plain + ".")


def is_speakable(text: str, known_word: Callable[[str], bool]) -> bool:
    """Whether a voice reads a sentence as it is written: known words, 3 to 22 of them, no figures, no initialisms."""
    words = words_of(text)
    return (
        FEWEST_WORDS <= len(words) <= MOST_WORDS
        and 12 < len(text) <= _MOST_CHARACTERS
        and _SPEAKABLE.fullmatch(text) is not None
        and _SPELLED.search(text) is None
        and len(set(words)) > len(words) // 2
        and all(map(known_word, words))
    )


def _shortened(clause: str) -> Iterator[str]:
    """A clause in pieces of at most MOST_WORDS words, joined from what stands between its commas."""
    piece: list[str] = []
    for part in clause.split(", "):
        words = part.split()
        if piece and len(piece) + len(words) > MOST_WORDS:
            yield " ".join(piece)
            piece = []
        piece += [*words[:-1], words[-1] + ","] if words else []
    if piece:
        yield " ".join(piece)
