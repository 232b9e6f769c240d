"""Training data of a stage: samples of several data sets, mixed by weight, in batches of similar length."""

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

# Batches per pool in which samples are sorted by length.
_POOL = 16


class StageDataset(Dataset[Example]):
    """The usable samples of all sources, concatenated.

    Args:
        sources: Data sets.
        encoders: Compute the features of media.
        maker: Turns samples into examples.
        cached: Keep features beside the data, where `prepare` computes them; otherwise they are computed whenever a
            sample is read.

    Attributes:
        samples: Without their media.
        lengths: Approximate length of each, in positions.
        left_out: Number of samples left out, by reason.

    Raises:
        InvalidInput: a folder is not a data set.
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
        """Number of usable samples and weight of each source."""
        counts = Counter(source for source, _ in self._places)
        return [(counts[number], weight) for number, weight in enumerate(self._weights)]

    @property
    def prepared(self) -> bool:
        """Whether all features to be cached exist."""
        return all(features.complete for features in self._features)

    def prepare(self, progress: Callable[[int, int], None] | None = None, rank: int = 0, world: int = 1) -> None:
        """Computes the features to be cached.

        Args:
            progress: Called with the number of samples done and in total.
            rank: Rank of this process; each computes its share.
            world: Number of processes.

        Raises:
            InvalidInput: a media file cannot be decoded.
        """
        for features in self._features:
            features.fill(progress, rank, world)

    def leave_out(self, reject_reason: Callable[[LightSample, int], str | None]) -> None:
        """Leaves out unusable samples and counts them by reason.

        Args:
            reject_reason: Given a sample and its approximate length, returns why it cannot be used; None if it can.

        Raises:
            InvalidInput: no sample is left.
        """
        kept = []
        for index, (sample, length) in enumerate(zip(self.samples, self.lengths, strict=True)):
            if reason := reject_reason(sample, length):
                self.left_out[reason] += 1
            else:
                kept.append(index)
        if not kept:
            raise InvalidInput("data", f"no usable sample is left: {dict(self.left_out) or 'the data is empty'}")
        self.samples = [self.samples[index] for index in kept]
        self.lengths = [self.lengths[index] for index in kept]
        self._places = [self._places[index] for index in kept]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Example:
        source, row = self._places[index]
        return self.maker(self.samples[index], self._features[source][row])


class _Uncached:
    """Features computed on every read."""

    complete = True

    def __init__(self, dataset: ConversationDataset, encoders: Encoders) -> None:
        self.dataset = dataset
        self.encoders = encoders

    def fill(self, progress: Callable[[int, int], None] | None, rank: int, world: int) -> None:
        """Nothing is cached."""

    def __getitem__(self, index: int) -> Features:
        return self.encoders.features(self.dataset[index])


class MixtureSampler(Sampler[int]):
    """Indices of an epoch: each source as often as its weight says, in batches of similar length.

    Consecutive `batch` indices form a batch of samples of similar length, to reduce padding; the batches are shuffled.
    The last batch is filled up with the epoch's first samples. The order depends only on the seed and the epoch, so a
    resumed run sees the same order.

    Args:
        lengths: Length of every sample.
        shares: Number of samples and weight of each source.
        batch: Samples per optimiser step, over all processes.
        seed: Seed of the order.
    """

    def __init__(self, lengths: Sequence[int], shares: Sequence[tuple[int, float]], batch: int, seed: int) -> None:
        self.lengths = lengths
        self.shares = shares
        self.batch = batch
        self.seed = seed
        self.epoch = 0
        if not len(self):
            raise InvalidInput("weight", f"is so small that an epoch has no sample: {shares} (samples, weight)")

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which determines the order."""
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
        """Continues through an endless sequence of permutations of a source, where the previous epochs left off."""
        wanted = round(count * weight)
        start = self.epoch * wanted
        found: list[int] = []
        while len(found) < wanted:
            number, offset = divmod(start + len(found), count)
            generator = torch.Generator().manual_seed(self.seed * 7919 + number)
            found += torch.randperm(count, generator=generator)[offset:].tolist()
        return found[:wanted]
