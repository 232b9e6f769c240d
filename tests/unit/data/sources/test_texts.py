"""Named collections of sentences, from small folders that look like the packages'."""

import struct
import zlib
from pathlib import Path

import pytest

from model_core.checkpoints.packages import Package
from model_core.data.sources.packages import JANE_AUSTEN, KING_JAMES_BIBLE, MOBY_DICK, WORDNET
from model_core.data.sources.texts import load_sentences, r_strings
from model_core.errors import InvalidInput


def folder_of(package: Package, packages: Path) -> Path:
    folder = packages / f"{package.name}-{package.version}" / package.members[0]
    (folder if package.members[0].endswith("/") else folder.parent).mkdir(parents=True, exist_ok=True)
    return folder


def serialised(lines: list[str | None]) -> bytes:
    """What R writes for a vector of strings: header, native encoding, type 16, count, each with flags and length."""
    head = b"X\n" + struct.pack(">iiii", 3, 262146, 197888, 5) + b"UTF-8" + struct.pack(">iI", 16, len(lines))
    strings = (
        struct.pack(">ii", 262153, -1)
        if line is None
        else struct.pack(">ii", 262153, len(line.encode())) + line.encode()
        for line in lines
    )
    return head + b"".join(strings)


def test_r_strings_are_read_with_missing_values_as_empty() -> None:
    assert r_strings(serialised(["EMMA", "", None, "é and more"])) == ["EMMA", "", "", "é and more"]


def test_novels_are_read_except_for_the_held_out_one(tmp_path: Path) -> None:
    novels = [
        ["EMMA", "", "CHAPTER I", "", "It was a very", "large house.", "", "They were at home all day."],
        ["SENSE AND SENSIBILITY", "", "The family had been there for long."],
    ]
    blocks = [serialised(list(novel)) for novel in novels]
    folder_of(JANE_AUSTEN, tmp_path).write_bytes(
        b"".join(struct.pack(">I", len(block)) + zlib.compress(block) for block in blocks)
    )
    sentences = load_sentences("austen", tmp_path)
    assert sorted(sentences) == ["It was a very large house.", "They were at home all day."]


def test_a_collection_is_reproducible_and_split_into_training_and_testing(tmp_path: Path) -> None:
    names = ("cat", "dog", "cow", "horse", "sheep", "bird", "mouse", "fish", "goat", "duck", "fox", "hen")
    text = "\n\n".join(
        f"The {a} {did} the {b} all day." for did in ("saw", "heard", "met") for a in names for b in names if a != b
    )
    (folder_of(MOBY_DICK, tmp_path) / "data.txt").write_text(text)
    training, testing = (load_sentences("moby-dick", tmp_path, held_out=held_out) for held_out in (False, True))
    assert training == load_sentences("moby-dick", tmp_path)
    assert len(training) + len(testing) == 396
    assert not set(training) & set(testing)
    assert 0 < len(testing) < 30


def test_words_added_by_translators_are_read_without_brackets(tmp_path: Path) -> None:
    folder_of(KING_JAMES_BIBLE, tmp_path).write_text('bible = Bible(\n"""\nAnd the LORD saw that [it was] good.\n""")')
    assert load_sentences("bible", tmp_path) == ["And the Lord saw that it was good."]


def test_wordnet_examples_and_meanings_are_separate(tmp_path: Path) -> None:
    folder = folder_of(WORDNET, tmp_path)
    for part in ("noun", "verb", "adj", "adv"):
        (folder / f"data.{part}").write_text("  1 a licence\n")
    with (folder / "data.verb").open("a") as file:
        file.write('0001 29 v 01 breathe 0 000 | draw air into the lungs; "I can breathe better here"\n')
    assert load_sentences("wordnet-examples", tmp_path) == ["I can breathe better here."]
    assert load_sentences("wordnet-glosses", tmp_path) == ["Draw air into the lungs."]


def test_an_unknown_collection_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"'novels'.*austen"):
        load_sentences("novels", tmp_path)
