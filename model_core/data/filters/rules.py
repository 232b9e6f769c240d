"""Filter rules: thresholds, and the first one that a sample violates."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
from torch import Tensor

from model_core.audio.tensors import decode_audio
from model_core.data.conversation import Conversation, Speech, without_placeholders
from model_core.data.data_errors import SampleError
from model_core.data.filters.levels import clipping_share, silence_share
from model_core.data.filters.transcript_check import Transcribe, transcript_error_rate, whisper_transcriber
from model_core.data.filters.words import blocked_words, is_in_another_language, known_languages, repetition
from model_core.data.media import Limits, check_media
from model_core.errors import InvalidInput


class FilterReason(StrEnum):
    """Why a sample is dropped, in the order of the filters."""

    TOO_SHORT = "too-short"
    TOO_LONG = "too-long"
    LANGUAGE = "language"
    REPETITION = "repetition"
    BLOCKED_WORDS = "blocked-words"
    SILENCE = "silence"
    CLIPPING = "clipping"
    WORD_ERRORS = "word-errors"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near-duplicate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Thresholds; a filter without a threshold is off. Shares and rates are between 0 and 1.

    Attributes:
        min_seconds: Minimum duration of a recording.
        max_seconds: Maximum duration of a recording.
        languages: ISO 639-1 codes; texts that are confidently detected as another language are dropped.
        max_repetition: Maximum share of an answer's four-word sequences that are repeated.
        blocked: Words and phrases that no text may contain.
        max_silence: Maximum share of a recording that is 40 dB below its loudest part.
        max_clipping: Maximum share of samples in runs at full scale.
        max_word_errors: Maximum word error rate of Whisper's transcript against the sample's.
        hearing: The preset whose Whisper transcribes. Manifests record the rules under these field names.
        duplicates: Drop exact duplicates.
        near_duplicates: Similarity from which the second of two samples is dropped.
    """

    min_seconds: float | None = None
    max_seconds: float | None = None
    languages: tuple[str, ...] = ()
    max_repetition: float | None = None
    blocked: tuple[str, ...] = ()
    max_silence: float | None = None
    max_clipping: float | None = None
    max_word_errors: float | None = None
    hearing: str = "nano"
    duplicates: bool = False
    near_duplicates: float | None = None

    def check(self) -> None:
        """Raises InvalidInput if a threshold is out of range."""
        for name in ("max_repetition", "max_silence", "max_clipping", "near_duplicates"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise InvalidInput(name, f"{value} is not between 0 and 1")
        for name in ("min_seconds", "max_seconds", "max_word_errors"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InvalidInput(name, f"{value} is less than 0")
        if self.min_seconds is not None and self.max_seconds is not None and self.min_seconds > self.max_seconds:
            raise InvalidInput("min_seconds", f"{self.min_seconds} is greater than max_seconds, {self.max_seconds}")
        if unknown := [each for each in self.languages if each not in known_languages()]:
            raise InvalidInput("languages", f"{', '.join(unknown)} cannot be detected; known: {known_languages()}")

    @property
    def needs_audio(self) -> bool:
        """Whether recordings have to be decoded."""
        return any(each is not None for each in (self.max_silence, self.max_clipping, self.max_word_errors))

    @property
    def compare(self) -> bool:
        """Whether samples are compared with each other."""
        return self.duplicates or self.near_duplicates is not None


class Filters:
    """The filters that examine single samples.

    Args:
        rules: The thresholds.
        home: Root of the cache of weights, for `max_word_errors`.
        limits: Limits of media.
        transcribe: A recogniser to use in place of the Whisper of preset `rules.hearing`.

    Raises:
        InvalidInput: a threshold is out of range.
        UnknownPreset, WeightsMissing: the preset of the recogniser cannot be loaded.
    """

    def __init__(
        self,
        rules: Rules,
        home: Path | None = None,
        *,
        limits: Limits | None = None,
        transcribe: Transcribe | None = None,
    ) -> None:
        rules.check()
        self.rules = rules
        self._limits = limits or Limits()
        self._transcribe = transcribe
        if transcribe is None and rules.max_word_errors is not None:
            self._transcribe = whisper_transcriber(rules.hearing, home)

    def reason(self, conversation: Conversation) -> str | None:
        """Why the sample is dropped; None if it is kept.

        Samples with undecodable media are dropped with the reason that `validate` gives.
        """
        if light := next(self._light_reasons(conversation), None):
            return light
        try:
            check_media(conversation, self._limits)
        except SampleError as error:
            return error.reason
        if self.rules.needs_audio:
            for recording in conversation.speech:
                if reason := self._audio_reason(recording):
                    return reason
        return None

    def _light_reasons(self, conversation: Conversation) -> Iterator[FilterReason]:
        """Reasons that need no decoding."""
        rules = self.rules
        for recording in conversation.speech:
            if rules.min_seconds is not None and recording.seconds < rules.min_seconds:
                yield FilterReason.TOO_SHORT
            if rules.max_seconds is not None and recording.seconds > rules.max_seconds:
                yield FilterReason.TOO_LONG
        texts = texts_of(conversation)
        if rules.languages and any(is_in_another_language(text, rules.languages) for text in texts):
            yield FilterReason.LANGUAGE
        if rules.max_repetition is not None:
            for answer in conversation.answers:
                if repetition(answer) > rules.max_repetition:
                    yield FilterReason.REPETITION
        if rules.blocked and any(blocked_words(text, rules.blocked) for text in texts):
            yield FilterReason.BLOCKED_WORDS

    def _audio_reason(self, recording: Speech) -> FilterReason | None:
        rules = self.rules
        samples_S = decode_audio(recording.data, max_seconds=self._limits.audio_seconds)
        if rules.max_silence is not None and silence_share(samples_S.numpy()) > rules.max_silence:
            return FilterReason.SILENCE
        if rules.max_clipping is not None and clipping_share(samples_S.numpy()) > rules.max_clipping:
            return FilterReason.CLIPPING
        limit = rules.max_word_errors
        if limit is not None and recording.transcript and self._word_errors(samples_S, recording.transcript) > limit:
            return FilterReason.WORD_ERRORS
        return None

    def _word_errors(self, samples_S: Tensor, transcript: str) -> float:
        assert self._transcribe is not None
        # The order of float additions depends on the number of threads: with one, every machine gets the same text.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return transcript_error_rate(transcript, self._transcribe(samples_S))
        finally:
            torch.set_num_threads(threads)


def texts_of(conversation: Conversation) -> list[str]:
    """The non-empty texts of a sample: turns, then transcripts."""
    turns = [without_placeholders(turn.text) for turn in conversation.turns]
    return [text for text in (*turns, *(each.transcript for each in conversation.speech)) if text.strip()]
