"""Sources of a build's samples, and their mixture."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from more_itertools import chunked

from model_core.data.build.work import Dropped, shuffled_plan
from model_core.data.conversation import Conversation
from model_core.data.files import written_aside
from model_core.errors import InvalidInput

Made = Conversation | Dropped

_BATCH = 100  # planned samples in memory at a time
_FILES = (".txt", ".json", ".jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A named collection or a file of the user's.

    Attributes:
        name: Name of the collection, or of the file without its folder.
        count: Number of samples; a source with fewer is repeated, with other voices. None for each once.
        path: The file, if it is one.
    """

    name: str
    count: int | None = None
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Reads `NAME`, `NAME:COUNT`, `FILE` or `FILE:COUNT`.

        Raises:
            InvalidInput: the count is less than 1, or the file does not exist.
        """
        name, _, end = text.rpartition(":")
        if not (name and end.isdecimal()):
            name, end = text, ""
        if end and int(end) < 1:
            raise InvalidInput("source", f"{text!r}: the count must be at least 1")
        count = int(end) if end else None
        path = Path(name)
        if path.suffix not in _FILES and path.name == name:
            return cls(name=name, count=count)
        if not path.is_file():
            raise InvalidInput("source", f"{name} does not exist")
        return cls(name=path.name, count=count, path=path.absolute())


class OpenSource(ABC):
    """An opened source.

    Attributes:
        available: Number of distinct samples.
        origin: SHA-256 or version of its raw data.
    """

    available: int
    origin: str

    def prepare(self) -> None:  # noqa: B027 - most sources have nothing to prepare
        """Computes what all its samples share; called once, before any of them."""

    @abstractmethod
    def make(self, indices: Sequence[int]) -> Iterable[Made]:
        """A sample, kept or dropped, per index, in order; each depends only on the spec and its index."""


class Mixture:
    """The maker of a build with samples from several sources, in an order determined by the seed.

    Args:
        sources: Sources as requested, each with the opened source.
        seed: Seed of the data set.
        samples: Maximum number of samples.
    """

    def __init__(self, sources: Sequence[tuple[Source, OpenSource]], seed: int, samples: int | None) -> None:
        if not sources:
            raise InvalidInput("source", "at least one is required")
        if len({source.name for source, _ in sources}) < len(sources):
            raise InvalidInput("source", "one is given twice: give it once, with a count")
        for source, opened in sources:
            if not opened.available:
                raise InvalidInput("source", f"{source.name} has no usable sample")
        self._sources = [opened for _, opened in sources]
        counts = [source.count or opened.available for source, opened in sources]
        self._plan = shuffled_plan(counts, seed, samples)
        self.origins: Mapping[str, str] = {source.name: opened.origin for source, opened in sources}

    @property
    def samples(self) -> int:
        return len(self._plan)

    def prepare(self) -> None:
        """Prepares every source."""
        for source in self._sources:
            source.prepare()

    def make(self, numbers: range) -> Iterator[Made]:
        """The planned samples with these numbers, in order."""
        for some in chunked(numbers, _BATCH):
            wanted: dict[int, list[int]] = defaultdict(list)
            for number in some:
                source, index = self._plan[number]
                wanted[source].append(index)
            made = {source: iter(self._sources[source].make(indices)) for source, indices in sorted(wanted.items())}
            yield from (next(made[self._plan[number][0]]) for number in some)


def texts_sha256(texts: Iterable[str]) -> str:
    """SHA-256 of a list of texts."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def kept_texts(path: Path, make: Callable[[], list[str]]) -> list[str]:
    """Texts that are computed once and read by every worker."""
    if not path.is_file():
        with written_aside(path) as partial:
            partial.write_text(json.dumps(make(), ensure_ascii=False), encoding="utf-8")
    texts: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return texts


def sample_id(source: str, index: int) -> str:
    """Id of a sample: `chitchat-0000012`."""
    return f"{source}-{index:07}"
