"""Validates a complete data set: invalid samples are listed and counted by reason, and do not end the validation."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from model_core.data.conversation import check, check_units
from model_core.data.data_errors import DataError, Reason, SampleError
from model_core.data.files import written_aside
from model_core.data.media import Limits, check_media
from model_core.data.published_json import read_records, to_conversation
from model_core.data.shards import MANIFEST, ShardEntry, open_shard, read_group, read_manifest, verify_shard
from model_core.data.workers import in_order

BROKEN_SHARD = "broken-shard"
PARTIAL_FILE = "partial-file"
UNKNOWN_FILE = "file-not-in-manifest"

Progress = Callable[[int, int], None]
"""Called with how much is done and the total; 0 if unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An error in a sample, or in a file (then `field` is empty)."""

    sample: str
    field: str
    message: str
    reason: str


@dataclass(slots=True)
class Report:
    """The result of a validation.

    Attributes:
        samples: Number of samples checked.
        faults: Errors, in the order of the samples.
    """

    samples: int = 0
    faults: list[Fault] = field(default_factory=list)

    @property
    def reasons(self) -> dict[str, int]:
        """Number of faults by reason, most frequent first."""
        return dict(Counter(fault.reason for fault in self.faults).most_common())

    def write(self, path: Path) -> None:
        """Writes everything as JSON. Raises DataError if the disk is full."""
        faults = [
            {"sample": each.sample, "field": each.field, "reason": each.reason, "message": each.message}
            for each in self.faults
        ]
        values = {"samples": self.samples, "faults": len(faults), "reasons": self.reasons, "list": faults}
        with written_aside(path) as partial:
            partial.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def validate(
    path: Path,
    *,
    media_root: Path | None = None,
    limits: Limits | None = None,
    unit_vocabulary: int | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Validates a folder of shards or a published JSON file completely.

    Args:
        path: A folder with `manifest.json`, or a file in the published layout.
        media_root: Folder of a published file's media; None for the file's own folder.
        limits: Limits of media.
        unit_vocabulary: Number of units; without it, units are only checked not to be negative.
        workers: Number of processes.
        progress: Called with progress.

    Raises:
        DataError: the path is missing, its manifest cannot be read, or the file is not JSON.
    """
    show = progress or (lambda done, total: None)
    limits = limits or Limits()
    if path.is_dir():
        return _validate_shards(path, limits, unit_vocabulary, workers, show)
    return _validate_published(path, media_root or path.parent, limits, unit_vocabulary, workers, show)


_RECORDS = 32  # of a published file, per work item


def _validate_published(
    path: Path, media_root: Path, limits: Limits, vocabulary: int | None, workers: int, show: Progress
) -> Report:
    if not media_root.is_dir():
        raise DataError(media_root, "is not a folder: name the folder of media with --media-root")
    work = partial(_check_records, media_root=media_root, limits=limits, vocabulary=vocabulary)
    report = Report()
    for samples, faults in in_order(work, _batches(enumerate(read_records(path))), workers):
        report.samples += samples
        report.faults += faults
        show(report.samples, 0)
    if not report.samples:
        raise DataError(path, "contains no sample")
    return report


def _batches(records: Iterable[tuple[int, Any]]) -> Iterator[list[tuple[int, Any]]]:
    batch: list[tuple[int, Any]] = []
    for record in records:
        batch.append(record)
        if len(batch) == _RECORDS:
            yield batch
            batch = []
    if batch:
        yield batch


def _check_records(
    records: list[tuple[int, Any]], media_root: Path, limits: Limits, vocabulary: int | None
) -> tuple[int, list[Fault]]:
    faults = []
    for number, record in records:
        try:
            conversation = to_conversation(number, record, media_root, limits)
            if vocabulary is not None:
                check_units(conversation, vocabulary)
        except SampleError as error:
            faults.append(_fault(error))
    return len(records), faults


def _validate_shards(folder: Path, limits: Limits, vocabulary: int | None, workers: int, show: Progress) -> Report:
    manifest = read_manifest(folder, check_files=False)
    report = Report(faults=list(_stray_files(folder, {shard.file for shard in manifest.shards})))
    seen: set[str] = set()
    work = partial(_check_shard, folder=folder, limits=limits, vocabulary=vocabulary)
    for done, (shard, ids, faults) in enumerate(in_order(work, manifest.shards, workers), start=1):
        report.samples += len(ids)
        report.faults += faults
        for name in ids:
            if name in seen:
                message = f"occurs again, in {shard}"
                report.faults.append(Fault(sample=name, field="id", message=message, reason=Reason.SAME_ID))
            seen.add(name)
        show(done, len(manifest.shards))
    return report


def _stray_files(folder: Path, known: set[str]) -> Iterator[Fault]:
    """Files among the shards that are not in the manifest: left by a killed run, or put there by hand."""
    for path in sorted((folder / "shards").glob("*")):
        file = f"shards/{path.name}"
        if file in known:
            continue
        reason = PARTIAL_FILE if ".partial" in path.name else UNKNOWN_FILE
        yield Fault(sample=file, field="", message=f"is not in {MANIFEST}: delete it", reason=reason)


def _check_shard(
    shard: ShardEntry, folder: Path, limits: Limits, vocabulary: int | None
) -> tuple[str, list[str], list[Fault]]:
    """The shard's file, the ids of its samples, and its faults; a broken shard is one fault."""
    path = folder / shard.file
    ids: list[str] = []
    faults: list[Fault] = []
    try:
        verify_shard(folder, shard)
    except DataError as error:
        faults.append(Fault(sample=shard.file, field="", message=error.message, reason=BROKEN_SHARD))
    try:
        with open_shard(path) as file:
            for group in range(file.num_row_groups):
                for conversation in read_group(file, path, group):
                    ids.append(conversation.id)
                    try:
                        check(conversation)
                        check_media(conversation, limits)
                        if vocabulary is not None:
                            check_units(conversation, vocabulary)
                    except SampleError as error:
                        faults.append(_fault(error))
    except DataError as error:
        if not faults or faults[0].reason != BROKEN_SHARD:
            faults.append(Fault(sample=shard.file, field="", message=error.message, reason=BROKEN_SHARD))
    return shard.file, ids, faults


def _fault(error: SampleError) -> Fault:
    return Fault(sample=error.sample, field=error.part, message=error.detail, reason=error.reason)
