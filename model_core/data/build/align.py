"""Data of stage 1: synthesized sentences with their transcripts, pictures with the words that name them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from model_core.audio.tensors import CLIP_SECONDS
from model_core.data.build.pictures import PICTURES, PictureNames
from model_core.data.build.recorded import RecordedFiles
from model_core.data.build.sources import Made, Mixture, OpenSource, Source, kept_texts, sample_id, texts_sha256
from model_core.data.build.synthesis import NOT_SPEAKABLE, Style, UtteranceSynthesizer
from model_core.data.build.work import BuildContext, Dropped, Maker, Spec
from model_core.data.conversation import SPEECH, Conversation, Speech, Turn
from model_core.data.data_errors import SampleError
from model_core.data.sources.texts import load_sentences
from model_core.errors import InvalidInput
from model_core.language.messages import REPEAT_INSTRUCTION, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignSpec(Spec):
    """Specification of an align set.

    Args:
        sources: Named sentences (`model_core.data.sources.texts`), `easy-vqa`, `drawings`, a .txt file with one
            sentence per line, or a .jsonl file with lines {"audio": "path", "text": "transcript"}.
        style: Voices and augmentation.
    """

    kind: ClassVar[str] = "align"

    sources: tuple[Source, ...]
    style: Style

    def open(self, context: BuildContext) -> Maker:
        """Raises InvalidInput if a source or a voice does not exist."""
        opened = [(source, self._open(source, context)) for source in self.sources]
        return Mixture(opened, self.seed, self.samples)

    def _open(self, source: Source, context: BuildContext) -> OpenSource:
        if source.name in PICTURES:
            return PictureNames(source.name, self.seed, context)
        if source.path and source.path.suffix == ".jsonl":
            return RecordedClips(RecordedFiles(source.path))
        synthesizer = UtteranceSynthesizer(self.style, context.home)
        return Sentences(source.name, sentences_of(source, context), self.seed, synthesizer)


def sentences_of(source: Source, context: BuildContext) -> list[str]:
    """The sentences of a named collection without those held out for tests, or the lines of the user's file."""
    if source.path is None:
        return kept_texts(context.scratch / f"{source.name}.json", lambda: _collection(source.name, context.packages))
    if source.path.suffix != ".txt":
        raise InvalidInput("source", f"{source.name} is neither a .txt nor a .jsonl file")
    lines = (line.strip() for line in source.path.read_text(encoding="utf-8").splitlines())
    return list(dict.fromkeys(line for line in lines if line))


@cache
def _collection(name: str, packages: Path) -> list[str]:
    """Cached: splitting a collection takes seconds, and a build of long speech opens it twice."""
    return load_sentences(name, packages)


class Sentences(OpenSource):
    """Synthesized sentences.

    Args:
        name: Name of the source.
        texts: The sentences, in a fixed order.
        seed: Seed of the data set.
        synthesizer: Speaks them.
    """

    def __init__(self, name: str, texts: list[str], seed: int, synthesizer: UtteranceSynthesizer) -> None:
        self._name, self._texts, self._seed, self._synthesizer = name, texts, seed, synthesizer
        self.available = len(texts)
        self.origin = texts_sha256(texts)

    def make(self, indices: Sequence[int]) -> Iterator[Made]:
        """A conversation per index; indices beyond the texts repeat them with other random voices and prosody."""
        readings = [
            self._synthesizer.utterance(self._texts[index % self.available], f"{self._seed} {self._name} {index}")
            for index in indices
        ]
        for index, reading, speech in zip(indices, readings, self._synthesizer.synthesize(readings), strict=True):
            name = sample_id(self._name, index)
            if speech is None:
                yield Dropped(name, NOT_SPEAKABLE, f"{reading.voice} produces no audio for {reading.text!r}")
            else:
                yield repetition(name, speech, self._name)


class RecordedClips(OpenSource):
    """The user's own recordings with transcripts."""

    def __init__(self, files: RecordedFiles) -> None:
        self._files = files
        self.available = files.count
        self.origin = files.sha256

    def make(self, indices: Sequence[int]) -> Iterator[Made]:
        """A conversation per clip, with its file unchanged."""
        for index in indices:
            name = sample_id(self._files.name, index)
            try:
                speech = self._files.speech(index % self.available, name, CLIP_SECONDS)
            except SampleError as error:
                yield Dropped.of(error)
            else:
                yield repetition(name, speech, self._files.name)


def repetition(name: str, speech: Speech, source: str) -> Conversation:
    """A request to repeat a recording, with its transcript as the answer."""
    turns = (
        Turn(role=Role.USER, text=f"{SPEECH}\n{REPEAT_INSTRUCTION}"),
        Turn(role=Role.ASSISTANT, text=speech.transcript),
    )
    return Conversation(id=name, turns=turns, speech=(speech,), source=source)
