"""Filters a data folder into a new one: marks every sample, compares samples, writes those that are kept.

Each source shard is marked on its own (`OUT/work/marks/`), then all marks are compared in order, then each shard is
written on its own. Finished work survives a killed run; neither interruptions nor the number of processes change the
output.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model_core.data.conversation import Conversation
from model_core.data.data_errors import DataError
from model_core.data.files import remove_partial_files, written_aside
from model_core.data.filters.duplicates import Duplicates, Fingerprint, fingerprint
from model_core.data.filters.rules import Filters, Rules
from model_core.data.media import Limits
from model_core.data.shards import (
    MANIFEST,
    Manifest,
    ShardEntry,
    open_shard,
    read_group,
    read_manifest,
    verify_shard,
    write_manifest,
    write_shard,
)
from model_core.data.work_folder import check_same_spec, finished_shard, record_spec, work_alone
from model_core.data.workers import in_order

Step = Callable[[str, int, int, str], None]
"""Called with the name of a step, how much of it is done, its total, and a short remark."""

_PACKAGES = ("lyra-platform", "pyarrow", "py3langid", "rensa")
_MARKS = pa.schema(
    [
        ("reason", pa.string()),
        ("exact", pa.string()),
        ("media", pa.string()),
        ("words", pa.list_(pa.uint32())),
    ]
)


def filter_folder(
    source: Path,
    out: Path,
    rules: Rules,
    *,
    home: Path | None = None,
    limits: Limits | None = None,
    workers: int = 1,
    show: Step | None = None,
) -> Manifest:
    """Writes the samples of a folder that pass the rules to a new folder, shard by shard.

    Dropped samples are counted by reason in the new manifest and listed in `OUT/dropped/00000.jsonl`. The same call
    resumes an interrupted one.

    Args:
        source: Folder with `manifest.json`; its hashes are checked.
        out: A new folder, or one of the same call.
        rules: The thresholds.
        home: Root of the cache of weights, for `max_word_errors`.
        limits: Limits of media.
        workers: Number of processes.
        show: Called with progress.

    Raises:
        InvalidInput: a threshold is out of range.
        DataError: the source is incomplete; the new folder contains something else, is in use, or was started with
            other rules; the disk is full.
        UnknownPreset, WeightsMissing: the preset of the recogniser cannot be loaded.
    """
    rules.check()
    tell = show or (lambda step, done, total, word: None)
    manifest = read_manifest(source)
    if out.resolve().is_relative_to(source.resolve()):
        raise DataError(out, f"is inside the source folder, {source}: name another folder")
    spec = _spec(manifest, rules, limits or Limits())
    with work_alone(out) as work:
        if (out / MANIFEST).is_file():
            filtered = read_manifest(out)
            check_same_spec(out, filtered.spec, spec)
        else:
            record_spec(out, spec)
            for folder in (work / "marks", work / "verdicts", out / "shards", out / "dropped"):
                remove_partial_files(folder)
            task = _Work(
                source=source, out=out, shards=manifest.shards, rules=rules, limits=limits or Limits(), home=home
            )
            shards = _all_shards(task, workers, tell)
            filtered = replace(manifest, shards=shards, spec=spec, versions={each: version(each) for each in _PACKAGES})
            write_manifest(out, filtered)
    shutil.rmtree(out / "work")
    return filtered


def _spec(manifest: Manifest, rules: Rules, limits: Limits) -> dict[str, Any]:
    """The spec of the new manifest; with the source, it determines the output."""
    source = {"name": manifest.name, "spec": manifest.spec, "versions": manifest.versions}
    hashes = [shard.sha256 for shard in manifest.shards]
    spec = {"rules": asdict(rules), "limits": asdict(limits), "source": source | {"sha256": hashes}}
    plain: dict[str, Any] = json.loads(json.dumps(spec))
    return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """Arguments of the worker processes."""

    source: Path
    out: Path
    shards: tuple[ShardEntry, ...]
    rules: Rules
    limits: Limits
    home: Path | None

    def marks(self, number: int) -> Path:
        return self.out / "work" / "marks" / f"{number:05}.parquet"

    def verdicts(self, number: int) -> Path:
        return self.out / "work" / "verdicts" / f"{number:05}.json"

    def conversations(self, number: int) -> Iterator[Conversation]:
        path = self.source / self.shards[number].file
        with open_shard(path) as file:
            for group in range(file.num_row_groups):
                yield from read_group(file, path, group)


def _all_shards(work: _Work, workers: int, show: Step) -> tuple[ShardEntry, ...]:
    numbers = range(len(work.shards))
    for number in in_order(partial(_mark, work), numbers, workers):
        show("samples looked at", number + 1, len(numbers), "shards")
    _judge(work)
    entries = []
    for entry in in_order(partial(_write, work), numbers, workers):
        entries.append(entry)
        dropped = sum(sum(each.dropped.values()) for each in entries)
        show("shards written", len(entries), len(numbers), f"{dropped:,} samples dropped")
    return tuple(entries)


@cache
def _filters(rules: Rules, home: Path | None, limits: Limits) -> Filters:
    """Once per process, since the recogniser is large."""
    return Filters(rules, home, limits=limits)


def _mark(work: _Work, number: int) -> int:
    """Marks the samples of a shard, unless an earlier run did."""
    path = work.marks(number)
    if path.is_file():
        return number
    verify_shard(work.source, work.shards[number])
    filters = _filters(work.rules, work.home, work.limits)
    marks = []
    for conversation in work.conversations(number):
        reason = filters.reason(conversation)
        compared = work.rules.compare and reason is None
        marks.append({"reason": reason} | (asdict(fingerprint(conversation)) if compared else {}))
    with written_aside(path) as partial_file:
        pq.write_table(pa.Table.from_pylist(marks, _MARKS), partial_file)
    return number


def _judge(work: _Work) -> None:
    """Compares the samples that no filter has dropped, in order, and writes the reason of each dropped sample."""
    seen = Duplicates(exact=work.rules.duplicates, similarity=work.rules.near_duplicates)
    for number in range(len(work.shards)):
        verdicts = []
        for mark in pq.read_table(work.marks(number)).to_pylist():
            reason = mark.pop("reason")
            if reason is None and work.rules.compare:
                reason = seen.reason(Fingerprint(**mark))
            verdicts.append(reason)
        with written_aside(work.verdicts(number)) as partial_file:
            partial_file.write_text(json.dumps(verdicts), encoding="utf-8")


def _write(work: _Work, number: int) -> ShardEntry:
    """Writes the kept samples of a shard and lists the dropped ones, unless an earlier run did."""
    if entry := finished_shard(work.out, number):
        return entry
    verdicts = json.loads(work.verdicts(number).read_text(encoding="utf-8"))
    counts: Counter[str] = Counter()
    names: list[str] = []

    def kept() -> Iterator[Conversation]:
        for conversation, reason in zip(work.conversations(number), verdicts, strict=True):
            if reason is None:
                yield conversation
            else:
                counts[reason] += 1
                names.append(json.dumps({"sample": conversation.id, "reason": reason}, ensure_ascii=False) + "\n")
        if names:
            with written_aside(work.out / "dropped" / f"{number:05}.jsonl") as partial_file:
                partial_file.write_text("".join(names), encoding="utf-8")

    return write_shard(work.out, number, kept(), dropped=counts)
