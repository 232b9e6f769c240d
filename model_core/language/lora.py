"""Multi-modality LoRA (Lyra, section 3.3): low-rank updates that are switched by name, row by row of a batch.

Any number of adapters can be resident. The base weights never change, so that rows without an adapter get exactly what
the base model computes. On disk an adapter is a PEFT folder: see `checkpoints/peft_adapters.py`.

Shapes: B batch; `in` and `out` are the widths of the layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# From this many positions on, one product with the sum of weight and update is cheaper than two products.
_MERGE_POSITIONS = 512

# The adapter in use: one for the whole batch, or one for each row; None for the base model.
Adapter = str | None | Sequence[str | None]
# The same, resolved: each adapter with the indices of its rows; None for all of them.
AdapterRows = tuple[tuple[str, Tensor | None], ...]


@dataclass(kw_only=True, frozen=True, slots=True)
class LoraConfig:
    """Rank and scale of an adapter, in PEFT's terms; `alpha / rank` scales the update."""

    rank: int
    alpha: float
    dropout: float = 0.0


@dataclass(frozen=True, slots=True)
class LoraWeights:
    """A trained adapter in memory.

    Attributes:
        config: Rank and scale.
        projections: Those of every layer that it adapts, of `PROJECTIONS`.
        tensors: By path in the decoder: `layers.0.self_attn.q_proj.lora_A.weight`, [rank, in], and `...lora_B.weight`,
            [out, rank].
    """

    config: LoraConfig
    projections: tuple[str, ...]
    tensors: Mapping[str, Tensor]


class LowRank(nn.Module):
    """The update `x A^T B^T alpha / rank`; B is initialised to zero, so that a new adapter changes nothing."""

    def __init__(self, in_width: int, out_width: int, config: LoraConfig) -> None:
        super().__init__()
        self.scale = config.alpha / config.rank
        self.dropout = config.dropout
        self.lora_A = nn.Linear(in_width, config.rank, bias=False)
        self.lora_B = nn.Linear(config.rank, out_width, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]"""
        x = F.dropout(x, self.dropout, self.training) if self.dropout else x
        update: Tensor = self.lora_B(self.lora_A(x)) * self.scale
        return update

    def merged_with(self, weight: Tensor) -> Tensor:
        """[out, in] -> [out, in]: sum of a weight and this update."""
        return torch.addmm(weight, self.lora_B.weight, self.lora_A.weight, alpha=self.scale)


class AdaptedLinear(nn.Linear):
    """A linear layer to which named low-rank updates can be added."""

    def __init__(self, in_width: int, out_width: int, bias: bool) -> None:
        super().__init__(in_width, out_width, bias)
        self.adapters = nn.ModuleDict()

    def add_adapter(self, name: str, config: LoraConfig) -> None:
        """Adds an adapter that changes nothing yet."""
        self.adapters[name] = LowRank(self.in_features, self.out_features, config)

    def forward(self, x: Tensor, adapters: AdapterRows = ()) -> Tensor:
        """[B, ..., in] -> [B, ..., out]; rows without an adapter are bit-identical to the base model's."""
        if update := self._mergeable(x, adapters):
            return F.linear(x, update.merged_with(self.weight), self.bias)
        y = F.linear(x, self.weight, self.bias)
        for name, rows in adapters:
            if name not in self.adapters:
                continue
            if rows is None:
                y = y + self.adapters[name](x).to(y.dtype)
            else:
                y = y.index_add(0, rows, self.adapters[name](x[rows]).to(y.dtype))
        return y

    def _mergeable(self, x: Tensor, adapters: AdapterRows) -> LowRank | None:
        """The one update in use for all rows, if `x` is long enough for merging to be cheaper; else None.

        Only in float32: fewer bits would round the update away.
        """
        positions = x.numel() // self.in_features
        if torch.is_grad_enabled() or self.weight.dtype != torch.float32 or positions < _MERGE_POSITIONS:
            return None
        used = [(name, rows) for name, rows in adapters if name in self.adapters]
        if len(used) != 1 or used[0][1] is not None:
            return None
        return cast(LowRank, self.adapters[used[0][0]])


def rows_of(adapter: Adapter, device: torch.device) -> AdapterRows:
    """Resolves the choice of adapters to the rows of each."""
    if adapter is None:
        return ()
    if isinstance(adapter, str):
        return ((adapter, None),)
    names = sorted({name for name in adapter if name is not None})
    if len(names) == 1 and None not in adapter:
        return ((names[0], None),)
    return tuple(
        (name, torch.tensor([row for row, chosen in enumerate(adapter) if chosen == name], device=device))
        for name in names
    )
