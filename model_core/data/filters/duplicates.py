"""Exact and near duplicates: by hash, and by MinHash (Broder, 1997) of word trigrams.

Near duplicates have similar words and the same images, videos and voices: the same question about another image, or the
same sentence by another voice, is not a duplicate. The first of several duplicates is kept.

Shapes: M samples, P permutations.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from model_core.data.conversation import Conversation
from model_core.data.filters.rules import FilterReason, texts_of
from model_core.data.filters.words import words_of

PERMUTATIONS = 128
_SEED = 1
_TRIPLE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """The features of a sample that are compared.

    Attributes:
        exact: Hash of everything but id and source.
        media: Hash of images, videos and names of voices.
        words: [P] MinHash of its word trigrams, each value less than 2^32.
    """

    exact: str
    media: str
    words: tuple[int, ...]


def fingerprint(conversation: Conversation) -> Fingerprint:
    """The fingerprint of a sample."""
    pictures = [hashlib.sha256(data).hexdigest() for data in (*conversation.images, *conversation.videos)]
    sounds = [hashlib.sha256(recording.data).hexdigest() for recording in conversation.speech]
    voices = [recording.voice for recording in conversation.speech]
    turns = [f"{turn.role}: {' '.join(turn.text.split())}" for turn in conversation.turns]
    return Fingerprint(
        exact=_hash([*turns, "", *pictures, "", *sounds, "", repr(conversation.units)]),
        media=_hash([*pictures, "", *voices]),
        words=tuple(RMinHash.digests_from_token_sets([_triples(conversation)], PERMUTATIONS, _SEED)[0]),
    )


class Duplicates:
    """Finds duplicates in a sequence of samples.

    Args:
        exact: Find exact duplicates.
        similarity: Jaccard similarity of word trigrams from which samples are near duplicates; None finds none.
    """

    def __init__(self, *, exact: bool, similarity: float | None) -> None:
        self._exact = exact
        self._similarity = similarity
        self._seen: set[str] = set()
        self._kept: list[NDArray[np.uint32]] = []
        self._buckets: defaultdict[int, list[int]] = defaultdict(list)
        self._band = rows_of_a_band(similarity) if similarity is not None else PERMUTATIONS

    def reason(self, seen: Fingerprint) -> FilterReason | None:
        """Why the sample is dropped; None if it is kept, and later ones are compared with it."""
        if self._exact:
            if seen.exact in self._seen:
                return FilterReason.DUPLICATE
            self._seen.add(seen.exact)
        if self._similarity is None:
            return None
        words_P = np.array(seen.words, np.uint32)
        buckets = self._buckets_of(seen.media, words_P)
        near = sorted({number for bucket in buckets for number in self._buckets.get(bucket, ())})
        if any(float(np.mean(self._kept[number] == words_P)) >= self._similarity for number in near):
            return FilterReason.NEAR_DUPLICATE
        for bucket in buckets:
            self._buckets[bucket].append(len(self._kept))
        self._kept.append(words_P)
        return None

    def _buckets_of(self, media: str, words_P: NDArray[np.uint32]) -> list[int]:
        """One bucket per band of the permutations: similar samples are likely to share at least one."""
        return [
            int.from_bytes(hashlib.blake2b(f"{media}{at}".encode() + band.tobytes(), digest_size=8).digest())
            for at, band in enumerate(np.split(words_P, PERMUTATIONS // self._band))
        ]


def rows_of_a_band(similarity: float) -> int:
    """The longest band, a power of two, with which a pair of that similarity is found with probability 0.95."""
    rows = 1
    while rows < PERMUTATIONS and (1 - similarity ** (2 * rows)) ** (PERMUTATIONS // (2 * rows)) <= 0.05:
        rows *= 2
    return rows


def _triples(conversation: Conversation) -> list[str]:
    """Word trigrams of all texts; shorter texts as a whole, texts without words by their characters."""
    texts = [words_of(text) or [text] for text in texts_of(conversation)]
    return sorted(
        {" ".join(words[at : at + _TRIPLE]) for words in texts for at in range(max(len(words) - _TRIPLE + 1, 1))}
    )


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
