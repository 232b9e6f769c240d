"""Needles: a sentence that is hidden in a long recording, and the question that only it answers.

Words to be learned and words of the tests have nothing in common, so that a test cannot be passed by heart. Where only
a hundred words are learned, a model learns to name one of those; so data sets draw from all words of their texts.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_FORMS = (
    ("The secret word is {}.", "What is the secret word?"),
    ("The password for today is {}.", "What is the password for today?"),
    ("The name of the lost dog is {}.", "What is the name of the lost dog?"),
    ("The treasure lies under the {}.", "What does the treasure lie under?"),
)
# Everyday words that no other one sounds like.
_WORDS = (
    "anchor", "apple", "barrel", "basket", "blanket", "bottle", "bridge", "bucket", "butter", "cabbage", "camel",
    "candle", "carpet", "castle", "cherry", "chimney", "circus", "copper", "cotton", "curtain", "diamond", "dolphin",
    "dragon", "eagle", "elephant", "engine", "feather", "finger", "flower", "forest", "garden", "ginger", "hammer",
    "harbor", "honey", "island", "jacket", "jungle", "kettle", "kitchen", "ladder", "lantern", "lemon", "library",
    "lizard", "magnet", "marble", "meadow", "melon", "mirror", "monkey", "mountain", "mushroom", "needle", "ocean",
    "olive", "orange", "oyster", "paper", "parrot", "pencil", "pepper", "picture", "pillow", "pirate", "planet",
    "pocket", "potato", "pumpkin", "rabbit", "ribbon", "river", "rocket", "saddle", "sailor", "salmon", "shadow",
    "shoulder", "silver", "spider", "squirrel", "station", "sugar", "summer", "table", "temple", "thunder", "tiger",
    "tomato", "tower", "trumpet", "tunnel", "turtle", "umbrella", "valley", "velvet", "village", "violin", "wagon",
    "walnut", "water", "whistle", "window", "winter", "wizard", "yellow",
)  # fmt: skip
_TESTED = 4  # one word in so many is kept for tests
_HELD_OUT = frozenset(_WORDS[::_TESTED])
_SHORTEST, _LONGEST = 4, 10  # letters of a word of a text that is hidden

EVERYDAY = tuple(word for word in _WORDS if word not in _HELD_OUT)


@dataclass(frozen=True, slots=True)
class Needle:
    """A sentence to hide, the question that it answers, and the one word that the answer has to hold."""

    sentence: str
    question: str
    answer: str


def hideable(words: Iterable[str]) -> tuple[str, ...]:
    """Words to learn from, in order: the everyday ones, and of `words` (lower case) those of a common length."""
    fitting = {word for word in words if word.isalpha() and _SHORTEST <= len(word) <= _LONGEST}
    return tuple(sorted((fitting | set(EVERYDAY)) - _HELD_OUT))


def needle(rng: random.Random, words: Sequence[str] = EVERYDAY, *, held_out: bool = False) -> Needle:
    """Draws a needle.

    Args:
        rng: Decides on words and question.
        words: One of these is hidden.
        held_out: True for the words of the tests in place of them.
    """
    sentence, question = rng.choice(_FORMS)
    word = rng.choice(sorted(_HELD_OUT) if held_out else words)
    return Needle(sentence.format(word), question, word)
