"""Multi-modality LoRA (Lyra, section 3.3): low-rank updates that are switched by name, row by row of a batch.

Any number of adapters stays resident; the base's weights never change, so that without an adapter the base computes
exactly what it computes alone. For a long prompt a layer multiplies by the sum of weight and update, and forgets it.
On disk an adapter is a PEFT folder: see `checkpoints/adapters.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

_MANY = 512  # positions

# Which adapter is on: one for the whole batch, or one a row; None for the base alone.
Adapter = str | None | Sequence[str | None]
# The same, resolved: each adapter with the rows it is on for; None for all of them.
AdapterRows = tuple[tuple[str, Tensor | None], ...]


@dataclass(kw_only=True, frozen=True, slots=True)
class LoraConfig:
    """Rank and scale of an adapter, as PEFT names them; `alpha / rank` scales the update."""

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
    """The update `x A^T B^T alpha / rank`; B starts at zero, so that a new adapter changes nothing."""

    def __init__(self, in_width: int, out_width: int, config: LoraConfig) -> None:
        super().__init__()
        self.scale = config.alpha / config.rank
        self.dropout = config.dropout
        self.lora_A = nn.Linear(in_width, config.rank, bias=False)
        self.lora_B = nn.Linear(config.rank, out_width, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(x, self.dropout, self.training) if self.dropout else x
        update: Tensor = self.lora_B(self.lora_A(x)) * self.scale
        return update

    def added_to(self, weight: Tensor) -> Tensor:
        """[out, in] -> [out, in]: what multiplies by `weight` and updates in one."""
        return torch.addmm(weight, self.lora_B.weight, self.lora_A.weight, alpha=self.scale)


class AdaptedLinear(nn.Linear):
    """A linear layer to which named low-rank updates can be added."""

    def __init__(self, in_width: int, out_width: int, bias: bool) -> None:
        super().__init__(in_width, out_width, bias)
        self.adapters = nn.ModuleDict()

    def add_adapter(self, name: str, config: LoraConfig) -> None:
        self.adapters[name] = LowRank(self.in_features, self.out_features, config)

    def forward(self, x: Tensor, adapters: AdapterRows = ()) -> Tensor:
        """[B, ..., in] -> [B, ..., out]; rows that no adapter is on for are the base's to the bit."""
        if update := self._for_all(x, adapters):
            return F.linear(x, update.added_to(self.weight), self.bias)
        y = F.linear(x, self.weight, self.bias)
        for name, rows in adapters:
            if name not in self.adapters:
                continue
            if rows is None:
                y = y + self.adapters[name](x).to(y.dtype)
            else:
                y = y.index_add(0, rows, self.adapters[name](x[rows]).to(y.dtype))
        return y

    def _for_all(self, x: Tensor, adapters: AdapterRows) -> LowRank | None:
        """The update that is on for all of so many positions that its sum with the weight costs less than to multiply
        by both; None where that is not so. A sum in fewer bits than float32 would round the update away."""
        if torch.is_grad_enabled() or self.weight.dtype != torch.float32 or x.numel() < _MANY * self.in_features:
            return None
        on = [(name, rows) for name, rows in adapters if name in self.adapters]
        if len(on) != 1 or on[0][1] is not None:
            return None
        return cast(LowRank, self.adapters[on[0][0]])


def rows_of(adapter: Adapter, device: torch.device) -> AdapterRows:
    """Resolves a choice of adapters for the rows of a batch."""
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
