"""Multi-modality LoRA (Lyra, section 3.3): low-rank updates that are switched by name, call by call.

Any number of adapters stays resident; none is ever merged into the base, so that without an adapter the base
computes exactly what it computes alone. On disk an adapter is a PEFT folder: see `checkpoints/adapters.py`.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(kw_only=True, frozen=True, slots=True)
class LoraConfig:
    """Rank and scale of an adapter, as PEFT names them; `alpha / rank` scales the update."""

    rank: int
    alpha: float
    dropout: float = 0.0


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


class AdaptedLinear(nn.Linear):
    """A linear layer to which named low-rank updates can be added."""

    def __init__(self, in_width: int, out_width: int, bias: bool) -> None:
        super().__init__(in_width, out_width, bias)
        self.adapters = nn.ModuleDict()

    def add_adapter(self, name: str, config: LoraConfig) -> None:
        self.adapters[name] = LowRank(self.in_features, self.out_features, config)

    def forward(self, x: Tensor, adapter: str | None = None) -> Tensor:
        """[..., in] -> [..., out]; `adapter` names the update that is on, None for the base alone."""
        y = F.linear(x, self.weight, self.bias)
        if adapter is not None and adapter in self.adapters:
            y = y + self.adapters[adapter](x).to(y.dtype)
        return y
