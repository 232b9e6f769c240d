"""Metrics for short answers, as defined in the papers of their data sets.

- VQA accuracy (Antol et al., arXiv 1505.00468), with the normalisation of its evaluation server that TextVQA uses
  (Singh et al., arXiv 1904.08920);
- ANLS, average normalised Levenshtein similarity (Biten et al., arXiv 1907.00490), of DocVQA (arXiv 2007.00398);
- relaxed accuracy (Masry et al., ChartQA, arXiv 2203.10244).
"""

import re
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from model_core.metrics.word_errors import normalize, same_answer

ANLS_THRESHOLD = 0.5
RELAXED_TOLERANCE = 0.05
_MIN_AGREEING = 3

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_FULL_STOP = re.compile(r"\.(?!\d)")
_ARTICLES = frozenset({"a", "an", "the"})
_DIGITS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
# The server restores a single missing apostrophe in these.
_CONTRACTIONS = (
    "ain't", "aren't", "can't", "could've", "couldn't", "couldn't've", "didn't", "doesn't", "don't", "hadn't",
    "hadn't've", "hasn't", "haven't", "he'd", "he'd've", "he's", "how'd", "how'll", "how's", "isn't", "it'd", "it'd've",
    "it'll", "ma'am", "mightn't", "mightn't've", "might've", "mustn't", "must've", "needn't", "not've", "o'clock",
    "oughtn't", "'ow's'at", "shan't", "she'd've", "should've", "shouldn't", "shouldn't've", "somebody'd've",
    "somebody'll", "somebody's", "someone'd", "someone'd've", "someone'll", "someone's", "something'd",
    "something'd've", "something'll", "that's", "there'd", "there'd've", "there're", "there's", "they'd", "they'd've",
    "they'll", "they're", "they've", "'twas", "wasn't", "we'd've", "we've", "weren't", "what'll", "what're", "what's",
    "what've", "when's", "where'd", "where's", "where've", "who'd", "who'd've", "who'll", "who's", "who've", "why'll",
    "why're", "why's", "won't", "would've", "wouldn't", "wouldn't've", "y'all", "y'all'll", "y'all'd've", "you'd",
    "you'd've", "you'll", "you're", "you've",
)  # fmt: skip
_RESTORED = {
    form[:at] + form[at + 1 :]: form for form in _CONTRACTIONS for at, letter in enumerate(form) if letter == "'"
} | {"somebody'd": "somebodyd"}


def vqa_normalize(text: str) -> str:
    """Normalises an answer as VQA's evaluation server does: case, punctuation, digits, articles, contractions.

    "The T-shirts, aren't there two?" -> "t shirts aren't there 2".
    """
    plain = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    plain = cleaned = plain.replace("\n", " ").replace("\t", " ")
    for mark in _PUNCTUATION:
        # If a mark is next to a space anywhere, all its occurrences are deleted; otherwise each becomes a space.
        beside_space = f"{mark} " in plain or f" {mark}" in plain
        cleaned = cleaned.replace(mark, "" if beside_space else " ")
    words = (_DIGITS.get(word, word) for word in _FULL_STOP.sub("", cleaned).split())
    return " ".join(_RESTORED.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VQA accuracy: min(1, matching annotators / 3), averaged over all ways to leave one annotator out.

    Args:
        prediction: The answer to score.
        answers: The annotators' answers, usually ten.
    """
    predicted, given = vqa_normalize(prediction), [vqa_normalize(answer) for answer in answers]
    same = given.count(predicted)
    scores = [min(1.0, (same - (answer == predicted)) / _MIN_AGREEING) for answer in given]
    return sum(scores) / len(scores)


def anls(prediction: str, answers: Sequence[str]) -> float:
    """Similarity to the closest answer, 1 - edits / length of the longer text; 0 if that is not greater than one half.

    Ignores case and repeated spaces.
    """
    return max(_similarity(prediction, answer) for answer in answers)


def relaxed_match(prediction: str, answer: str) -> bool:
    """Whether a number is within 5 % of the expected one, or a text is equal to it ignoring case.

    "12%" is the number 0.12. An expected 0 must be matched exactly.
    """
    expected, given = _number(answer), _number(prediction)
    if expected is None or given is None:
        return prediction.strip().lower() == answer.strip().lower()
    if expected == 0:
        return given == 0
    return abs(given - expected) / abs(expected) <= RELAXED_TOLERANCE


def is_right(prediction: str, accepted: Sequence[str]) -> bool:
    """Whether the whole prediction is one of the accepted answers, after normalisation and ignoring articles."""
    return any(same_answer(answer, prediction) for answer in accepted)


def contains_answer(prediction: str, accepted: Sequence[str]) -> bool:
    """Whether the prediction contains the consecutive words of an accepted answer, after normalisation."""
    words = f" {normalize(prediction)} "
    return any(f" {normalize(answer)} " in words for answer in accepted if normalize(answer))


def _similarity(prediction: str, answer: str) -> float:
    predicted, expected = (" ".join(text.lower().split()) for text in (prediction, answer))
    distance = Levenshtein.normalized_distance(predicted, expected)
    return 1 - distance if distance < ANLS_THRESHOLD else 0.0


def _number(text: str) -> float | None:
    text = text.strip()
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
