"""Data of stage 1: sentences read aloud with what is said, pictures with the words that name them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from model_core.audio.tensors import CLIP_SECONDS
from model_core.data.build.pictures import PICTURES, PictureNames
from model_core.data.build.reading import NOT_SPEAKABLE, ReadingRoom, Style
from model_core.data.build.recorded import RecordedFiles
from model_core.data.build.sources import Made, Mixture, OpenSource, Source, kept_texts, sample_id, texts_sha256
from model_core.data.build.work import Dropped, Maker, Spec, Workplace
from model_core.data.conversation import SPEECH, Conversation, Speech, Turn
from model_core.data.data_errors import SampleError
from model_core.data.sources.texts import load_sentences
from model_core.errors import InvalidInput
from model_core.language.messages import REPEAT_INSTRUCTION, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignSpec(Spec):
    """What an align set is made from.

    Args:
        sources: Named sentences (`model_core.data.sources.texts`), `easy-vqa`, `drawings`, a .txt file with a sentence
            a line, or a .jsonl file whose lines are {"audio": "path", "text": "what is said"}.
        style: Who reads, and how.
    """

    kind: ClassVar[str] = "align"

    sources: tuple[Source, ...]
    style: Style

    def open(self, place: Workplace) -> Maker:
        """Raises InvalidInput where a source or a voice does not exist."""
        opened = [(source, self._open(source, place)) for source in self.sources]
        return Mixture(opened, self.seed, self.samples)

    def _open(self, source: Source, place: Workplace) -> OpenSource:
        if source.name in PICTURES:
            return PictureNames(source.name, self.seed, place)
        if source.path and source.path.suffix == ".jsonl":
            return RecordedClips(RecordedFiles(source.path))
        room = ReadingRoom(self.style, place.home)
        return Sentences(source.name, sentences_of(source, place), self.seed, room)


def sentences_of(source: Source, place: Workplace) -> list[str]:
    """The sentences of a named collection without those held out for tests, or the lines of a file of one's own."""
    if source.path is None:
        return kept_texts(place.scratch / f"{source.name}.json", lambda: _collection(source.name, place.packages))
    if source.path.suffix != ".txt":
        raise InvalidInput("source", f"{source.name} is neither a .txt nor a .jsonl file")
    lines = (line.strip() for line in source.path.read_text(encoding="utf-8").splitlines())
    return list(dict.fromkeys(line for line in lines if line))


@cache
def _collection(name: str, packages: Path) -> list[str]:
    """Cutting a collection takes seconds, and a build of long speech opens it twice."""
    return load_sentences(name, packages)


class Sentences(OpenSource):
    """Sentences read aloud.

    Args:
        name: Of the source.
        texts: The sentences, in a fixed order.
        seed: Of the data set.
        room: Where they are read.
    """

    def __init__(self, name: str, texts: list[str], seed: int, room: ReadingRoom) -> None:
        self._name, self._texts, self._seed, self._room = name, texts, seed, room
        self.available = len(texts)
        self.origin = texts_sha256(texts)

    def make(self, indices: Sequence[int]) -> Iterator[Made]:
        """A conversation for each; indices beyond the texts read them again, with another pace and by chance another
        voice."""
        readings = [
            self._room.reading(self._texts[index % self.available], f"{self._seed} {self._name} {index}")
            for index in indices
        ]
        for index, reading, speech in zip(indices, readings, self._room.read(readings), strict=True):
            name = sample_id(self._name, index)
            if speech is None:
                yield Dropped(name, NOT_SPEAKABLE, f"{reading.voice} has no sound for {reading.text!r}")
            else:
                yield repetition(name, speech, self._name)


class RecordedClips(OpenSource):
    """Recordings of one's own with what is said in them."""

    def __init__(self, files: RecordedFiles) -> None:
        self._files = files
        self.available = files.count
        self.origin = files.sha256

    def make(self, indices: Sequence[int]) -> Iterator[Made]:
        """A conversation for each clip, with its file as it is."""
        for index in indices:
            name = sample_id(self._files.name, index)
            try:
                speech = self._files.speech(index % self.available, name, CLIP_SECONDS)
            except SampleError as error:
                yield Dropped.of(error)
            else:
                yield repetition(name, speech, self._files.name)


def repetition(name: str, speech: Speech, source: str) -> Conversation:
    """A recording, and the words that are said in it as the answer."""
    turns = (
        Turn(role=Role.USER, text=f"{SPEECH}\n{REPEAT_INSTRUCTION}"),
        Turn(role=Role.ASSISTANT, text=speech.transcript),
    )
    return Conversation(id=name, turns=turns, speech=(speech,), source=source)
