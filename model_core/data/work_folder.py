"""A folder for resumable work: locked by one run at a time, and reused only by runs with the same spec."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model_core.data.data_errors import DataError, disk_failures
from model_core.data.files import written_aside
from model_core.data.shards import MANIFEST, ShardEntry, read_shard_entry, shard_path

WORK = "work"


@contextmanager
def work_alone(folder: Path) -> Iterator[Path]:
    """Creates `folder` and `folder/work`, locks them against other processes, and yields `folder/work`.

    Raises:
        DataError: the folder contains something else, another process is working in it, or the disk is full.
    """
    known = (folder / MANIFEST).is_file() or (folder / WORK).is_dir()
    if folder.exists() and not known and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(folder, "is not empty and not a data set: name a new folder")
    with disk_failures(folder):
        (folder / WORK).mkdir(parents=True, exist_ok=True)
        lock = (folder / WORK / "lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(folder, "another process is working in it: wait for it, or stop it") from error
        yield folder / WORK


def record_spec(folder: Path, spec: dict[str, Any]) -> None:
    """Records the spec, or compares it with the recorded one. Raises DataError if they differ."""
    path = folder / WORK / "spec.json"
    if path.is_file():
        check_same_spec(folder, json.loads(path.read_text(encoding="utf-8")), spec)
        return
    with written_aside(path) as partial:
        partial.write_text(json.dumps(spec, indent=2, ensure_ascii=False), encoding="utf-8")


def check_same_spec(folder: Path, begun: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raises DataError, naming what differs between two specs."""
    differing = [
        f"{key} was {json.dumps(begun.get(key))} and is now {json.dumps(asked.get(key))}"
        for key in sorted(begun.keys() | asked.keys())
        if begun.get(key) != asked.get(key)
    ]
    if differing:
        what = "; ".join(differing)
        raise DataError(folder, f"was started with other options ({what}): name another folder, or use the same ones")


def finished_shard(folder: Path, number: int) -> ShardEntry | None:
    """The entry of a shard written by an earlier run; a broken one is deleted."""
    path = shard_path(folder, number)
    try:
        return read_shard_entry(path) if path.exists() else None
    except DataError:
        path.unlink()
        return None
