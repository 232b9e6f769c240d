"""The pool of utterances that long recordings are joined from: synthesized once into one file that all workers map.

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
from model_core.data.build.sources import Source
from model_core.data.build.synthesis import Samples, Style
from model_core.data.build.work import BuildContext, build
from model_core.data.dataset import ConversationDataset
from model_core.data.files import written_aside


@dataclass(frozen=True, slots=True)
class PooledUtterance:
    """A synthesized sentence, and the range of its samples in the file."""

    text: str
    voice: str
    start: int
    length: int

    @property
    def seconds(self) -> float:
        return self.length / SAMPLE_RATE


class Pool:
    """Clean utterances.

    Args:
        sources: Sentences.
        style: Voices.
        seed: Seed of the data set.
        count: Maximum number of utterances.
        context: Folders.
    """

    def __init__(self, sources: tuple[Source, ...], style: Style, seed: int, count: int, context: BuildContext) -> None:
        quiet = Style(voices=style.voices, vary=style.vary, noise=False, room=False)
        self._spec = AlignSpec(name="readings", seed=seed, samples=count, sources=sources, style=quiet)
        self._context = context
        self._folder = context.scratch / "readings"
        self._sound, self._index = context.scratch / "readings.i16", context.scratch / "readings.json"
        self.origins = dict(self._spec.open(context).origins)

    def prepare(self) -> None:
        """Synthesizes the sentences, resumably and with as many processes as the build."""
        if self._index.is_file():
            return
        build(self._spec, self._folder, home=self._context.home, workers=self._context.workers, show=self._context.show)
        rows, start = [], 0
        with written_aside(self._sound) as partial, partial.open("wb") as file:
            for conversation in ConversationDataset(self._folder):
                for speech in conversation.speech:
                    samples, _ = soundfile.read(io.BytesIO(speech.data), dtype="int16")
                    file.write(samples.tobytes())
                    rows.append(asdict(PooledUtterance(speech.transcript, speech.voice, start, len(samples))))
                    start += len(samples)
        with written_aside(self._index) as partial:
            partial.write_text(json.dumps(rows), encoding="utf-8")

    @cached_property
    def readings(self) -> list[PooledUtterance]:
        """All utterances."""
        return [PooledUtterance(**row) for row in json.loads(self._index.read_text(encoding="utf-8"))]

    @cached_property
    def by_voice(self) -> dict[str, list[PooledUtterance]]:
        """The utterances of each voice."""
        grouped: dict[str, list[PooledUtterance]] = defaultdict(list)
        for reading in self.readings:
            grouped[reading.voice].append(reading)
        return dict(sorted(grouped.items()))

    def samples(self, reading: PooledUtterance) -> Samples:
        """[S] samples of an utterance."""
        cut = self._memory[reading.start : reading.start + reading.length]
        return cut.astype(np.float32) / np.float32(32768)

    @cached_property
    def _memory(self) -> np.memmap[tuple[int], np.dtype[np.int16]]:
        return np.memmap(self._sound, np.int16, "r")
