"""The framework of data builds: shard by shard, resumable, in several processes, reproducible byte by byte.

A shard is a pure function of the spec and its number. During a build, `DATA/work/` contains the spec and everything
that is computed once for all shards; it is deleted after the manifest is written.
"""

import json
import multiprocessing
import os
import random
import shutil
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Protocol

from model_core.data.conversation import Conversation, check
from model_core.data.data_errors import DataError, SampleError
from model_core.data.files import remove_partial_files, written_aside
from model_core.data.shards import (
    MANIFEST,
    Manifest,
    ShardEntry,
    read_manifest,
    verify_shard,
    write_manifest,
    write_shard,
)
from model_core.data.work_folder import WORK, check_same_spec, finished_shard, record_spec, work_alone
from model_core.errors import InvalidInput

Progress = Callable[[str, int, int, str], None]

_OF_MANIFEST = ("kind", "name", "seed")  # top-level fields of a manifest, not part of its spec
_PACKAGES = ("lyra-platform", "numpy", "pyarrow", "soundfile", "soxr")


@dataclass(frozen=True, slots=True)
class Dropped:
    """A sample that was left out.

    Attributes:
        sample: Its id, or its position.
        reason: The reason it is counted under.
        message: What is wrong with it.
    """

    sample: str
    reason: str
    message: str

    @classmethod
    def of(cls, error: SampleError) -> "Dropped":
        """The dropped sample of an error."""
        return cls(error.sample, error.reason, f"{error.part}: {error.detail}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildContext:
    """Folders and progress of a build.

    Attributes:
        home: Root of the cache, with weights and packages.
        scratch: Folder of this build, deleted at its end.
        show: Called with the name of a step, how much of it is done, its total, and a short remark.
        workers: Number of processes for preparation.
    """

    home: Path
    scratch: Path
    show: Progress
    workers: int = 1

    @property
    def packages(self) -> Path:
        """Folder of packages with texts and pictures, fetched on first use."""
        return self.home / "training" / "packages"


class Maker(Protocol):
    """A spec with opened sources."""

    @property
    def samples(self) -> int:
        """Number of planned samples; each becomes a conversation or is dropped."""
        ...

    @property
    def origins(self) -> Mapping[str, str]:
        """SHA-256 or version of the raw data, by name."""
        ...

    def prepare(self) -> None:
        """Computes what all shards share, such as a language model's answers, into the scratch folder.

        Called once, in the main process, and only if a shard is missing.
        """
        ...

    def make(self, numbers: range) -> Iterator[Conversation | Dropped]:
        """The planned samples with these numbers. They depend only on the spec and the numbers."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(ABC):
    """What determines a data set. All fields can be pickled, and written as JSON or as a file's name.

    Args:
        name: Name of the data set.
        seed: Seed of everything random.
        samples: Maximum number of samples; None for all that the sources have.
        shard_samples: Planned samples per shard.
    """

    kind: ClassVar[str]

    name: str
    seed: int = 0
    samples: int | None = None
    shard_samples: int = 500

    def __post_init__(self) -> None:
        for field, value in (("samples", self.samples), ("shard_samples", self.shard_samples)):
            if value is not None and value < 1:
                raise InvalidInput(field, f"{value} is less than 1")

    @abstractmethod
    def open(self, context: BuildContext) -> Maker:
        """Opens the sources: first in the main process, which fetches what is missing, then in each worker."""

    def recorded(self) -> dict[str, Any]:
        """The spec as written to the manifest: files by name, their content by the maker's origins."""
        values = asdict(self)
        del values["name"], values["seed"]
        recorded: dict[str, Any] = json.loads(json.dumps(values, default=_file_name))
        return recorded


def build(spec: Spec, folder: Path, *, home: Path, workers: int = 1, show: Progress | None = None) -> Manifest:
    """Builds a data set, or resumes an interrupted build of the same spec.

    Args:
        spec: The specification.
        folder: Folder of the data set: new, empty, or of an earlier run of the same spec.
        home: Root of the cache, with weights and packages.
        workers: Number of processes; the output does not depend on it.
        show: Called with progress.

    Raises:
        DataError: the folder belongs to another spec or is not a build's, another process is building in it, a worker
            was killed, or the disk is full.
        InvalidInput: the spec names something that does not exist.
    """
    if workers < 1:
        raise InvalidInput("workers", f"{workers} is less than 1")
    with work_alone(folder) as scratch:
        context = BuildContext(home=home, scratch=scratch, show=show or _silent, workers=workers)
        maker = spec.open(context)
        if not maker.samples:
            raise InvalidInput("source", "the sources have no sample")
        asked = {"kind": spec.kind, "name": spec.name, "seed": spec.seed, **spec.recorded()}
        asked["origins"] = dict(sorted(maker.origins.items()))
        if (folder / MANIFEST).is_file():
            manifest = _finished(folder, asked)
        else:
            record_spec(folder, asked)
            manifest = Manifest(
                kind=spec.kind,
                name=spec.name,
                seed=spec.seed,
                spec={key: value for key, value in asked.items() if key not in _OF_MANIFEST},
                versions={package: version(package) for package in _PACKAGES},
                shards=_all_shards(spec, folder, context, maker, workers),
            )
            write_manifest(folder, manifest)
        shutil.rmtree(scratch)
    return manifest


def rng_of(*names: object) -> random.Random:
    """A random generator seeded by these names, the same in every process."""
    return random.Random(" ".join(map(str, names)))


def shuffled_plan(counts: list[int], seed: int, samples: int | None) -> list[tuple[int, int]]:
    """(source, index in it) of each planned sample, in an order determined by the seed.

    Args:
        counts: Number of samples of each source.
        seed: Seed of the data set.
        samples: Maximum length of the plan, in which sources keep their proportions.
    """
    plan = [(source, index) for source, count in enumerate(counts) for index in range(count)]
    rng_of(seed, "order").shuffle(plan)
    return plan[:samples]


def _finished(folder: Path, asked: dict[str, Any]) -> Manifest:
    """The manifest of a finished build, with its shards verified. Raises DataError if its spec differs."""
    manifest = read_manifest(folder)
    begun = {"kind": manifest.kind, "name": manifest.name, "seed": manifest.seed, **manifest.spec}
    try:
        check_same_spec(folder, begun, asked)
    except DataError:
        shutil.rmtree(folder / WORK)
        raise
    for shard in manifest.shards:
        verify_shard(folder, shard)
    return manifest


def _file_name(value: object) -> str:
    if isinstance(value, Path):
        return value.name
    raise TypeError(f"{type(value).__name__} cannot be recorded in a manifest")


def _silent(_step: str, _done: int, _total: int, _word: str) -> None:
    """Reports no progress."""


def _all_shards(spec: Spec, folder: Path, context: BuildContext, maker: Maker, workers: int) -> tuple[ShardEntry, ...]:
    """Builds the missing shards. Returns the entries of all."""
    remove_partial_files(folder / "shards")
    remove_partial_files(folder / "dropped")
    total = -(-maker.samples // spec.shard_samples)
    entries = {number: entry for number in range(total) if (entry := finished_shard(folder, number))}
    missing = [number for number in range(total) if number not in entries]
    if missing:
        maker.prepare()

    def add(number: int, entry: ShardEntry) -> None:
        entries[number] = entry
        samples = sum(each.samples for each in entries.values())
        dropped = sum(sum(each.dropped.values()) for each in entries.values())
        word = f"{samples:,} samples" + (f", {dropped:,} dropped" if dropped else "")
        context.show("shards", len(entries), total, word)

    if workers == 1 or len(missing) == 1:
        for number in missing:
            add(number, _make_shard(spec, folder, maker, number))
    elif missing:
        with _processes(spec, folder, context, min(workers, len(missing))) as pool:
            futures = {pool.submit(_work, number): number for number in missing}
            for future in as_completed(futures):
                add(futures[future], future.result())
    return tuple(entries[number] for number in range(total))


def _make_shard(spec: Spec, folder: Path, maker: Maker, number: int) -> ShardEntry:
    first = number * spec.shard_samples
    numbers = range(first, min(first + spec.shard_samples, maker.samples))
    reasons: Counter[str] = Counter()
    lines: list[str] = []

    def kept() -> Iterator[Conversation]:
        for made in maker.make(numbers):
            dropped = made if isinstance(made, Dropped) else _fault(made)
            if dropped is None:
                assert isinstance(made, Conversation)
                yield made
            else:
                reasons[dropped.reason] += 1
                lines.append(json.dumps(asdict(dropped), ensure_ascii=False) + "\n")
        _name_dropped(folder, number, lines)

    return write_shard(folder, number, kept(), dropped=reasons)


def _fault(made: Conversation) -> Dropped | None:
    try:
        check(made)
    except SampleError as error:
        return Dropped.of(error)
    return None


def _name_dropped(folder: Path, number: int, lines: list[str]) -> None:
    """Writes the dropped samples of a shard, before the shard itself is complete."""
    if lines:
        path = folder / "dropped" / f"{number:05}.jsonl"
        with written_aside(path) as partial:
            partial.write_text("".join(lines), encoding="utf-8")


@contextmanager
def _processes(spec: Spec, folder: Path, context: BuildContext, workers: int) -> Iterator[ProcessPoolExecutor]:
    # Spawned: a forked process would inherit the threads of torch and onnxruntime in an undefined state.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, initializer=_open, initargs=(spec, folder, context.home))
    try:
        yield pool
    except BrokenProcessPool as error:
        advice = "possibly for lack of memory: run the same command again with fewer workers; finished shards are kept"
        raise DataError(folder, f"a worker process was killed, {advice}") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Opened:
    """State of a worker process between shards."""

    spec: Spec
    folder: Path
    maker: Maker


_opened: _Opened


def _open(spec: Spec, folder: Path, home: Path) -> None:
    global _opened
    threading.Thread(target=_end_with_parent, daemon=True).start()
    context = BuildContext(home=home, scratch=folder / WORK, show=_silent)
    _opened = _Opened(spec, folder, spec.open(context))


def _work(number: int) -> ShardEntry:
    return _make_shard(_opened.spec, _opened.folder, _opened.maker, number)


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed; it would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
