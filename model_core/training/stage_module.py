"""Base class of the modules to train: the loss is a weighted sum of parts, each a mean over something countable.

A batch is split among processes and accumulation steps. The mean over the batch is not the mean of the splits' means,
since one has more answer tokens than another. With the counts, the gradient is that of the whole batch, however it is
split.

Shapes: P parts of the loss.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model_core.training.examples import Batch


class StageModule(nn.Module, ABC):
    """One stage's module; its forward takes a batch and returns `loss` and the parts of it.

    Attributes:
        part_weights: Weights in the loss of all possible parts, by name.
    """

    part_weights: Mapping[str, float]

    @abstractmethod
    def counts(self, batch: Batch) -> Mapping[str, int | Tensor]:
        """The number of things that each part of a batch's loss is a mean over; parts not named have none."""

    def totals(self, batch: Batch) -> Tensor:
        """`counts` as [P] float32, in the order of `part_weights`, on the batch's device."""
        device = next(iter(batch.values())).device
        counts = self.counts(batch)
        return torch.stack(
            [torch.as_tensor(counts.get(name, 0), dtype=torch.float32, device=device) for name in self.part_weights]
        )

    def weighted(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The loss: the sum of its parts times their weights."""
        return torch.stack([self.part_weights[name] * value for name, value in parts.items()]).sum()
