"""Needles: a sentence hidden in a long recording, and the question that only it answers.

The words used in training and in tests are disjoint, so that tests cannot be passed by memorisation.
"""

import random
from dataclasses import dataclass

_FORMS = (
    ("The secret word is {}.", "What is the secret word?"),
    ("The password for today is {}.", "What is the password for today?"),
    ("The name of the lost dog is {}.", "What is the name of the lost dog?"),
    ("The treasure lies under the {}.", "What does the treasure lie under?"),
)
# Everyday words without homophones.
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
_TESTED = 4  # every fourth word is used in tests


@dataclass(frozen=True, slots=True)
class Needle:
    """A sentence to hide, the question that it answers, and the word that the answer must contain."""

    sentence: str
    question: str
    answer: str


def needle(rng: random.Random, *, held_out: bool = False) -> Needle:
    """Draws a needle.

    Args:
        rng: Chooses word and question.
        held_out: True for test words, False for training words.
    """
    sentence, question = rng.choice(_FORMS)
    word = rng.choice([word for number, word in enumerate(_WORDS) if (number % _TESTED == 0) is held_out])
    return Needle(sentence.format(word), question, word)
