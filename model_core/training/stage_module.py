"""What the Trainer trains: a module whose loss is a weighted sum of parts, each a mean over something countable.

A batch is shared out to processes, and each takes its share some samples at a time. The mean over the batch is not the
mean of the means over such shares: one has more answer tokens than another. The counts make the gradient that of the
whole batch, however it is shared out.

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
        part_weights: Names of the parts that there may be, with what each is multiplied by in the loss.
    """

    part_weights: Mapping[str, float]

    @abstractmethod
    def counts(self, batch: Batch) -> Mapping[str, int | Tensor]:
        """Over how many things each part of the loss of a batch is a mean: the parts not named have none."""

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
