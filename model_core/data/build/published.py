"""Random access to a published JSON file of any size, by an index of lines that is built once."""

import json
from collections import Counter
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from model_core.checkpoints.packages import file_sha256
from model_core.data.build.sources import Made
from model_core.data.build.work import Dropped
from model_core.data.data_errors import SampleError
from model_core.data.files import written_aside
from model_core.data.media import Limits
from model_core.data.published_json import name_of, read_records, to_conversation


class PublishedRecords:
    """The records of a published JSON file.

    Args:
        path: The file.
        media_root: Folder that paths in it are relative to; no file outside of it is read.
        scratch: Folder of the index.

    Raises:
        DataError: the file is not a JSON list of records.
    """

    def __init__(self, path: Path, media_root: Path, scratch: Path) -> None:
        self.sha256 = file_sha256(path)
        self._media_root = media_root
        self._lines = scratch / f"records-{self.sha256[:16]}.jsonl"
        self._places = self._lines.with_suffix(".npy")
        if not self._places.is_file():
            self._index(path)
        self._starts = np.load(self._places, mmap_mode="r")
        self.count = len(self._starts) - 1

    def read(self, index: int, source: str) -> Made:
        """A record with its media; indices beyond the last record start over, with other ids."""
        number, times = index % self.count, index // self.count
        start, end = (int(offset) for offset in self._starts[number : number + 2])
        self._file.seek(start)
        record = json.loads(self._file.read(end - start))
        try:
            conversation = to_conversation(number, record, self._media_root, Limits())
        except SampleError as error:
            return Dropped.of(error)
        name = f"{conversation.id}-{times}" if times else conversation.id
        return replace(conversation, id=name, source=conversation.source or source)

    @cached_property
    def _file(self):  # type: ignore[no-untyped-def]
        return self._lines.open("rb")

    def _index(self, path: Path) -> None:
        starts = [0]
        names: Counter[str] = Counter()
        with written_aside(self._lines) as partial, partial.open("wb") as lines:
            for number, record in enumerate(read_records(path)):
                name = name_of(number, record)
                names[name] += 1
                if names[name] > 1 and isinstance(record, dict):  # questions about one picture share its id
                    record["id"] = f"{name}#{number}"
                starts.append(starts[-1] + lines.write(json.dumps(record, ensure_ascii=False).encode() + b"\n"))
        with written_aside(self._places) as partial, partial.open("wb") as file:
            np.save(file, np.array(starts, np.int64))
