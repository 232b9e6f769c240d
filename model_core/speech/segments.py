"""Hypotheses of Whisper's decoder, and the timed segments in them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from model_core.audio.tensors import Clip
from model_core.speech.whisper_tokens import SECONDS_PER_TIMESTAMP, WhisperTokens


@dataclass(frozen=True, slots=True)
class Segment:
    """A timed phrase.

    Attributes:
        start_seconds: Start in the recording.
        end_seconds: End in the recording.
        text: The words, without surrounding spaces.
        mean_log_probability: Mean natural-log probability of their tokens.
        no_speech_probability: Probability that the clip has no speech, 0 to 1.
    """

    start_seconds: float
    end_seconds: float
    text: str
    mean_log_probability: float
    no_speech_probability: float


@dataclass(slots=True)
class Hypothesis:
    """A clip's transcript while it is decoded; one log probability a token."""

    last_timestamp: int
    max_tokens: int
    no_speech_probability: float
    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    ended: bool = False
    # One for each clip, so that sampling does not depend on the others of its batch.
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    @property
    def mean_log_probability(self) -> float:
        return sum(self.log_probabilities) / max(len(self.log_probabilities), 1)


def cut_segments(clip: Clip, hypothesis: Hypothesis, vocabulary: WhisperTokens) -> Iterator[Segment]:
    """Segments between a hypothesis's timestamps, none without words; an open one ends with the clip."""
    first = vocabulary.first_timestamp
    words: list[int] = []
    log_probabilities: list[float] = []
    start = end = 0.0
    for token, log_probability in zip(hypothesis.tokens, hypothesis.log_probabilities, strict=False):
        if token < first:
            words.append(token)
            log_probabilities.append(log_probability)
            continue
        end = (token - first) * SECONDS_PER_TIMESTAMP
        yield from _segment(clip, hypothesis, vocabulary.text(words), log_probabilities, start, end)
        words, log_probabilities, start = [], [], end
    yield from _segment(clip, hypothesis, vocabulary.text(words), log_probabilities, start, math.inf)


def _segment(
    clip: Clip, hypothesis: Hypothesis, text: str, log_probabilities: list[float], start: float, end: float
) -> Iterator[Segment]:
    text = text.strip()
    if not any(letter.isalnum() for letter in text):
        return
    yield Segment(
        start_seconds=min(clip.start_seconds + start, clip.end_seconds),
        end_seconds=min(clip.start_seconds + end, clip.end_seconds),
        text=text,
        mean_log_probability=sum(log_probabilities) / len(log_probabilities),
        no_speech_probability=hypothesis.no_speech_probability,
    )
