"""Data of stage 3: long recordings with tasks, some with hidden needles.

Shapes: S samples at 16 kHz.
"""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import numpy as np

from model_core.audio.tensors import SAMPLE_RATE, decode_audio
from model_core.data.build import tasks
from model_core.data.build.long_source import LongRecording, LongSource, NeedleAudio, TaskOptions
from model_core.data.build.pool import Pool, PooledUtterance
from model_core.data.build.recorded import RecordedFiles
from model_core.data.build.sources import Mixture, OpenSource, Source, sample_id, texts_sha256
from model_core.data.build.synthesis import Samples, Style, UtteranceSynthesizer, recording
from model_core.data.build.work import BuildContext, Maker, Spec, rng_of
from model_core.errors import InvalidInput

JOINED = "joined"

_PAUSE_SECONDS = (0.25, 1.2)
_MAX_RUN = 6  # consecutive utterances of a voice
_NEEDLE_SECONDS = 5.0  # maximum that a needle adds to a recording
_BLOCK_SECONDS = 20.0  # minimum length of the blocks that are augmented at a time
_TRIES = 100
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_PIECE_WORDS = 12  # of a transcript without full stops
_QUIET_SECONDS, _SEARCH_SECONDS = 0.3, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LongSpeechSpec(Spec):
    """Specification of a long-speech set.

    Args:
        sources: Sentences, named or from a .txt file, whose utterances are joined to long recordings (their counts are
            numbers of utterances), and .jsonl files of the user's long recordings, with lines
            {"audio": "path", "text": "transcript"}.
        style: Voices and augmentation.
        asking: Tasks on the recordings.
        recordings: Number of joined recordings.
        readings: Number of synthesized sentences to join them from.
        shortest, longest: Seconds of a recording; the user's own are dropped if they are longer.
        even_lengths: Draw lengths uniformly; otherwise log-uniformly.
    """

    kind: ClassVar[str] = "long-speech"

    sources: tuple[Source, ...]
    style: Style
    asking: TaskOptions
    recordings: int = 1000
    readings: int = 4000
    shortest: float = 20.0
    longest: float = 600.0
    even_lengths: bool = False
    shard_samples: int = 25

    def __post_init__(self) -> None:
        super(LongSpeechSpec, self).__post_init__()
        if not 0 < self.shortest <= self.longest:
            raise InvalidInput("seconds", f"{self.shortest:g} to {self.longest:g} is not a range of lengths")
        if self.recordings < 1 or self.readings < tasks.MIN_SENTENCES:
            raise InvalidInput("readings", f"at least 1 recording and {tasks.MIN_SENTENCES} readings are required")

    def open(self, context: BuildContext) -> Maker:
        """Raises InvalidInput if a source or a voice does not exist."""
        synthesizer = UtteranceSynthesizer(self.style, context.home)
        read = tuple(source for source in self.sources if source.path is None or source.path.suffix == ".txt")
        opened: list[tuple[Source, OpenSource]] = []
        if read:
            pool = Pool(read, self.style, self.seed, self.readings, context)
            joined = JoinedReadings(pool, self, synthesizer, context)
            opened.append((Source(name=JOINED, count=self.recordings), joined))
        for source in self.sources:
            if source not in read:
                opened.append((source, OwnRecordings(source, self, synthesizer, context)))
        return Mixture(opened, self.seed, self.samples)


class JoinedReadings(LongSource):
    """Utterances of one to three voices, joined with pauses."""

    def __init__(
        self, pool: Pool, spec: LongSpeechSpec, synthesizer: UtteranceSynthesizer, context: BuildContext
    ) -> None:
        super().__init__(JOINED, spec.recordings, spec.seed, spec.asking, synthesizer, context)
        self._pool, self._spec = pool, spec
        self.available = spec.recordings
        self.origin = texts_sha256(f"{name} {origin}" for name, origin in sorted(pool.origins.items()))
        # Needed for the question and again for the audio.
        self._drawn = lru_cache(maxsize=4)(self._draw)

    def prepare(self) -> None:
        """Synthesizes the pool of sentences first."""
        self._pool.prepare()
        super().prepare()

    def sentences(self, index: int) -> Sequence[str]:
        """The sentences in the order of the recording."""
        return [reading.text for reading in self._drawn(index)]

    def recording(self, index: int, hidden: NeedleAudio | None) -> LongRecording:
        """Joins the utterances; a needle is inserted between two of them."""
        readings = self._drawn(index)
        rng = rng_of(self.seed, self.name, index, "pauses")
        audio = [self._pool.samples(reading) for reading in readings]
        texts = [reading.text for reading in readings]
        at = round(hidden.depth * len(audio)) if hidden else len(audio)
        if hidden:
            audio.insert(at, hidden.samples)
            texts.insert(at, hidden.needle.sentence)
        parts = [np.concatenate((samples, _pause(rng))) for samples in audio]
        voices = "+".join(sorted({reading.voice for reading in readings}))
        seed = f"{self.seed} {self.name} {index}"
        speech = recording(self._augmented(parts, seed), " ".join(texts), voices)
        return LongRecording(speech, sum(map(len, parts[:at])) / sum(map(len, parts)))

    def _augmented(self, parts: list[Samples], seed: str) -> Samples:
        """[S] of all parts with the same room and noise; in blocks, to bound the length of the FFTs."""
        blocks: list[list[Samples]] = [[]]
        for part in parts:
            if sum(map(len, blocks[-1])) > _BLOCK_SECONDS * SAMPLE_RATE:
                blocks.append([])
            blocks[-1].append(part)
        return np.concatenate([self._synthesizer.augmented(np.concatenate(block), seed) for block in blocks])

    def _draw(self, index: int) -> list[PooledUtterance]:
        """Draws a sequence of utterances without repeating a sentence."""
        rng = rng_of(self.seed, self.name, index, "readings")
        seconds = self._seconds(self.task(index), rng)
        by_voice = self._pool.by_voice
        voices = rng.sample(list(by_voice), min(rng.choice((1, 1, 2, 3)), len(by_voice)))
        drawn: list[PooledUtterance] = []
        said: set[str] = set()
        voice, run, length, tries = voices[0], 0, 0.0, 0
        while tries < _TRIES:
            if not run:
                voice, run = rng.choice(voices), rng.randint(1, _MAX_RUN)
            reading = rng.choice(by_voice[voice])
            fits = length + reading.seconds + _PAUSE_SECONDS[1] <= seconds or len(drawn) < tasks.MIN_SENTENCES
            if not fits and length >= self._spec.shortest:
                break
            if reading.text in said or not fits:
                # If the drawn voices have too few sentences, all voices are used.
                tries, run, voices = tries + 1, 0, voices if tries < _TRIES // 2 else list(by_voice)
                continue
            drawn.append(reading)
            said.add(reading.text)
            run, length = run - 1, length + reading.seconds + sum(_PAUSE_SECONDS) / 2
        return drawn

    def _seconds(self, task: str, rng: random.Random) -> float:
        spec = self._spec
        longest = spec.longest - _NEEDLE_SECONDS if task == tasks.NEEDLE else spec.longest
        if task == tasks.TRANSCRIBE:
            longest = min(longest, spec.asking.transcribe_seconds)
        longest = max(longest, spec.shortest)
        if spec.even_lengths:
            return rng.uniform(spec.shortest, longest)
        return math.exp(rng.uniform(math.log(spec.shortest), math.log(longest)))


class OwnRecordings(LongSource):
    """The user's own long recordings with transcripts; without a count, each is used once."""

    def __init__(
        self, source: Source, spec: LongSpeechSpec, synthesizer: UtteranceSynthesizer, context: BuildContext
    ) -> None:
        if source.path is None or source.path.suffix != ".jsonl":
            raise InvalidInput("source", f"{source.name} is neither sentences nor a .jsonl file of recordings")
        self._files = RecordedFiles(source.path)
        count = source.count or self._files.count
        super().__init__(self._files.name, count, spec.seed, spec.asking, synthesizer, context)
        self._longest = spec.longest
        self.available, self.origin = self._files.count, self._files.sha256

    def sentences(self, index: int) -> Sequence[str]:
        """The transcript, split into sentences."""
        return _cut_sentences(self._files.text(index % self.available))

    def recording(self, index: int, hidden: NeedleAudio | None) -> LongRecording:
        """The file unchanged; with a needle at the quietest moment near its depth, a FLAC file."""
        longest = self._longest - (_NEEDLE_SECONDS if hidden else 0)
        speech = self._files.speech(index % self.available, sample_id(self.name, index), longest)
        if hidden is None:
            return LongRecording(speech)
        samples = decode_audio(speech.data, max_seconds=self._longest).numpy()
        at = _quiet_place(samples, round(hidden.depth * len(samples)))
        level = float(np.abs(samples).max()) / max(float(np.abs(hidden.samples).max()), 1e-4)
        with_needle = np.concatenate((samples[:at], hidden.samples * level, samples[at:]))
        sentences = list(self.sentences(index))
        sentences.insert(round(at / len(samples) * len(sentences)), hidden.needle.sentence)
        joined = recording(with_needle, " ".join(sentences), speech.voice)
        return LongRecording(replace(joined, voice=""), at / len(with_needle))


def _pause(rng: random.Random) -> Samples:
    return np.zeros(int(rng.uniform(*_PAUSE_SECONDS) * SAMPLE_RATE), np.float32)


def _cut_sentences(text: str) -> list[str]:
    """Splits at sentence ends; a transcript without punctuation every few words."""
    sentences = [piece for piece in _SENTENCE_END.split(" ".join(text.split())) if piece]
    words = text.split()
    if len(sentences) >= tasks.MIN_SENTENCES or len(words) <= _PIECE_WORDS:
        return sentences
    return [" ".join(words[start : start + _PIECE_WORDS]) for start in range(0, len(words), _PIECE_WORDS)]


def _quiet_place(samples: Samples, near: int) -> int:
    """Middle of the quietest moment within a few seconds of a position."""
    width, reach = int(_QUIET_SECONDS * SAMPLE_RATE), int(_SEARCH_SECONDS * SAMPLE_RATE)
    first, end = max(near - reach, 0), min(near + reach, len(samples))
    energy = np.convolve(samples[first:end].astype(np.float64) ** 2, np.ones(width), "same")
    return first + int(energy.argmin())
