"""Chat messages: chitchat-dataset and the questions of chatterbot-corpus."""

import json
import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml

from model_core.data.sources.packages import CHATTERBOT, CHITCHAT, package_folder
from model_core.data.sources.sentences import upper_first, words_of

_SENTENCE = re.compile(r"[A-Za-z' ,.!?-]+")
# Chats omit apostrophes; a voice would speak "im" as a word.
_CONTRACTIONS = {
    "im": "I'm", "ive": "I've", "dont": "don't", "cant": "can't", "didnt": "didn't", "thats": "that's",
    "whats": "what's", "youre": "you're", "isnt": "isn't", "doesnt": "doesn't", "wasnt": "wasn't", "wont": "won't",
    "havent": "haven't", "wouldnt": "wouldn't", "couldnt": "couldn't", "theyre": "they're", "arent": "aren't",
    "theres": "there's", "hes": "he's", "shes": "she's", "i": "I", "i'm": "I'm", "i've": "I've", "i'll": "I'll",
    "i'd": "I'd", "u": "you", "ur": "your", "r": "are",
}  # fmt: skip
# Written laughter and interjections that voices spell out, and words that are mostly misspellings.
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
class Texts:
    """Sentences to repeat and questions to answer."""

    sentences: list[str]
    questions: list[str]


def load_texts(packages: Path) -> Texts:
    """All usable sentences and questions, cleaned and without duplicates, shuffled with a fixed seed."""
    chitchat = json.loads((package_folder(CHITCHAT, packages) / CHITCHAT.members[0]).read_text())
    messages = [message["text"] for talk in chitchat.values() for turn in talk["messages"] for message in turn]
    pieces = [piece.strip() for text in messages for piece in re.split(r"(?<=[.!?])\s+|\n", text)]
    tidied = [tidy(piece) for piece in pieces if _SENTENCE.fullmatch(piece)]
    counts = Counter(word for text in tidied for word in words_of(text))
    usable = [text for text in dict.fromkeys(tidied) if _is_usable(text, counts)]
    random.Random(0).shuffle(usable)
    questions = [text for text in usable if text.endswith("?") and len(text.split()) >= 4]
    trivia = package_folder(CHATTERBOT, packages) / CHATTERBOT.members[0] / "trivia.yml"
    asked = [talk[0] for talk in yaml.safe_load(trivia.read_text())["conversations"]]
    capitals = [f"What is the capital of {country}?" for country in _COUNTRIES]
    return Texts(usable, capitals + [text for text in asked if _SENTENCE.fullmatch(text)] + questions)


def tidy(text: str) -> str:
    """Restores apostrophes, capitalises the start and adds a full stop."""
    words = []
    for word in re.sub(r"([.!?,])\1+", r"\1", text).split():
        bare = word.rstrip(".!?,").lower()
        words.append(_CONTRACTIONS[bare] + word[len(bare) :] if bare in _CONTRACTIONS else word)
    joined = upper_first(" ".join(words))
    return joined if joined[-1:] in tuple(".!?") else joined.rstrip(",- ") + "."


def _is_usable(text: str, counts: Counter[str]) -> bool:
    words = words_of(text)
    return (
        3 <= len(words) <= 14
        and len(text) > 12
        and not re.search(r"[A-Z]{2}", text)
        and len(set(words)) > len(words) // 2
        and not _NOT_SPOKEN.intersection(words)
        and min(counts[word] for word in words) >= 5
    )
