"""Readings that long recordings are put together from: made once, then cut out of one file by every worker.

Shapes: S samples at 16 kHz.
"""

import io
import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import soundfile

from model_core.audio.tensors import SAMPLE_RATE
from model_core.data.build.align import AlignSpec
from model_core.data.build.reading import Samples, Style
from model_core.data.build.sources import Source
from model_core.data.build.work import Workplace, build
from model_core.data.dataset import ConversationDataset
from model_core.data.files import written_aside


@dataclass(frozen=True, slots=True)
class PooledReading:
    """A sentence that was read, and where its samples lie in the file."""

    text: str
    voice: str
    start: int
    length: int

    @property
    def seconds(self) -> float:
        return self.length / SAMPLE_RATE


class Pool:
    """Readings without noise and room.

    Args:
        sources: Sentences.
        style: Who reads.
        seed: Of the data set.
        count: Readings at most.
        place: Where they are kept.
    """

    def __init__(self, sources: tuple[Source, ...], style: Style, seed: int, count: int, place: Workplace) -> None:
        quiet = Style(voices=style.voices, vary=style.vary, noise=False, room=False)
        self._spec = AlignSpec(name="readings", seed=seed, samples=count, sources=sources, style=quiet)
        self._place = place
        self._folder = place.scratch / "readings"
        self._sound, self._index = place.scratch / "readings.i16", place.scratch / "readings.json"
        self.origins = dict(self._spec.open(place).origins)

    def prepare(self) -> None:
        """Has the sentences read, resumable and by as many processes as the build has."""
        if self._index.is_file():
            return
        build(self._spec, self._folder, home=self._place.home, workers=self._place.workers, show=self._place.show)
        rows, start = [], 0
        with written_aside(self._sound) as partial, partial.open("wb") as file:
            for conversation in ConversationDataset(self._folder):
                for speech in conversation.speech:
                    samples, _ = soundfile.read(io.BytesIO(speech.data), dtype="int16")
                    file.write(samples.tobytes())
                    rows.append(asdict(PooledReading(speech.transcript, speech.voice, start, len(samples))))
                    start += len(samples)
        with written_aside(self._index) as partial:
            partial.write_text(json.dumps(rows), encoding="utf-8")

    @cached_property
    def readings(self) -> list[PooledReading]:
        """All of them."""
        return [PooledReading(**row) for row in json.loads(self._index.read_text(encoding="utf-8"))]

    @cached_property
    def by_voice(self) -> dict[str, list[PooledReading]]:
        """Readings of each voice."""
        grouped: dict[str, list[PooledReading]] = defaultdict(list)
        for reading in self.readings:
            grouped[reading.voice].append(reading)
        return dict(sorted(grouped.items()))

    def samples(self, reading: PooledReading) -> Samples:
        """[S] of a reading."""
        cut = self._memory[reading.start : reading.start + reading.length]
        return cut.astype(np.float32) / np.float32(32768)

    @cached_property
    def _memory(self) -> np.memmap[tuple[int], np.dtype[np.int16]]:
        return np.memmap(self._sound, np.int16, "r")
