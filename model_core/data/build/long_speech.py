"""Data of stage 3: long recordings, what is asked about them, and needles hidden in them.

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
from model_core.data.build.long_source import Asking, Hidden, Laid, LongSource
from model_core.data.build.pool import Pool, PooledReading
from model_core.data.build.reading import ReadingRoom, Samples, Style, recording
from model_core.data.build.recorded import RecordedFiles
from model_core.data.build.sources import Mixture, OpenSource, Source, sample_id, texts_sha256
from model_core.data.build.work import Maker, Spec, Workplace, rng_of
from model_core.errors import InvalidInput

JOINED = "joined"

_PAUSE_SECONDS = (0.25, 1.2)
_MOST_RUN = 6  # readings of a voice before another one may go on
_NEEDLE_SECONDS = 5.0  # what a needle may add to a recording
_BLOCK_SECONDS = 20.0  # noise and room are laid over somewhat more than that at a time
_TRIES = 100
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_PIECE_WORDS = 12  # of a transcript without full stops
_QUIET_SECONDS, _SEARCH_SECONDS = 0.3, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LongSpeechSpec(Spec):
    """What a long-speech set is made from.

    Args:
        sources: Sentences, named or of a .txt file, whose readings are joined to long recordings (their counts say how
            many are read), and .jsonl files of long recordings of one's own, {"audio": "path", "text": "what is said"}.
        style: Who reads, and how.
        asking: What is asked about the recordings.
        recordings: How many are joined from readings.
        readings: How many sentences are read to join them from.
        shortest, longest: Seconds of a recording; those of one's own are dropped where they are longer.
        even_lengths: Whether all lengths are as likely; else each doubling of the length is.
    """

    kind: ClassVar[str] = "long-speech"

    sources: tuple[Source, ...]
    style: Style
    asking: Asking
    recordings: int = 1000
    readings: int = 4000
    shortest: float = 20.0
    longest: float = 600.0
    even_lengths: bool = False
    shard_samples: int = 25

    def __post_init__(self) -> None:
        super(LongSpeechSpec, self).__post_init__()
        if not 0 < self.shortest <= self.longest:
            raise InvalidInput("seconds", f"{self.shortest:g} to {self.longest:g} is no range of lengths")
        if self.recordings < 1 or self.readings < tasks.FEWEST_SENTENCES:
            raise InvalidInput("readings", f"at least 1 recording and {tasks.FEWEST_SENTENCES} readings are needed")

    def open(self, place: Workplace) -> Maker:
        """Raises InvalidInput where a source or a voice does not exist."""
        room = ReadingRoom(self.style, place.home)
        read = tuple(source for source in self.sources if source.path is None or source.path.suffix == ".txt")
        opened: list[tuple[Source, OpenSource]] = []
        if read:
            pool = Pool(read, self.style, self.seed, self.readings, place)
            opened.append((Source(name=JOINED, count=self.recordings), JoinedReadings(pool, self, room, place)))
        for source in self.sources:
            if source not in read:
                opened.append((source, OwnRecordings(source, self, room, place)))
        return Mixture(opened, self.seed, self.samples)


class JoinedReadings(LongSource):
    """Readings of several sentences by one to three voices, with pauses between."""

    def __init__(self, pool: Pool, spec: LongSpeechSpec, room: ReadingRoom, place: Workplace) -> None:
        super().__init__(JOINED, spec.recordings, spec.seed, spec.asking, room, place)
        self._pool, self._spec = pool, spec
        self.available = spec.recordings
        self.origin = texts_sha256(f"{name} {origin}" for name, origin in sorted(pool.origins.items()))
        # Drawn for the question and again for the sound.
        self._drawn = lru_cache(maxsize=4)(self._draw)

    def prepare(self) -> None:
        """Has the sentences read first."""
        self._pool.prepare()
        super().prepare()

    def sentences(self, index: int) -> Sequence[str]:
        """In the order of the recording."""
        return [reading.text for reading in self._drawn(index)]

    def lay(self, index: int, hidden: Hidden | None) -> Laid:
        """Joins the readings; a needle comes between two of them."""
        readings = self._drawn(index)
        rng = rng_of(self.seed, self.name, index, "pauses")
        sounds = [self._pool.samples(reading) for reading in readings]
        texts = [reading.text for reading in readings]
        at = round(hidden.depth * len(sounds)) if hidden else len(sounds)
        if hidden:
            sounds.insert(at, hidden.samples)
            texts.insert(at, hidden.needle.sentence)
        parts = [np.concatenate((sound, _pause(rng))) for sound in sounds]
        voices = "+".join(sorted({reading.voice for reading in readings}))
        seed = f"{self.seed} {self.name} {index}"
        speech = recording(self._disturbed(parts, seed), " ".join(texts), voices)
        return Laid(speech, sum(map(len, parts[:at])) / sum(map(len, parts)))

    def _disturbed(self, parts: list[Samples], seed: str) -> Samples:
        """[S] of all parts in one room, with one noise; some at a time, so that hours need no giant transform."""
        blocks: list[list[Samples]] = [[]]
        for part in parts:
            if sum(map(len, blocks[-1])) > _BLOCK_SECONDS * SAMPLE_RATE:
                blocks.append([])
            blocks[-1].append(part)
        return np.concatenate([self._room.disturbed(np.concatenate(block), seed) for block in blocks])

    def _draw(self, index: int) -> list[PooledReading]:
        """Which readings follow each other. No sentence comes twice."""
        rng = rng_of(self.seed, self.name, index, "readings")
        seconds = self._seconds(self.task(index), rng)
        by_voice = self._pool.by_voice
        voices = rng.sample(list(by_voice), min(rng.choice((1, 1, 2, 3)), len(by_voice)))
        drawn: list[PooledReading] = []
        said: set[str] = set()
        voice, run, length, tries = voices[0], 0, 0.0, 0
        while tries < _TRIES:
            if not run:
                voice, run = rng.choice(voices), rng.randint(1, _MOST_RUN)
            reading = rng.choice(by_voice[voice])
            fits = length + reading.seconds + _PAUSE_SECONDS[1] <= seconds or len(drawn) < tasks.FEWEST_SENTENCES
            if not fits and length >= self._spec.shortest:
                break
            if reading.text in said or not fits:
                # A voice with little to say hands over to all others.
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
    """Long recordings of one's own with what is said in them; a source without a count asks once about each."""

    def __init__(self, source: Source, spec: LongSpeechSpec, room: ReadingRoom, place: Workplace) -> None:
        if source.path is None or source.path.suffix != ".jsonl":
            raise InvalidInput("source", f"{source.name} is neither sentences nor a .jsonl file of recordings")
        self._files = RecordedFiles(source.path)
        super().__init__(self._files.name, source.count or self._files.count, spec.seed, spec.asking, room, place)
        self._longest = spec.longest
        self.available, self.origin = self._files.count, self._files.sha256

    def sentences(self, index: int) -> Sequence[str]:
        """Its transcript, sentence by sentence."""
        return _cut_sentences(self._files.text(index % self.available))

    def lay(self, index: int, hidden: Hidden | None) -> Laid:
        """The file as it is; with a needle in the quietest place near its depth, as a FLAC file."""
        longest = self._longest - (_NEEDLE_SECONDS if hidden else 0)
        speech = self._files.speech(index % self.available, sample_id(self.name, index), longest)
        if hidden is None:
            return Laid(speech)
        samples = decode_audio(speech.data, max_seconds=self._longest).numpy()
        at = _quiet_place(samples, round(hidden.depth * len(samples)))
        level = float(np.abs(samples).max()) / max(float(np.abs(hidden.samples).max()), 1e-4)
        laid = np.concatenate((samples[:at], hidden.samples * level, samples[at:]))
        sentences = list(self.sentences(index))
        sentences.insert(round(at / len(samples) * len(sentences)), hidden.needle.sentence)
        joined = recording(laid, " ".join(sentences), speech.voice)
        return Laid(replace(joined, voice=""), at / len(laid))


def _pause(rng: random.Random) -> Samples:
    return np.zeros(int(rng.uniform(*_PAUSE_SECONDS) * SAMPLE_RATE), np.float32)


def _cut_sentences(text: str) -> list[str]:
    """At full stops and the like; a transcript without them every few words."""
    sentences = [piece for piece in _SENTENCE_END.split(" ".join(text.split())) if piece]
    words = text.split()
    if len(sentences) >= tasks.FEWEST_SENTENCES or len(words) <= _PIECE_WORDS:
        return sentences
    return [" ".join(words[start : start + _PIECE_WORDS]) for start in range(0, len(words), _PIECE_WORDS)]


def _quiet_place(samples: Samples, near: int) -> int:
    """Middle of the quietest moment within some seconds of a place."""
    width, reach = int(_QUIET_SECONDS * SAMPLE_RATE), int(_SEARCH_SECONDS * SAMPLE_RATE)
    first, end = max(near - reach, 0), min(near + reach, len(samples))
    energy = np.convolve(samples[first:end].astype(np.float64) ** 2, np.ones(width), "same")
    return first + int(energy.argmin())
