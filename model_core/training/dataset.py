"""What a stage trains on: samples of several data sets, mixed by weight, in batches of like length."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, cycle, islice

import torch
from more_itertools import chunked
from torch.utils.data import Dataset, Sampler

from model_core.data.dataset import ConversationDataset
from model_core.data.rows import LightSample
from model_core.errors import InvalidInput
from model_core.training.examples import Example, ExampleMaker
from model_core.training.features import Encoders, FeatureCache, Features
from model_core.training.options import Source

# Batches whose samples are sorted by length together.
_POOL = 16


class StageDataset(Dataset[Example]):
    """The samples of all sources that a stage can learn from, one after the other.

    Args:
        sources: Data sets.
        encoders: Make the features of media.
        maker: Lays samples out.
        cached: Features are kept beside the data, where `prepare` computes them; otherwise they are computed each time
            a sample is read.

    Attributes:
        samples: Without their media.
        lengths: About how many positions each takes.
        left_out: Samples left out, by reason.

    Raises:
        InvalidInput: a folder is no data set.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        encoders: Encoders,
        maker: ExampleMaker,
        *,
        cached: bool = True,
    ) -> None:
        self.maker = maker
        self.samples: list[LightSample] = []
        self.lengths: list[int] = []
        self.left_out: Counter[str] = Counter()
        self._features: list[FeatureCache | _Uncached] = []
        self._places: list[tuple[int, int]] = []
        for number, source in enumerate(sources):
            dataset = ConversationDataset(source.folder)
            self._features.append(FeatureCache(dataset, encoders) if cached else _Uncached(dataset, encoders))
            self.samples += dataset.light()
            self.lengths += dataset.rough_lengths(maker.group)
            self._places += [(number, row) for row in range(len(dataset))]
        self._weights = [source.weight for source in sources]

    @property
    def shares(self) -> list[tuple[int, float]]:
        """For each source how many of its samples are left, and its weight."""
        counts = Counter(source for source, _ in self._places)
        return [(counts[number], weight) for number, weight in enumerate(self._weights)]

    @property
    def prepared(self) -> bool:
        """Whether all features that are to be cached are there."""
        return all(features.complete for features in self._features)

    def prepare(self, progress: Callable[[int, int], None] | None = None, rank: int = 0, world: int = 1) -> None:
        """Computes the features that are to be cached.

        Args:
            progress: Called with samples done and samples in all.
            rank: Which of `world` processes this is: each computes its share.
            world: How many processes do this.

        Raises:
            InvalidInput: a medium does not decode.
        """
        for features in self._features:
            features.fill(progress, rank, world)

    def leave_out(self, keep: Callable[[LightSample, int], str | None]) -> None:
        """Leaves samples out, and counts them.

        Args:
            keep: Given a sample and its rough length, says why it cannot be learned from; None where it can.

        Raises:
            InvalidInput: nothing is left.
        """
        kept = []
        for index, (sample, length) in enumerate(zip(self.samples, self.lengths, strict=True)):
            if reason := keep(sample, length):
                self.left_out[reason] += 1
            else:
                kept.append(index)
        if not kept:
            raise InvalidInput("data", f"no sample to learn from is left: {dict(self.left_out) or 'there is none'}")
        self.samples = [self.samples[index] for index in kept]
        self.lengths = [self.lengths[index] for index in kept]
        self._places = [self._places[index] for index in kept]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Example:
        source, row = self._places[index]
        return self.maker(self.samples[index], self._features[source][row])


class _Uncached:
    """Features that are computed each time."""

    complete = True

    def __init__(self, dataset: ConversationDataset, encoders: Encoders) -> None:
        self.dataset = dataset
        self.encoders = encoders

    def fill(self, progress: Callable[[int, int], None] | None, rank: int, world: int) -> None:
        """There is nothing to keep."""

    def __getitem__(self, index: int) -> Features:
        return self.encoders.features(self.dataset[index])


class MixtureSampler(Sampler[int]):
    """Indices of an epoch: each source as often as its weight says, samples of like length side by side.

    Consecutive `batch` indices make a batch of like length, so that little is computed on padding; the batches are
    shuffled. The last one is filled up with the epoch's first samples, so that all are whole. Everything depends on the
    seed and the epoch alone, so that a resumed run sees the same order.

    Args:
        lengths: Of every sample.
        shares: For each source how many samples it has, and its weight.
        batch: Samples of an optimiser step of all processes.
        seed: Of the order.
    """

    def __init__(self, lengths: Sequence[int], shares: Sequence[tuple[int, float]], batch: int, seed: int) -> None:
        self.lengths = lengths
        self.shares = shares
        self.batch = batch
        self.seed = seed
        self.epoch = 0
        if not len(self):
            raise InvalidInput("weight", f"so small a one leaves no sample in an epoch: {shares} (samples, weight)")

    def set_epoch(self, epoch: int) -> None:
        """Another epoch has another order."""
        self.epoch = epoch

    def __len__(self) -> int:
        chosen = sum(round(count * weight) for count, weight in self.shares)
        return -(-chosen // self.batch) * self.batch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        starts = [0, *accumulate(count for count, _ in self.shares)]
        chosen = [
            start + index
            for start, (count, weight) in zip(starts, self.shares, strict=False)
            for index in self._of_source(count, weight)
        ]
        order = [chosen[row] for row in torch.randperm(len(chosen), generator=generator).tolist()]
        pools = [order[at : at + _POOL * self.batch] for at in range(0, len(order), _POOL * self.batch)]
        sorted_order = [index for pool in pools for index in sorted(pool, key=self.lengths.__getitem__)]
        filled = list(islice(cycle(sorted_order), len(self)))
        batches = list(chunked(filled, self.batch))
        for row in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[row]

    def _of_source(self, count: int, weight: float) -> list[int]:
        """Goes on through endless permutations of a source, from where the epochs before left it."""
        wanted = round(count * weight)
        start = self.epoch * wanted
        found: list[int] = []
        while len(found) < wanted:
            number, offset = divmod(start + len(found), count)
            generator = torch.Generator().manual_seed(self.seed * 7919 + number)
            found += torch.randperm(count, generator=generator)[offset:].tolist()
        return found[:wanted]
