"""Speech projector: Whisper frames to language-model tokens (Lyra, section 3.2).

Shapes: B batch, T encoder frames, N speech tokens (T // group), D encoder width, E language-model width.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class SpeechProjector(nn.Module):
    """Joins `group` neighbouring frames and maps them to one speech token.

    Frames that do not fill a group are dropped, as in the published checkpoints.
    """

    @dataclass(kw_only=True, frozen=True, slots=True)
    class Config:
        encoder_width: int
        model_width: int
        group: int = 5
        hidden_width: int = 2048

        def build(self) -> "SpeechProjector":
            return SpeechProjector(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.group = config.group
        self.linear1 = nn.Linear(config.encoder_width * config.group, config.hidden_width)
        self.linear2 = nn.Linear(config.hidden_width, config.model_width)

    def forward(self, frames_BTD: Tensor) -> Tensor:
        """[B, T, D] floats -> [B, N, E]."""
        whole = frames_BTD.shape[1] // self.group * self.group
        groups = rearrange(frames_BTD[:, :whole], "b (n g) d -> b n (g d)", g=self.group)
        tokens_BNE: Tensor = self.linear2(F.relu(self.linear1(groups)))
        return tokens_BNE
