"""Texts and pictures to train on, from released packages alone.

Sentences come from chitchat-dataset, questions from it and chatterbot-corpus, pictures with questions from easy-vqa.
A text is held out for testing by its hash, so that no run can train on it.
"""

import hashlib
import json
import random
import re
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml

from model_core.checkpoints.packages import Package, Wheel

CHITCHAT = Wheel(
    name="chitchat-dataset",
    version="0.9.0",
    sha256="7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
    licence="MIT",
    members=("chitchat_dataset/dataset.json",),
)
CHATTERBOT = Wheel(
    name="chatterbot-corpus",
    version="1.3.3",
    sha256="86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
    licence="BSD-3-Clause",
    members=("chatterbot_corpus/data/english/",),
)
EASY_VQA = Wheel(
    name="easy-vqa",
    version="1.0",
    sha256="fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
    licence="MIT",
    members=("easy_vqa/data/",),
)

_SENTENCE = re.compile(r"[A-Za-z' ,.!?-]+")
_WORD = re.compile(r"[a-z']+")
_HELD_OUT_SHARE = 40
# Chat leaves out apostrophes; a voice would read "im" as a word of its own.
_CONTRACTIONS = {
    "im": "I'm", "ive": "I've", "dont": "don't", "cant": "can't", "didnt": "didn't", "thats": "that's",
    "whats": "what's", "youre": "you're", "isnt": "isn't", "doesnt": "doesn't", "wasnt": "wasn't", "wont": "won't",
    "havent": "haven't", "wouldnt": "wouldn't", "couldnt": "couldn't", "theyre": "they're", "arent": "aren't",
    "theres": "there's", "hes": "he's", "shes": "she's", "i": "I", "i'm": "I'm", "i've": "I've", "i'll": "I'll",
    "i'd": "I'd", "u": "you", "ur": "your", "r": "are",
}  # fmt: skip
# Written laughter and sounds that voices spell out, and words that are mostly misspelt ones.
_NOT_SPOKEN = {
    "haha", "hahaha", "lol", "lmao", "ya", "tho", "ill", "id", "idk", "omg", "hmm", "hm", "hmmm", "yea", "yeah", "nah",
    "umm", "uhh", "aww", "woah",
}  # fmt: skip
_COUNTRIES = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "China": "Beijing",
    "Russia": "Moscow", "England": "London", "Egypt": "Cairo", "Greece": "Athens", "Poland": "Warsaw",
    "Sweden": "Stockholm", "Norway": "Oslo", "Austria": "Vienna", "Portugal": "Lisbon", "Ireland": "Dublin",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PictureQuestion:
    """A question about one picture, by the picture's file."""

    image: Path
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Texts:
    """Sentences to repeat and questions to answer."""

    sentences: list[str]
    questions: list[str]


def package_folder(package: Package, cache: Path) -> Path:
    """Folder with the package's members, fetched on first use."""
    folder = cache / f"{package.name}-{package.version}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            package.fetch(Path(scratch))
            shutil.copytree(scratch, folder)
    return folder


def is_held_out(text: str) -> bool:
    """Whether a text belongs to the tests: one in 40 by SHA-256 of its words."""
    words = " ".join(_WORD.findall(text.lower()))
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:4]) % _HELD_OUT_SHARE == 0


def load_texts(cache: Path) -> Texts:
    """All usable sentences and questions, tidied, without duplicates, in an order that a fixed seed shuffles."""
    chitchat = json.loads((package_folder(CHITCHAT, cache) / CHITCHAT.members[0]).read_text())
    messages = [message["text"] for talk in chitchat.values() for turn in talk["messages"] for message in turn]
    pieces = [piece.strip() for text in messages for piece in re.split(r"(?<=[.!?])\s+|\n", text)]
    tidied = [tidy(piece) for piece in pieces if _SENTENCE.fullmatch(piece)]
    counts = Counter(word for text in tidied for word in _WORD.findall(text.lower()))
    usable = [text for text in dict.fromkeys(tidied) if _is_usable(text, counts)]
    random.Random(0).shuffle(usable)
    questions = [text for text in usable if text.endswith("?") and len(text.split()) >= 4]
    trivia = package_folder(CHATTERBOT, cache) / CHATTERBOT.members[0] / "trivia.yml"
    asked = [talk[0] for talk in yaml.safe_load(trivia.read_text())["conversations"]]
    capitals = [f"What is the capital of {country}?" for country in _COUNTRIES]
    return Texts(usable, capitals + [text for text in asked if _SENTENCE.fullmatch(text)] + questions)


def load_picture_questions(cache: Path, split: str) -> list[PictureQuestion]:
    """Questions of easy-vqa, `train` or `test`, first letter in upper case."""
    folder = package_folder(EASY_VQA, cache) / EASY_VQA.members[0] / split
    rows = json.loads((folder / "questions.json").read_text())
    return [PictureQuestion(folder / "images" / f"{image}.png", upper_first(q), a) for q, a, image in rows]


def tidy(text: str) -> str:
    """Apostrophes, upper case at the start and a full stop at the end, as a writer would set them."""
    words = []
    for word in re.sub(r"([.!?,])\1+", r"\1", text).split():
        bare = word.rstrip(".!?,").lower()
        words.append(_CONTRACTIONS[bare] + word[len(bare) :] if bare in _CONTRACTIONS else word)
    joined = upper_first(" ".join(words))
    return joined if joined[-1:] in tuple(".!?") else joined.rstrip(",- ") + "."


def upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _is_usable(text: str, counts: Counter[str]) -> bool:
    words = _WORD.findall(text.lower())
    return (
        3 <= len(words) <= 14
        and len(text) > 12
        and not re.search(r"[A-Z]{2}", text)
        and len(set(words)) > len(words) // 2
        and not _NOT_SPOKEN.intersection(words)
        and min(counts[word] for word in words) >= 5
    )
