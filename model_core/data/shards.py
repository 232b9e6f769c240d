"""Conversations on disk: `DATA/manifest.json` and `DATA/shards/00000.parquet`, ...

Shards are written atomically, and the manifest last, so that existing files are complete. The same conversations give
the same bytes with the same version of pyarrow.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from model_core.data.conversation import Conversation, check
from model_core.data.data_errors import DataError
from model_core.data.files import written_aside
from model_core.data.rows import (
    LIGHT_COLUMNS,
    MEDIA_COLUMNS,
    REPEATED_COLUMNS,
    SCHEMA,
    LightSample,
    to_conversation,
    to_light_sample,
    to_row,
)

FORMAT = 1
KINDS = ("align", "instruct", "long-speech", "speech-generation")
MANIFEST = "manifest.json"
GROUP_SAMPLES = 100
GROUP_BYTES = 16 << 20  # of media, after which a row group ends even with fewer samples

T = TypeVar("T")

_AGAIN = "copy it again, or delete it and run the build of this data again"
_WRITING: dict[str, Any] = {
    # Media are already compressed; dictionaries or statistics of them would only duplicate them.
    "compression": {name: "none" if name in MEDIA_COLUMNS else "zstd" for name in (*LIGHT_COLUMNS, *MEDIA_COLUMNS)},
    "use_dictionary": list(REPEATED_COLUMNS),
    "write_statistics": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """The entry of a shard in a manifest.

    Attributes:
        file: Path within the folder, for example `shards/00000.parquet`.
        samples: Number of samples; 0 if all were dropped.
        bytes: Size of the file.
        sha256: SHA-256 of the file.
        groups: Number of samples in each row group.
        seconds: Total duration of its recordings.
        mix: Number of samples of each modality, for example `{"image+speech": 12}`.
        dropped: Number of samples dropped when it was built, by reason.
    """

    file: str
    samples: int
    bytes: int
    sha256: str
    groups: tuple[int, ...] = ()
    seconds: float = 0.0
    mix: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a data folder contains and how it was built.

    Attributes:
        kind: `align`, `instruct`, `long-speech` or `speech-generation`.
        name: Name of the data set.
        seed: Seed of everything random.
        shards: Shards in order.
        spec: How it was built; with the seed, it determines every byte.
        versions: Versions of the packages that built it.
    """

    kind: str
    name: str
    seed: int
    shards: tuple[ShardEntry, ...]
    spec: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def seconds(self) -> float:
        return sum(shard.seconds for shard in self.shards)

    @property
    def mix(self) -> dict[str, int]:
        return _summed(shard.mix for shard in self.shards)

    @property
    def dropped(self) -> dict[str, int]:
        return _summed(shard.dropped for shard in self.shards)

    def to_json(self) -> str:
        """The content of `manifest.json`."""
        totals = {"samples": self.samples, "seconds": round(self.seconds, 3), "mix": self.mix, "dropped": self.dropped}
        head = {"format": FORMAT, "kind": self.kind, "name": self.name, "seed": self.seed}
        body = {"spec": self.spec, "versions": self.versions, "totals": totals}
        return json.dumps(head | body | {"shards": [asdict(shard) for shard in self.shards]}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError, KeyError or TypeError if the text is not a manifest."""
        values = json.loads(text)
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}, not {FORMAT}")
        shards = tuple(ShardEntry(**entry | {"groups": tuple(entry["groups"])}) for entry in values["shards"])
        own = {each.name for each in fields(cls)} - {"shards"}
        return cls(shards=shards, **{name: values[name] for name in own})


def write_shard(
    folder: Path, number: int, conversations: Iterable[Conversation], *, dropped: Mapping[str, int] | None = None
) -> ShardEntry:
    """Writes `folder/shards/{number:05}.parquet` atomically, with the memory of one row group.

    Args:
        folder: Folder of the data set.
        number: Number of the shard.
        conversations: Its samples in order; each is checked. There may be none.
        dropped: Number of dropped samples, by reason. Read after the last conversation, so it may be updated meanwhile.

    Raises:
        SampleError: a conversation is invalid; no file is left.
        DataError: the disk is full; no file is left.
    """
    path = shard_path(folder, number)
    totals = _Totals()
    with written_aside(path) as partial:
        with pq.ParquetWriter(partial, SCHEMA, **_WRITING) as writer:
            for group in _row_groups(conversations):
                writer.write_table(pa.Table.from_pylist([to_row(each) for each in group], SCHEMA))
                seconds = [recording.seconds for each in group for recording in each.speech]
                totals.add([each.modality for each in group], seconds)
            totals.dropped = {reason: count for reason, count in sorted((dropped or {}).items()) if count}
            writer.add_key_value_metadata({"lyra.dropped": json.dumps(totals.dropped)})
        return totals.entry(path, partial)


def read_shard_entry(path: Path) -> ShardEntry:
    """The entry of an existing shard, computed from the file.

    Raises:
        DataError: it is missing or not a complete shard.
    """
    totals = _Totals()
    with open_shard(path) as file:
        for group in range(file.num_row_groups):
            samples = read_light_group(file, path, group)
            totals.add([each.modality for each in samples], [s for each in samples for s in each.seconds])
        totals.dropped = json.loads((file.metadata.metadata or {}).get(b"lyra.dropped", b"{}"))
    return totals.entry(path, path)


def shard_path(folder: Path, number: int) -> Path:
    """Path of a shard."""
    return folder / "shards" / f"{number:05}.parquet"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes `folder/manifest.json` atomically, the last step of a build. Raises DataError."""
    path = folder / MANIFEST
    if manifest.kind not in KINDS:
        raise DataError(path, f"kind {manifest.kind!r} is not one of {', '.join(KINDS)}")
    with written_aside(path) as partial:
        partial.write_text(manifest.to_json(), encoding="utf-8")


def read_manifest(folder: Path, *, check_files: bool = True) -> Manifest:
    """Reads the manifest and checks existence and size of every shard; `verify_shard` checks the content too.

    Raises:
        DataError: with the file and what to do.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / "shards").is_dir():
            raise DataError(path, "is missing, so the build is incomplete: run the same build again to resume it")
        raise DataError(path, "is missing: this is not a data folder (`lyra data build` makes one)")
    try:
        manifest = Manifest.from_json(path.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(path, f"is not a manifest of this version ({error!r}): build the data again") from error
    if check_files:
        for shard in manifest.shards:
            _check_size(folder, shard)
    return manifest


def verify_shard(folder: Path, shard: ShardEntry) -> None:
    """Checks size and SHA-256 of a shard against the manifest. Raises DataError."""
    _check_size(folder, shard)
    if _sha256(folder / shard.file) != shard.sha256:
        raise DataError(folder / shard.file, f"has another SHA-256 than in the manifest: {_AGAIN}")


@contextmanager
def open_shard(path: Path) -> Iterator[pq.ParquetFile]:
    """Opens a shard for reading. Raises DataError if it is missing, broken, or not a shard of conversations."""
    if not path.is_file():
        raise DataError(path, f"is missing: {_AGAIN}")
    try:
        file = pq.ParquetFile(path, pre_buffer=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(path, f"is not a complete Parquet file ({error}): {_AGAIN}") from error
    with file:
        if not file.schema_arrow.equals(SCHEMA):
            raise DataError(path, "has other columns than a shard of conversations (`lyra data build` writes them)")
        yield file


def read_group(file: pq.ParquetFile, path: Path, group: int) -> list[Conversation]:
    """The conversations of a row group. Raises DataError if it cannot be decoded."""
    return [_converted(to_conversation, row, path, group) for row in _rows(file, path, group, None)]


def read_light_group(file: pq.ParquetFile, path: Path, group: int) -> list[LightSample]:
    """A row group without its media. Raises DataError if it cannot be decoded."""
    return [_converted(to_light_sample, row, path, group) for row in _rows(file, path, group, list(LIGHT_COLUMNS))]


@dataclass(slots=True)
class _Totals:
    """Totals of a shard's entry, accumulated row group by row group."""

    groups: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    mix: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, int] = field(default_factory=dict)

    def add(self, modalities: list[str], seconds: Iterable[float]) -> None:
        self.groups.append(len(modalities))
        self.mix.update(modalities)
        self.seconds.extend(seconds)

    def entry(self, path: Path, written: Path) -> ShardEntry:
        return ShardEntry(
            file=f"{path.parent.name}/{path.name}",
            samples=sum(self.groups),
            bytes=written.stat().st_size,
            sha256=_sha256(written),
            groups=tuple(self.groups),
            seconds=round(math.fsum(self.seconds), 3),
            mix=dict(sorted(self.mix.items())),
            dropped=self.dropped,
        )


def _check_size(folder: Path, shard: ShardEntry) -> None:
    path = folder / shard.file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(path, "is outside the data folder: the manifest was altered")
    if not path.is_file():
        raise DataError(path, f"is missing: {_AGAIN}")
    if (size := path.stat().st_size) != shard.bytes:
        raise DataError(path, f"has {size:,} bytes, not {shard.bytes:,} as in the manifest: {_AGAIN}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rows(file: pq.ParquetFile, path: Path, group: int, columns: list[str] | None) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = file.read_row_group(group, columns=columns, use_threads=False).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(path, f"row group {group} cannot be decoded ({error}): {_AGAIN}") from error
    return rows


def _converted(convert: Callable[[dict[str, Any]], T], row: dict[str, Any], path: Path, group: int) -> T:
    try:
        return convert(row)
    except (ValueError, TypeError) as error:
        raise DataError(path, f"row group {group} has a row that is not a conversation ({error}): {_AGAIN}") from error


def _row_groups(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    group: list[Conversation] = []
    size = 0
    for conversation in conversations:
        check(conversation)
        group.append(conversation)
        size += media_bytes(conversation)
        if len(group) >= GROUP_SAMPLES or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def media_bytes(conversation: Conversation) -> int:
    """Total bytes of its media."""
    files = (*conversation.images, *conversation.videos, *(each.data for each in conversation.speech))
    return sum(map(len, files))


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))
