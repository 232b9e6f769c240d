"""Reads a data folder: random access to samples, or a shuffled stream in bounded memory."""

import random
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from model_core.data.conversation import Conversation
from model_core.data.data_errors import DataError
from model_core.data.rows import LightSample
from model_core.data.shards import Manifest, open_shard, read_group, read_light_group, read_manifest

_KEPT_GROUPS = 4
_FRAMES_PER_SECOND = 50  # of Whisper's encoder
_CHARACTERS_PER_TOKEN = 4.0
_TOKENS_PER_TURN = 5  # of the chat template


class ConversationDataset:
    """The samples of a folder by index, in shard order; a few row groups are cached in memory.

    Args:
        folder: With `manifest.json`.

    Raises:
        DataError: the folder is incomplete.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self._groups = _groups(self.manifest)
        self._ends = list(accumulate(group.samples for group in self._groups))
        self._kept: OrderedDict[int, list[Conversation]] = OrderedDict()

    def __len__(self) -> int:
        return self.manifest.samples

    def __getitem__(self, index: int) -> Conversation:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        group = bisect_right(self._ends, index)
        return self._read(group)[index - self._ends[group]]

    def __iter__(self) -> Iterator[Conversation]:
        for group in range(len(self._groups)):
            yield from self._read(group)

    def light(self) -> list[LightSample]:
        """All samples without reading their media. Raises DataError."""
        samples = []
        for shard in self.manifest.shards:
            path = self.folder / shard.file
            with open_shard(path) as file:
                for group in range(file.num_row_groups):
                    samples += read_light_group(file, path, group)
        return samples

    def rough_lengths(self, group: int, *, image_tokens: int = 49) -> list[int]:
        """Approximate number of tokens of each sample, to batch samples of similar length.

        Args:
            group: Encoder frames per speech token.
            image_tokens: Vision tokens per image.
        """
        return [_rough_length(sample, group, image_tokens) for sample in self.light()]

    def _read(self, group: int) -> list[Conversation]:
        if group in self._kept:
            self._kept.move_to_end(group)
        else:
            self._kept[group] = _read_groups(self.folder, [self._groups[group]])
            if len(self._kept) > _KEPT_GROUPS:
                self._kept.popitem(last=False)
        return self._kept[group]


def stream(
    folder: Path, *, seed: int, shuffle_buffer: int, rank: int = 0, world: int = 1, epoch: int = 0, skip: int = 0
) -> Iterator[Conversation]:
    """One epoch of a folder's samples, shuffled, in memory for `shuffle_buffer` samples and one row group.

    The row groups of all shards are shuffled and divided among the ranks in equal stretches; each rank reads a few of
    its groups at a time and shuffles their samples together. The order depends only on the arguments.

    Args:
        folder: With `manifest.json`.
        seed: Seed of the order.
        shuffle_buffer: Samples that are shuffled together; 0 does not shuffle.
        rank: Rank of this process.
        world: Number of processes. All get equally many samples: up to `world - 1` per epoch are left out, different
            ones in each epoch.
        epoch: Number of the epoch; each has its own order.
        skip: Number of this rank's samples to skip without reading them.

    Raises:
        DataError: the folder is incomplete.
        ValueError: rank or skip is out of range.
    """
    if not 0 <= rank < world or skip < 0:
        raise ValueError(f"rank {rank} of {world}, skip {skip}: rank must be from 0 to {world - 1}, skip at least 0")
    groups = _groups(read_manifest(folder))
    order = random.Random(f"{seed}:{epoch}")
    if shuffle_buffer:
        order.shuffle(groups)
    share = sum(group.samples for group in groups) // world
    mine = _stretch(groups, share * rank, share * (rank + 1))
    shuffle = random.Random(f"{seed}:{epoch}:{rank}:{world}")
    for window in _windows(mine, shuffle_buffer):
        numbers = list(range(sum(group.samples for group in window)))
        if shuffle_buffer:
            shuffle.shuffle(numbers)
        if skip >= len(numbers):
            skip -= len(numbers)
            continue
        samples = _read_groups(folder, window)
        for number in numbers[skip:]:
            yield samples[number]
        skip = 0


@dataclass(frozen=True, slots=True)
class _Group:
    """Samples `first` to `first + samples` of a row group of a shard."""

    file: str
    number: int
    first: int
    samples: int


def _groups(manifest: Manifest) -> list[_Group]:
    return [
        _Group(shard.file, number, 0, samples)
        for shard in manifest.shards
        for number, samples in enumerate(shard.groups)
    ]


def _stretch(groups: list[_Group], start: int, end: int) -> list[_Group]:
    """Samples `start` to `end` of all groups, as groups truncated at both ends."""
    cut = []
    at = 0
    for group in groups:
        first, last = max(start - at, 0), min(end - at, group.samples)
        if first < last:
            cut.append(_Group(group.file, group.number, group.first + first, last - first))
        at += group.samples
    return cut


def _windows(groups: list[_Group], samples: int) -> Iterator[list[_Group]]:
    """Consecutive groups with at least `samples` samples in total; the last window may have fewer."""
    window: list[_Group] = []
    for group in groups:
        window.append(group)
        if sum(each.samples for each in window) >= samples:
            yield window
            window = []
    if window:
        yield window


def _read_groups(folder: Path, groups: list[_Group]) -> list[Conversation]:
    samples = []
    for group in groups:
        path = folder / group.file
        with open_shard(path) as file:
            if group.number >= file.num_row_groups:
                raise DataError(path, "has fewer row groups than in the manifest: build the data again")
            samples += read_group(file, path, group.number)[group.first : group.first + group.samples]
    return samples


def _rough_length(sample: LightSample, group: int, image_tokens: int) -> int:
    text = sum(len(turn.text) / _CHARACTERS_PER_TOKEN + _TOKENS_PER_TURN for turn in sample.turns)
    speech = sum(sample.seconds) * _FRAMES_PER_SECOND / group
    return round(text + speech) + image_tokens * (sample.images + sample.videos)
