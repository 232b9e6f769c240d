"""Needles: a sentence that is hidden in a long recording, and the question that only it answers.

Words to be learned and words of the tests have nothing in common, so that a test cannot be passed by heart.
"""

import random
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


@dataclass(frozen=True, slots=True)
class Needle:
    """A sentence to hide, the question that it answers, and the one word that the answer has to hold."""

    sentence: str
    question: str
    answer: str


def needle(rng: random.Random, *, held_out: bool = False) -> Needle:
    """Draws a needle.

    Args:
        rng: Decides on words and question.
        held_out: True for the words of the tests, False for those to learn from.
    """
    sentence, question = rng.choice(_FORMS)
    word = rng.choice([word for number, word in enumerate(_WORDS) if (number % _TESTED == 0) is held_out])
    return Needle(sentence.format(word), question, word)
